"""Calibration of few-shot classifiers, and how well they recognise images of no class.

Random tasks are drawn from each set of images, and `adapt` makes a classifier of each. Measured are accuracy, held-out
accuracy, expected calibration error (15 bins of equal width) with the fitted temperature and with temperature 1, the
share of images of the classes that are called unknown, and, for images of other classes of the same set, of the other
sets, of noise, and of single colours, the area under the ROC curve of the familiarity and the share called unknown.

    python -m benchmarks.calibration --model RUN --data SOURCE --data SOURCE --out JSON [--episodes 60] [--ways 5]
        [--shots 1,5] [--queries 10] [--head logistic]
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from numpy.random import Generator, default_rng
from sklearn.metrics import roc_auc_score
from torch import Tensor

from metazoo.adapt import MetaModel, adapt
from metazoo.data import ImageSet, load_images

BINS, SEED, FOREIGN = 15, 0, 40


def task(
    images: ImageSet, ways: int, shots: int, queries: int, random: Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Support images and queries of `ways` classes, class by class, queries' labels, and images of other classes.

    Where images belong to groups, such as video tracks, support and queries have different groups.
    """
    labels = images.labels.numpy()
    classes = random.permutation(np.unique(labels))
    support, known, truth, other = list[int](), list[int](), list[int](), list[int]()
    for number, label in enumerate(classes[: 2 * ways]):
        rows = random.permutation(np.flatnonzero(labels == label))
        if number >= ways:
            other += rows[:queries].tolist()
            continue
        own = rows[:shots]
        rest = rows[shots:]
        if images.groups is not None:
            groups = images.groups.numpy()
            rest = rest[~np.isin(groups[rest], groups[own])]
        support += own.tolist()
        known += rest[:queries].tolist()
        truth += [number] * len(rest[:queries])
    return images.images[support], images.images[known], torch.tensor(truth), images.images[other]


def calibration_error(probabilities: Tensor, truth: Tensor) -> float:
    """Expected calibration error in percent."""
    confidence, predicted = probabilities.max(1)
    right = (predicted == truth).double()
    bins = (confidence * BINS).long().clamp(max=BINS - 1)
    gaps = [
        (bins == own).double().mean() * (confidence[bins == own].double().mean() - right[bins == own].mean()).abs()
        for own in bins.unique()
    ]
    return 100 * float(torch.stack(gaps).sum())


def measured(model: MetaModel, sets: dict[str, ImageSet], name: str, options: argparse.Namespace, shots: int) -> dict:
    """Figures of one set of images."""
    random = default_rng([SEED, shots])
    fitted, plain, truths, rejected, held = [], [], [], [], []
    areas: dict[str, list[float]] = {}
    found_unknown: dict[str, list[float]] = {}
    for _ in range(options.episodes):
        support, known, truth, other = task(sets[name], options.ways, shots, options.queries, random)
        classifier = adapt(
            model.module, support, torch.arange(options.ways).repeat_interleave(shots), head=options.head
        )
        answer = classifier.predict(known)
        temperature = classifier.description.temperature
        fitted.append(answer.probabilities)
        plain.append((answer.probabilities.clamp(min=1e-12).log() * temperature).softmax(1))
        truths.append(truth)
        rejected.append(float(answer.unknown.float().mean()))
        if classifier.description.held_out is not None:
            held.append(classifier.description.held_out.correct / classifier.description.held_out.images)
        for kind, images in foreign(sets, name, other, support.shape[-1], random).items():
            theirs = classifier.predict(images)
            area = areas_of(answer.familiarity, theirs.familiarity)
            areas.setdefault(kind, []).append(area)
            found_unknown.setdefault(kind, []).append(float(theirs.unknown.float().mean()))
    truth = torch.cat(truths)
    return {
        "data": name,
        "shots": shots,
        "accuracy": 100 * float((torch.cat(fitted).argmax(1) == truth).double().mean()),
        "held_out_accuracy": 100 * float(np.mean(held)) if held else None,
        "calibration_error": calibration_error(torch.cat(fitted), truth),
        "calibration_error_at_temperature_1": calibration_error(torch.cat(plain), truth),
        "known_rejected": 100 * float(np.mean(rejected)),
        "area": {kind: float(np.mean(own)) for kind, own in areas.items()},
        "unknown_rejected": {kind: 100 * float(np.mean(own)) for kind, own in found_unknown.items()},
    }


def areas_of(known: Tensor | None, foreign_ones: Tensor | None) -> float:
    """Area under the ROC curve of the familiarity of known images against foreign ones."""
    assert known is not None
    assert foreign_ones is not None
    labels = [1] * len(known) + [0] * len(foreign_ones)
    return float(roc_auc_score(labels, torch.cat([known, foreign_ones]).numpy()))


def foreign(sets: dict[str, ImageSet], name: str, other: Tensor, side: int, random: Generator) -> dict[str, Tensor]:
    """Images of no class of a task, by kind."""
    drawn = [own.images[random.choice(len(own.images), FOREIGN // 2)] for key, own in sets.items() if key != name]
    noise = torch.from_numpy(random.integers(0, 256, (FOREIGN, 3, side, side), dtype=np.uint8))
    colours = torch.from_numpy(random.integers(0, 256, (FOREIGN - 2, 3, 1, 1), dtype=np.uint8))
    black_and_white = torch.tensor([0, 255], dtype=torch.uint8)[:, None, None, None].expand(2, 3, 1, 1)
    plain = torch.cat([colours, black_and_white]).expand(-1, -1, side, side)
    kinds = {"same set": other, "noise": noise, "plain": plain}
    return kinds | ({"other sets": torch.cat(drawn)} if drawn else {})


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", action="append", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--episodes", type=int, default=60)
    parser.add_argument("--ways", type=int, default=5)
    parser.add_argument("--shots", type=lambda text: [int(part) for part in text.split(",")], default=[1, 5])
    parser.add_argument("--queries", type=int, default=10)
    parser.add_argument("--head", default="logistic")
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder = options.model / "meta-model"
    model = MetaModel.load(folder if folder.is_dir() else options.model)
    sets = {Path(source).stem: load_images(source) for source in options.data}
    rows = []
    for shots in options.shots:
        for name in sets:
            rows.append(measured(model, sets, name, options, shots))
            print(json.dumps(rows[-1]), flush=True)
    options.out.write_text(json.dumps({"head": options.head, "episodes": options.episodes, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
