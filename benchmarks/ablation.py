"""What grouping, gradient regularisation and recovery bring: the same steps in every combination of the three.

Variants of grouping and regularisation learn from the images of one finished run, or of one more for each other source
of images; all are measured on the same episodes of validation classes, paired with the default.
`agreement` is the mean cosine of two members' gradients over the run, `change` the share of the direction that
regularisation adds.

    python -m benchmarks.ablation --run RUN --validation PACK --out FOLDER [--train PACK] [--steps 1000] [--seeds 0,1,2]
        [--only "single, *;noise, *;..."]
"""

import argparse
import fnmatch
import itertools
import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.other_images import fill_with_drawn_images, fill_with_real_images, learn_from_bank
from metazoo.bank import Bank, ResidentBanks
from metazoo.data import EpisodeList, load_images
from metazoo.evaluate import Subject, evaluate_lists, mean_interval, paired_difference
from metazoo.execution.process_memory import keep_freed_memory
from metazoo.features.heads import get_head
from metazoo.methods.tgr import TgrConfig
from metazoo.models import ImageClassifier
from metazoo.pipeline.layout import BANK, DISTANCE, METRICS
from metazoo.pipeline.learning_stage import learn_from_groups
from metazoo.pipeline.workspace import Workspace
from metazoo.runs.config import merged, resolve_config
from metazoo.runs.record import Run
from metazoo.storage.metrics import MetricsLog
from metazoo.storage.run_folder import RunFolder
from metazoo.taskspace import FixedGrouping, group
from metazoo.zoo import Zoo

DEFAULT = "dispersed, implicit"
REGULARISERS: dict[str, dict[str, Any]] = {
    "implicit": {},
    "implicit in every step": {"every": 1},
    "mean": {"kind": "mean"},
    "implicit x10": {"strength": 2e-2},
    "implicit x100": {"strength": 2e-1},
    "explicit": {"kind": "explicit"},
    "explicit x10": {"kind": "explicit", "strength": 2e-2},
    "explicit x100": {"kind": "explicit", "strength": 2e-1},
}


def variants(training_data: Path | None) -> dict[str, dict[str, Any]]:
    """Names ("grouping, regulariser", before it the source where nothing is recovered) and the options they change.

    The default comes first. Other sources than recovered images meet all groupings by the default regulariser, and all
    regularisers by the groupings that differ most; real images are one where they are given.
    """
    sources = ["leaves", "fractals", "glyphs", "noise", *(["real images"] if training_data else [])]
    groupings = ("dispersed", "spectral", "homogeneous", "random", "single")
    recovered = [*itertools.product(groupings, REGULARISERS)]
    some = {*itertools.product(groupings, ("implicit",)), *itertools.product(("dispersed", "single"), REGULARISERS)}
    others = [(source, *pair) for source in sources for pair in recovered if pair in some]
    return {
        **{", ".join(pair): _changes(*pair) for pair in recovered},
        **{", ".join((source, *pair)): {"source": source, **_changes(*pair)} for source, *pair in others},
    }


def _changes(grouping: str, regulariser: str) -> dict[str, Any]:
    return {"grouping": {"strategy": grouping}, "learning": {"regularisation": REGULARISERS[regulariser]}}


def with_source(run: Run, zoo: Zoo, source: str, training_data: Path | None, seed: int, folder: Path) -> Path:
    """Folder with a bank of other images and the dissimilarities of the teachers on them."""
    if not (folder / BANK).exists():
        config = tgr_config(run, {"learning": {"steps": 1}})
        bank, images_per_class = Bank.create(folder / BANK), config.budget.images_per_class
        if source == "real images":
            assert training_data is not None
            fill_with_real_images(bank, zoo, load_images(training_data), images_per_class, seed)
        else:
            fill_with_drawn_images(bank, zoo, source, images_per_class, seed)
        learn_from_bank(zoo, bank, config, seed, folder)
    return folder


def tgr_config(run: Run, changes: Mapping[str, Any]) -> TgrConfig:
    """Options of the run with some changes."""
    config = resolve_config(merged(run.config.as_record(), changes)).options
    assert isinstance(config, TgrConfig)
    return config


def learned(
    run: Run, zoo: Zoo, changes: Mapping[str, Any], seed: int, folder: Path, base: Path | None = None
) -> tuple[ImageClassifier, list[dict[str, Any]]]:
    """Meta-model of one variant by the images and dissimilarities in `base` (None: those of `run`), and its metrics."""
    config, base = tgr_config(run, changes), base or run.path
    workspace = Workspace(
        zoo, RunFolder(folder), MetricsLog(folder / METRICS), seed, lambda: None, progress=False, images=False
    )
    distance = RunFolder(base).read_tensors(DISTANCE)["distance"]
    names = [contract.name for contract in zoo]
    partition = group(distance, config.grouping.strategy, config.grouping.groups, keys=names, seed=seed)
    banks = ResidentBanks(Bank.open(base / BANK))
    student = learn_from_groups(workspace, banks, FixedGrouping(partition), config.learning, config.meta_model)
    return student.classifier, workspace.metrics.rows()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("run", "validation", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--train", type=Path)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--only")
    options = parser.parse_args()
    torch.set_num_threads(1)  # as `train` learns unless told otherwise
    keep_freed_memory()
    run, validation = Run.open(options.run), load_images(options.validation)
    zoo = Zoo.open(run.description["zoo"]["path"])
    lists = [EpisodeList.draw(validation, 5, shots, 15, 1000, 0) for shots in (1, 5)]
    wanted = [DEFAULT, *options.only.split(";")] if options.only else ["*"]
    chosen = {
        name: changes
        for name, changes in variants(options.train).items()
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in wanted)
    }
    rows = []
    for seed in map(int, options.seeds.split(",")):
        default: list[Tensor] = []
        for number, (name, changes) in enumerate((name, dict(changes)) for name, changes in chosen.items()):
            source = changes.pop("source", None)
            shorter, folder = merged({"learning": {"steps": options.steps}}, changes), options.out / f"{seed}-{source}"
            base = with_source(run, zoo, source, options.train, seed, folder) if source else None
            classifier, figures = learned(run, zoo, shorter, seed, options.out / f"{seed}-{number}", base)
            subject = Subject.of(name, "tgr", classifier)
            accuracies = evaluate_lists(subject, validation, lists, get_head("nearest-mean"))
            default = default or accuracies
            row = {
                "name": name,
                "seed": seed,
                "accuracy": [round(mean_interval(values).mean, 2) for values in accuracies],
                "difference": [
                    f"{estimate.mean:+.2f} ± {estimate.half_width:.2f}"
                    for estimate in map(paired_difference, accuracies, default)
                ],
                "agreement": round(statistics.mean(row["agreement"] for row in figures), 3),
                "change": round(statistics.mean(row["relative_change"] for row in figures), 4),
            }
            rows.append(row)
            print(json.dumps(row, ensure_ascii=False), flush=True)
    (options.out / "ablation.json").write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
