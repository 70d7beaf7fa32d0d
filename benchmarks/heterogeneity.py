"""Heterogeneity against homogeneity: what two unlike teachers in one meta-step change.

The protocol of the TGR authors (`empirical.py` of their code): two models of five classes each, one meta-step on the
sum of the losses of an episode from each, and the accuracy on unseen classes against the overlap of the class lists. In
their code a smaller overlap also means more classes in all, and a shared class has one label in both models only by
chance. Here:

- *balanced*: sixteen models of ten classes: four class lists and their complements, two models each. Every meta-step
  draws a pair of a given overlap from all pairs of that overlap, so that every condition sees all ten classes and all
  images equally often; only the company in a step differs.
- *fixed*: the first model and one partner for each overlap, as published: the number of classes grows as the overlap
  falls.
- Labels are *aligned* (a shared class has the same label in both tasks of a step) or *shuffled* (drawn for every
  episode).
- *architecture*: partners of another architecture, with the same five classes or the five others.

Measured along the way: accuracy on unseen classes by the protocol of the papers (fine-tuned, batch norm of the queries)
and by the nearest mean, accuracy on episodes of the training images (their difference is the generalisation gap), and
the mean cosine of the two tasks' gradients (conflict). What was done already is not done again.

    python -m benchmarks.heterogeneity --train PACK --validation PACK --out FOLDER [--seeds 0,1,2] [--steps 300]
        [--designs balanced,fixed,architecture] [--workers 1] [--figure FILE]
"""

import argparse
import csv
import itertools
import json
import multiprocessing
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from metazoo.bank import Bank
from metazoo.data import EpisodeList, ImageSet, load_images
from metazoo.evaluate import Subject, evaluate_lists, mean_interval
from metazoo.execution.process_memory import keep_freed_memory
from metazoo.execution.randomness import generator
from metazoo.features.heads import get_head
from metazoo.learn.episode_gradients import EpisodeGradients
from metazoo.learn.learners import EpisodeImages, FunctionalClassifier, Maml
from metazoo.learn.meta_optimiser import MetaOptimiser
from metazoo.models import ClassifierSpec, build_classifier
from metazoo.recover import RecoveryBudget, RecoveryConfig, recover_zoo
from metazoo.zoo import Zoo, build_zoo

LISTS = ((0, 1, 2, 3, 4), (0, 1, 2, 5, 6), (0, 3, 5, 7, 9), (0, 1, 2, 3, 5))
"""With their complements, pairs of these lists share 0 to 5 classes."""
CLASSES, SHOTS, QUERIES, EPISODES, EVERY = 10, 5, 15, 300, 50
PARTNERS = ("conv4", "thin-resnet", "lenet5")


@dataclass(frozen=True)
class Model:
    """One model of the zoo: its classes, among the ten, and its architecture."""

    name: str
    classes: tuple[int, ...]
    architecture: str = "conv4"


@dataclass(frozen=True)
class Condition:
    """Condition of one training run."""

    design: str
    company: str
    overlap: int
    labels: str
    seed: int


def complement(classes: Sequence[int]) -> tuple[int, ...]:
    return tuple(sorted({*range(CLASSES)} - {*classes}))


def build(out: Path, training: ImageSet, workers: int) -> tuple[Zoo, list[Model]]:
    """Train the models and recover their images."""
    names = training.class_names[:CLASSES]
    lists = [given for own in LISTS for given in (own, complement(own))]
    folder, models = out / "zoo", list[Model]()

    def add(architecture: str, given: Sequence[tuple[int, ...]], seed: int) -> None:
        classes = [[names[index] for index in own] for own in given]
        zoo = build_zoo(
            folder, training, architecture, classes=classes, seed=seed, domain=training.name, workers=workers
        )
        made = [contract for contract in zoo if f"-{architecture}-s{seed}-" in contract.name]
        models.extend(Model(c.name, own, architecture) for c, own in zip(made, given, strict=True))

    for seed in (0, 1):
        add("conv4", lists, seed)
    for architecture in PARTNERS[1:]:
        add(architecture, lists[:2], 0)
    zoo = Zoo.open(folder)
    bank = Bank.open_or_create(out / "bank")
    recover_zoo(zoo, bank, RecoveryConfig(), RecoveryBudget(), 0, progress=True)
    return zoo, models


