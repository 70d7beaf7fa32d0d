"""What grouping and gradient regularisation bring: the same bank and steps, other groups and regularisers.

Every variant learns from the images of one finished run and is measured on the same episodes of validation classes,
paired with the default. `agreement` is the mean cosine of two members' gradients over the run, `change` the share of
the direction that regularisation adds.

    python benchmarks/ablation.py --run RUN --validation PACK --out FOLDER [--steps 1000] [--seeds 0]
"""

import argparse
import json
import statistics
from pathlib import Path

import torch
from torch import Tensor

from metazoo.bank import Bank
from metazoo.data import EpisodeList, load_images
from metazoo.evaluate import Subject, evaluate_lists, mean_interval, paired_difference
from metazoo.learn.heads import get_head
from metazoo.learn.recipe import RegularisationRecipe
from metazoo.methods.stages import BANK, DISTANCE, learn_from_groups
from metazoo.methods.tgr import TgrRecipe
from metazoo.methods.workspace import Workspace
from metazoo.run.folder import RunFolder
from metazoo.run.metrics import MetricsLog
from metazoo.taskspace import Strategy, group
from metazoo.training import Run
from metazoo.zoo import Zoo

VARIANTS: dict[str, tuple[Strategy, RegularisationRecipe]] = {
    "default: dispersed, implicit": ("dispersed", RegularisationRecipe()),
    "dispersed, mean": ("dispersed", RegularisationRecipe(kind="mean")),
    "dispersed, implicit, 10 x strength": ("dispersed", RegularisationRecipe(strength=2e-2)),
    "dispersed, implicit, 100 x strength": ("dispersed", RegularisationRecipe(strength=2e-1)),
    "homogeneous, implicit": ("homogeneous", RegularisationRecipe()),
    "random, implicit": ("random", RegularisationRecipe()),
    "single, implicit": ("single", RegularisationRecipe()),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("run", "validation", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seeds", default="0")
    options = parser.parse_args()
    torch.set_num_threads(1)  # as `train` learns unless told otherwise
    run, validation = Run.open(options.run), load_images(options.validation)
    zoo, recipe = Zoo.open(run.description["zoo"]["path"]), run.config.recipe
    assert isinstance(recipe, TgrRecipe)
    lists = [EpisodeList.draw(validation, 5, shots, 15, 1000, 0) for shots in (1, 5)]
    distance = RunFolder(run.path).read_tensors(DISTANCE)["distance"]
    names = [contract.name for contract in zoo]
    rows = []
    for seed in map(int, options.seeds.split(",")):
        default: list[Tensor] = []
        for number, (name, (strategy, regularisation)) in enumerate(VARIANTS.items()):
            folder = options.out / f"{seed}-{number}"
            workspace = Workspace(
                zoo, RunFolder(folder), MetricsLog(folder / "metrics.jsonl"), seed, 1, lambda: None, progress=False
            )
            update = {"steps": options.steps, "regularisation": regularisation}
            classifier = learn_from_groups(
                workspace,
                Bank.open(run.path / BANK),
                group(distance, strategy, recipe.grouping.groups, keys=names, seed=seed),
                recipe.learning.model_copy(update=update),
                recipe.meta_model,
            )
            accuracies = evaluate_lists(
                Subject.of(name, "tgr", classifier), validation, lists, get_head("nearest-mean")
            )
            default = default or accuracies
            figures = workspace.metrics.rows()
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
