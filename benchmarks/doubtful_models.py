"""What bad models in a zoo do to the meta-model, and what the trust score does about them.

Bad models of three kinds are planted (see `doubtful_zoo`) until they are the wanted shares of the zoo. For every share
and each of `trust.mode`'s values the default run is trained on the same recovered images; the area under the ROC curve
of the score (that an honest model scores above a bad one), by kind too, stands beside the accuracy on classes that no
model has seen, the share kept of the clean zoo's gain over random initialisation, and what was dropped.

    python benchmarks/doubtful_models.py --zoo ZOO --train SOURCE --foreign SOURCE [--foreign SOURCE ...]
        --validation SOURCE --out FOLDER [--config FILE] [--shares 0,0.2,0.4,0.6] [--modes keep,weigh,drop] [--seed 0]
"""

import argparse
import json
import math
import shutil
from pathlib import Path
from typing import Any

import torch
from doubtful_zoo import KINDS, plant

from metazoo.bank import Bank
from metazoo.data import EpisodeList, load_images
from metazoo.evaluate import Subject, evaluate_lists, mean_interval, random_initialisation
from metazoo.execution.process_memory import keep_freed_memory
from metazoo.features.heads import get_head
from metazoo.methods.tgr import TgrConfig
from metazoo.pipeline.layout import BANK, METRICS, TRUST
from metazoo.pipeline.workspace import Workspace
from metazoo.recover import recover_zoo
from metazoo.runs.config import merged, resolve_config
from metazoo.storage.metrics import MetricsLog
from metazoo.storage.run_folder import RunFolder
from metazoo.zoo import Zoo

EPISODES = 600


def area(honest: list[float], bad: list[float]) -> float | None:
    """Chance that an honest model scores above a bad one; a tie counts half."""
    pairs = [(first > second) + 0.5 * (first == second) for first in honest for second in bad]
    return round(sum(pairs) / len(pairs), 3) if pairs else None


def areas(scores: dict[str, float]) -> dict[str, float | None]:
    """Of all bad models together, and of each kind."""
    honest = [score for name, score in scores.items() if not name.startswith("bad-")]
    bad = {name: score for name, score in scores.items() if name.startswith("bad-")}
    return {
        kind or "all": area(honest, [score for name, score in bad.items() if name.endswith(kind)])
        for kind in ("", *KINDS)
    }


def with_bad(planted: Zoo, share: float) -> Zoo:
    """The honest models, and the first bad ones, as many as make up `share` of all."""
    honest = [contract for contract in planted if not contract.name.startswith("bad-")]
    bad = [contract for contract in planted if contract.name.startswith("bad-")]
    return Zoo(planted.folder, [*honest, *bad[: _bad(len(honest), share)]])


def _bad(honest: int, share: float) -> int:
    return math.ceil(honest / (1 - share) - 1e-9) - honest


def learned(zoo: Zoo, bank: Bank, folder: Path, options: dict[str, Any], seed: int) -> tuple[Any, dict[str, Any]]:
    """A meta-model from the images that are in `bank` already, and what the run says of trust."""
    config = resolve_config(options)
    workspace = Workspace(
        zoo, RunFolder(folder), MetricsLog(folder / METRICS), seed, lambda: None, progress=False, images=False
    )
    if not (folder / BANK).exists():
        Bank.create(folder / BANK)
        for contract in zoo:
            shutil.copytree(bank.folder / contract.name, folder / BANK / contract.name)
    return config.method.train(workspace, config.options), workspace.folder.read_json(TRUST)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("zoo", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    for name in ("train", "validation"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--foreign", action="append", required=True)
    parser.add_argument("--config", type=Path)
    parser.add_argument("--shares", default="0,0.2,0.4,0.6")
    parser.add_argument("--modes", default="keep,weigh,drop")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)  # as `train` learns unless told otherwise
    keep_freed_memory()
    honest, seed = Zoo.open(options.zoo), options.seed
    shares = [float(share) for share in options.shares.split(",")]
    foreign = [load_images(source) for source in options.foreign]
    most = _bad(len(honest), max(shares))
    planted = plant(honest, options.out / "zoo", most, load_images(options.train), foreign)
    base = resolve_config(options.config).as_record()
    config = resolve_config(base).options
    assert isinstance(config, TgrConfig)
    bank = Bank.open_or_create(options.out / "bank")
    recover_zoo(with_bad(planted, max(shares)), bank, config.recovery, config.budget, seed)
    validation = load_images(options.validation)
    lists = [EpisodeList.draw(validation, 5, shots, 15, EPISODES, 0) for shots in (1, 5)]

    def accuracy(subject: Subject) -> list[float]:
        return [mean_interval(own).mean for own in evaluate_lists(subject, validation, lists, get_head("nearest-mean"))]

    start = accuracy(random_initialisation(config.meta_model.spec(honest), seed))
    print("random initialisation", [round(value, 2) for value in start], flush=True)
    rows: list[dict[str, Any]] = []
    clean: list[float] | None = None
    for share in shares:
        zoo, found, record = with_bad(planted, share), [], {}
        for mode in options.modes.split(","):
            if record and not record["doubtful"]:
                continue  # it would be the same run again
            changes = merged(base, {"seed": seed, "trust": {"mode": mode}})
            classifier, record = learned(zoo, bank, options.out / f"{share:g}-{mode}", changes, seed)
            scores = {row["model"]: row["score"] for row in record["models"]}
            found = accuracy(Subject.of(mode, "tgr", classifier))
            clean = found if clean is None else clean
            gains = [round((own - low) / (high - low), 3) for own, low, high in zip(found, start, clean, strict=True)]
            row = {
                "bad": f"{sum(name.startswith('bad-') for name in scores)} of {len(scores)}",
                "mode": mode,
                "area": areas(scores),
                "lowest_honest": min(score for name, score in scores.items() if not name.startswith("bad-")),
                "highest_bad": max((score for name, score in scores.items() if name.startswith("bad-")), default=None),
                "doubted": len(record["doubtful"]),
                "accuracy": [round(value, 2) for value in found],
                "gain_kept": gains,
            }
            rows.append(row)
            print(json.dumps(row), flush=True)
    (options.out / "result.json").write_text(json.dumps({"random": start, "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