def pairs_of(models: Sequence[Model], condition: Condition) -> list[tuple[Model, Model]]:
    """Pairs of models that a step may draw."""
    conv4 = [model for model in models if model.architecture == "conv4"]
    first = conv4[0]
    if condition.design == "architecture":
        others = [model for model in models if model.architecture == condition.company and model is not first]
        own = [m for m in others if len({*m.classes} & {*first.classes}) == condition.overlap]
        return [(first, own[0])]
    pairs = [
        pair
        for pair in itertools.combinations(conv4, 2)
        if len({*pair[0].classes} & {*pair[1].classes}) == condition.overlap
    ]
    return [next(pair for pair in pairs if first in pair)] if condition.design == "fixed" else pairs


class Images:
    """Recovered images of the models, by model and class among the ten."""

    def __init__(self, bank: Bank, models: Sequence[Model]) -> None:
        self._images: dict[tuple[str, int], Tensor] = {}
        for model in models:
            images, labels = bank.images_of(model.name)
            for position, index in enumerate(model.classes):
                self._images[model.name, index] = images[labels == position]

    def episode(self, model: Model, order: Sequence[int], random: torch.Generator) -> EpisodeImages:
        """Draw an episode of the model's classes, whose labels are the positions in `order`."""
        support, query = [], []
        for index in order:
            own = self._images[model.name, index]
            drawn = own[torch.randperm(len(own), generator=random)[: SHOTS + QUERIES]].float() / 255
            support.append(drawn[:SHOTS])
            query.append(drawn[SHOTS:])
        return EpisodeImages.of_classes(torch.cat(support), torch.cat(query), len(order))


def orders(pair: tuple[Model, Model], labels: str, random: torch.Generator) -> list[list[int]]:
    """Orders of the classes of both models, which are their labels."""
    first, second = (list(model.classes) for model in pair)
    if labels == "shuffled":
        return [[own[i] for i in torch.randperm(len(own), generator=random).tolist()] for own in (first, second)]
    shared = {index: position for position, index in enumerate(first) if index in second}
    rest = iter(index for index in second if index not in shared)
    places = {position: index for index, position in shared.items()}
    return [first, [places[position] if position in places else next(rest) for position in range(len(second))]]


