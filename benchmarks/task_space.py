"""Whether the task space means what it says: dissimilarities of models against what the models have in common.

For every kind of probe, the dissimilarities of all pairs of models of a finished run, on its recovered images, are
compared with the overlap of their classes (rank correlation), and with whether they share domain and architecture (area
under the ROC curve; 0.5 says nothing). Then the stability of the dissimilarities: rank correlation between seeds of the
probe, and between few and all images.

    python -m benchmarks.task_space --run RUN [--run RUN ...] --out FILE.csv [--seeds 0,1,2] [--images 10,30,100,300]
        [--imagenet-weights FILE]
"""

import argparse
import csv
import itertools
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata
from sklearn.metrics import roc_auc_score
from torch import Tensor

from metazoo.bank import Bank, ResidentBank
from metazoo.data.images import evenly_of_each
from metazoo.execution.process_memory import keep_freed_memory
from metazoo.pipeline.layout import BANK
from metazoo.runs.record import Run
from metazoo.taskspace import (
    PUBLISHED_DECIMALS,
    PUBLISHED_EPSILON,
    FisherEmbeddings,
    ImageNetProbe,
    ProbeConfig,
    dissimilarity_matrix,
    similarity_matrix,
    train_probe,
    write_embeddings,
)
from metazoo.zoo import ModelContract, Zoo

TRAINED = ProbeConfig(fisher_images=300)
PUBLISHED = ProbeConfig(fisher="published", batch_statistics=True, fisher_images=300)
IMAGENET = ProbeConfig(architecture="imagenet-resnet34", fisher="published", fisher_images=300)
Classes = Callable[[ModelContract], frozenset[str]]


def dissimilarities(bank: ResidentBank, zoo: Zoo, probe: Any, config: ProbeConfig, images: int) -> Tensor:
    """Dissimilarities of all pairs of models, from at most `images` images of each, [pairs]."""
    names = [contract.name for contract in zoo]

    def embeddings() -> Iterator[Any]:
        for index, name in enumerate(names):
            own = bank.indices_of(index)
            shown = evenly_of_each(bank.labels[own], images)
            yield probe.embed(name, bank.images[own][shown], bank.labels[own][shown], config)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "embeddings.safetensors"
        write_embeddings(path, names, embeddings())
        found = FisherEmbeddings.load(path)
        published = config.fisher == "published"
        options = {"absolute_epsilon": PUBLISHED_EPSILON, "decimals": PUBLISHED_DECIMALS} if published else {}
        distance = dissimilarity_matrix(similarity_matrix(found, **options))
    return distance[tuple(torch.triu_indices(len(names), len(names), 1))]


def rank_correlation(first: Tensor, second: Tensor) -> float:
    """Spearman's correlation of two vectors."""
    return float(np.corrcoef(rankdata(first), rankdata(second))[0, 1])


def truths(zoo: Zoo) -> dict[str, Tensor]:
    """What all pairs of models have in common: class overlap (Jaccard), and whether domain and architecture agree."""
    pairs = [*itertools.combinations(zoo, 2)]
    classes = {c.name: {(c.domain, name) for name in c.class_names} for c in zoo}
    overlaps = [len(classes[a.name] & classes[b.name]) / len(classes[a.name] | classes[b.name]) for a, b in pairs]
    return {
        "class overlap": torch.tensor(overlaps),
        "domain": torch.tensor([float(a.domain == b.domain) for a, b in pairs]),
        "architecture": torch.tensor([float(a.spec.architecture == b.spec.architecture) for a, b in pairs]),
    }


def validity(distance: Tensor, truth: dict[str, Tensor]) -> dict[str, float | None]:
    """Rank correlation of similarity and class overlap, and ROC areas of shared domain and architecture.

    The class overlap and the architecture are compared within a domain, where they are not explained by it.
    """
    within = truth["domain"] == 1
    found: dict[str, float | None] = {}
    overlaps = truth["class overlap"][within]
    varied = len(overlaps.unique()) > 1
    found["class overlap (Spearman)"] = rank_correlation(-distance[within], overlaps) if varied else None
    for name, chosen in (("domain", slice(None)), ("architecture", within)):
        labels = truth[name][chosen]
        both = 0 < float(labels.mean()) < 1
        found[f"{name} (AUC)"] = float(roc_auc_score(labels, -distance[chosen])) if both else None
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, action="append", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--images", default="10,30,100,300")
    parser.add_argument("--imagenet-weights", type=Path)
    options = parser.parse_args()
    seeds, counts = ([*map(int, text.split(","))] for text in (options.seeds, options.images))
    torch.set_num_threads(1)
    keep_freed_memory()
    rows: list[dict[str, Any]] = []
    for path in options.run:
        run = Run.open(path)
        zoo = Zoo.open(run.description["zoo"]["path"])
        rows += _of_run(path.name, zoo, Bank.open(path / BANK), seeds, counts, options.imagenet_weights)
    columns = dict.fromkeys(key for row in rows for key in row)
    with options.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*columns], lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: f"{v:.4f}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)


def _of_run(
    name: str, zoo: Zoo, bank: Bank, seeds: Sequence[int], counts: Sequence[int], weights: Path | None
) -> list[dict[str, Any]]:
    truth = truths(zoo)
    classes = {contract.name: contract.spec.classes for contract in zoo}
    resident = ResidentBank.load(bank, [*classes], TRAINED.input_size)
    rows: list[dict[str, Any]] = []
    for label, config in (("trained here", TRAINED), ("trained here, published gradients", PUBLISHED)):
        found: dict[tuple[int, int], Tensor] = {}
        for seed in seeds:
            probe = train_probe(resident, classes, config, seed)
            for images in counts if seed == seeds[0] else counts[-1:]:
                found[seed, images] = dissimilarities(resident, zoo, probe, config, images)
        rows += _rows(name, label, found, truth, seeds, counts)
    if weights is not None:
        probe = ImageNetProbe.load(weights)
        found = {(0, images): dissimilarities(resident, zoo, probe, IMAGENET, images) for images in counts}
        rows += _rows(name, f"ImageNet shape, {weights.stem}", found, truth, (0,), counts)
    return rows


def _rows(
    run: str,
    probe: str,
    found: dict[tuple[int, int], Tensor],
    truth: dict[str, Tensor],
    seeds: Sequence[int],
    counts: Sequence[int],
) -> list[dict[str, Any]]:
    whole = found[seeds[0], counts[-1]]
    agreement = [rank_correlation(found[one, counts[-1]], found[other, counts[-1]])
                 for one, other in itertools.combinations(seeds, 2)]  # fmt: skip
    rows = []
    for (seed, images), distance in found.items():
        row: dict[str, Any] = {"run": run, "probe": probe, "seed": seed, "images": images, **validity(distance, truth)}
        row["spread (standard deviation / mean)"] = float(distance.std() / distance.mean())
        row["agreement with all images (Spearman)"] = rank_correlation(distance, whole)
        row["agreement between seeds (Spearman)"] = float(statistics.mean(agreement)) if agreement else None
        rows.append(row)
        print(row, flush=True)
    return rows


if __name__ == "__main__":
    main()
