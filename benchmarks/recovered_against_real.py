"""How much of what real images carry do recovered ones carry?

For every seed the default run is trained twice, in the same way but for its bank: once on recovered images, once on as
many real images of the same classes, which only a study has. Both are measured on the same episodes, beside
everything that the zoo offers without learning.

    python -m benchmarks.recovered_against_real --zoo ZOO --train PACK --validation PACK --out FOLDER [--seeds 0,1,2]
"""

import argparse
import dataclasses
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.other_images import fill_with_real_images, learn_from_bank
from benchmarks.peak_memory import PeakMemory
from metazoo.bank import Bank
from metazoo.cli.feature_source import open_source
from metazoo.data import EpisodeList, load_images
from metazoo.evaluate import Subject, evaluate_lists, mean_interval
from metazoo.features.heads import get_head
from metazoo.methods.tgr import TgrConfig
from metazoo.pipeline.layout import BANK
from metazoo.runs.config import resolve_config
from metazoo.runs.train import train
from metazoo.zoo import Zoo

SHOTS, WAYS, QUERIES, EPISODES, EPISODE_SEED = (1, 5), 5, 15, 1000, 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("zoo", "train", "validation", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--config", type=Path)
    parser.add_argument("--skip-real", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)  # as `train` learns unless told otherwise
    zoo, validation = Zoo.open(options.zoo), load_images(options.validation)
    lists = [EpisodeList.draw(validation, WAYS, shots, QUERIES, EPISODES, EPISODE_SEED) for shots in SHOTS]
    rows: list[dict[str, Any]] = []

    def measure(name: str, subject: Subject, **figures: float) -> None:
        estimates = [mean_interval(a) for a in evaluate_lists(subject, validation, lists, get_head("nearest-mean"))]
        row = {"name": name, **figures, "accuracy": [dataclasses.astuple(estimate) for estimate in estimates]}
        rows.append(row)
        print(name, *(f"{e.mean:.2f} ± {e.half_width:.2f}" for e in estimates), figures, flush=True)

    for seed in map(int, options.seeds.split(",")):
        folder = options.out / f"recovered-{seed}"
        start = time.monotonic()
        with PeakMemory() as memory:
            run = train(zoo, "tgr", out=folder, config=options.config, seed=seed, resume=True, progress=True)
        seconds = time.monotonic() - start
        if seed == int(options.seeds.split(",")[0]):
            for subject in open_source(str(run.path)).table()[:-1]:
                measure(subject.name, subject)
        classifier = run.meta_model.module
        measure("recovered", Subject.of("recovered", "tgr", classifier), seconds=seconds, peak_pss=memory.peak)
        if not options.skip_real:
            config = resolve_config(options.config).options
            assert isinstance(config, TgrConfig)
            bank = Bank.create(options.out / f"real-{seed}" / BANK)
            fill_with_real_images(bank, zoo, load_images(options.train), config.budget.images_per_class, seed)
            real = learn_from_bank(zoo, bank, config, seed, options.out / f"real-{seed}")
            measure("real", Subject.of("real", "tgr", real))
    for kind in ("recovered", "real"):
        for column, shots in enumerate(SHOTS):
            means = [row["accuracy"][column][0] for row in rows if row["name"] == kind]
            if means:
                print(f"{kind}, {shots}-shot: mean of {len(means)} seeds {statistics.mean(means):.2f}")
    (options.out / "result.json").write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