def cosine(first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
    one, other = (torch.cat([part.flatten() for part in parts]) for parts in (first, second))
    return float(torch.nn.functional.cosine_similarity(one, other, dim=0))


def run(
    condition: Condition, models: Sequence[Model], images: Images, validation: ImageSet, steps: int
) -> list[dict[str, Any]]:
    """Train under one condition, and measure every `EVERY` steps."""
    random = generator(condition.seed, "heterogeneity", f"{condition.design} {condition.company} {condition.labels}")
    spec = ClassifierSpec(architecture="conv4", classes=5, input_size=32, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    classifier = build_classifier(spec, generator(condition.seed, "heterogeneity", "weights"))
    classifier.to(memory_format=torch.contiguous_format)
    optimiser = MetaOptimiser(dict(classifier.named_parameters()), 1e-3)
    gradients = EpisodeGradients(Maml(5, 0.01), FunctionalClassifier(classifier), optimiser.parameters)
    pairs = pairs_of(models, condition)
    lists = [EpisodeList.draw(validation, 5, SHOTS, QUERIES, EPISODES, 0)]
    rows, cosines, accuracies = [], list[float](), list[float]()
    for step in range(1, steps + 1):
        pair = pairs[int(torch.randint(len(pairs), (1,), generator=random))]
        found = []
        for model, order in zip(pair, orders(pair, condition.labels, random), strict=True):
            batch = gradients([images.episode(model, order, random)])
            found.append({name: part.clone() for name, part in batch.gradient.items()})
            accuracies.append(float(batch.accuracy))
        cosines.append(cosine(list(found[0].values()), list(found[1].values())))
        optimiser.step({name: found[0][name] + found[1][name] for name in found[0]})
        if step % EVERY == 0 or step == steps:
            subject = Subject.of("meta-model", "heterogeneity", classifier)
            row = asdict(condition) | {"step": step, "cosine": fmean(cosines), "training": 100 * fmean(accuracies)}
            for head in ("fine-tune-own", "nearest-mean"):
                own = mean_interval(evaluate_lists(subject, validation, lists, get_head(head), "query")[0])
                row |= {head: own.mean, f"{head} interval": own.half_width}
            rows.append(row)
            cosines, accuracies = [], []
    return rows


def conditions(designs: Sequence[str], seeds: Sequence[int]) -> Iterator[Condition]:
    for seed, design in itertools.product(seeds, designs):
        companies = PARTNERS if design == "architecture" else ("conv4",)
        overlaps = (0, 5) if design == "architecture" else range(6)
        yield from (
            Condition(design, *rest, seed) for rest in itertools.product(companies, overlaps, ("aligned", "shuffled"))
        )


def _work(arguments: tuple[Condition, Path, Path, list[Model], int]) -> None:
    condition, out, pack, models, steps = arguments
    name = "-".join(map(str, asdict(condition).values()))
    target = out / "conditions" / f"{name}-{steps}.json"
    if target.exists():
        return
    torch.set_num_threads(1)
    keep_freed_memory()
    images = Images(Bank.open(out / "bank"), models)
    rows = run(condition, models, images, load_images(pack), steps)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".tmp")
    partial.write_text(json.dumps(rows))
    partial.rename(target)
    print(json.dumps(rows[-1]), flush=True)


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw accuracy, gap and conflict against the overlap of the classes (Jaccard), means and extremes of the seeds."""
    from matplotlib.figure import Figure

    last = max(row["step"] for row in rows)
    figure = Figure(figsize=(11, 6.4), layout="constrained")
    axes = figure.subplots(2, 3, sharex="col")
    panels = (
        ("accuracy on unseen classes (%)", lambda row: row["fine-tune-own"]),
        ("gap: training minus unseen (points)", lambda row: row["training"] - row["fine-tune-own"]),
        ("mean cosine of the gradients", lambda row: row["cosine"]),
    )
    for line, design in zip(axes, ("balanced", "fixed"), strict=True):
        for axis, (title, value) in zip(line, panels, strict=True):
            for labels, colour in (("aligned", "#1b6ca8"), ("shuffled", "#d1495b")):
                points: dict[float, list[float]] = {}
                for row in rows:
                    if (row["design"], row["labels"], row["step"]) == (design, labels, last):
                        points.setdefault(row["overlap"] / (CLASSES - row["overlap"]), []).append(value(row))
                shared = sorted(points)
                means = [fmean(points[x]) for x in shared]
                spread = [[m - min(points[x]) for x, m in zip(shared, means, strict=True)],
                          [max(points[x]) - m for x, m in zip(shared, means, strict=True)]]  # fmt: skip
                axis.errorbar(shared, means, spread, label=f"{labels} labels", color=colour, marker="o", capsize=3)
            axis.set_title(f"{design}: {title}" if axis is line[0] else title, fontsize=10)
            axis.grid(alpha=0.3)
    for axis in axes[1]:
        axis.set_xlabel("class overlap of the two models (Jaccard)")
    axes[0][0].legend(frameon=False)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("train", "validation", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--designs", default="balanced,fixed,architecture")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    _, models = build(options.out, load_images(options.train), options.workers)
    chosen = [*conditions(options.designs.split(","), [*map(int, options.seeds.split(","))])]
    units = [(condition, options.out, options.validation, models, options.steps) for condition in chosen]
    with multiprocessing.get_context("spawn").Pool(options.workers) as pool:
        for _ in pool.imap_unordered(_work, units):
            pass
    files = sorted((options.out / "conditions").glob("*.json"))
    rows = [row for file in files for row in json.loads(file.read_text())]
    with (options.out / "heterogeneity.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()} for row in rows)
    if options.figure:
        draw(rows, options.figure)


if __name__ == "__main__":
    main()
