"""A whole run, from a built zoo to a meta-model."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.measure import Case, Settings, Suite, Way, waited
from benchmarks.suites.examples import classifier, scratch
from metazoo.runs.plan import plan_run
from metazoo.runs.train import train
from metazoo.zoo import Zoo

Config = dict[str, Any]

_SMALL: Config = {
    "recovery": {"iterations": 50},
    "budget": {"images_per_class": 30},
    "probe": {"steps": 50},
    "learning": {"steps": 200, "views": 1024},
}
_TINY: Config = {
    "recovery": {"iterations": 2},
    "budget": {"images_per_class": 4},
    "probe": {"width": 4, "steps": 3, "batch_size": 8, "fisher_images": 4},
    "learning": {"steps": 3, "batch_size": 8, "views": 16},
    "meta_model": {"width": 4},
}
_TINY_REFERENCE: Config = {
    "recovery": {"latent": 8, "width": 4},
    "budget": {"bucket_size": 10},
    "probe": {"width": 4, "batch_size": 8, "fisher_images": 4},
    "visits": {"teachers": 2, "images_per_class": 3},
    "learning": {"replay": {"queries": 2, "episodes_per_update": 2, "inner_steps": 1}},
    "meta_model": {"width": 4},
}


def _untrained_zoo(folder: Path, models: int, width: int | None) -> Zoo:
    zoo = Zoo.create(folder)
    for seed in range(models):
        model = classifier(width=width, seed=seed)
        names = tuple(f"class {5 * seed + index}" for index in range(5))
        zoo.store(f"model-{seed:03}", model, class_names=names, domain="noise")
    return zoo


def _case(name: str, zoo: Callable[[], Zoo], config: Config, reference: Config, workers: int | None) -> Case:
    estimate = "preset published, as --plan estimates it", "setting default, as --plan estimates it"

    def prepare() -> dict[str, Way]:
        opened = zoo()

        def run() -> None:
            with tempfile.TemporaryDirectory() as folder:
                train(opened, out=Path(folder) / "run", config=config, seed=0, workers=workers)

        return {
            estimate[0]: lambda: plan_run(opened, preset="published", config=reference, workers=workers).total_seconds,
            estimate[1]: lambda: plan_run(opened, config=config, workers=workers).total_seconds,
            "setting default": waited(run),
        }

    return Case(name, prepare, once=True, estimates=estimate)


def cases(settings: Settings) -> list[Case]:
    if settings.zoo is not None:
        folder = settings.zoo
        return [_case(f"the zoo {folder.name}", lambda: Zoo.open(folder), {}, {}, None)]
    models, width, config, reference = (5, 4, _TINY, _TINY_REFERENCE) if settings.quick else (8, None, _SMALL, {})
    return [
        _case(
            f"{models} untrained Conv4 and a hundredth of the default's work",
            lambda: _untrained_zoo(scratch() / "zoo", models, width),
            config,
            reference,
            1 if settings.quick else None,
        )
    ]


SUITE = Suite(
    "whole", "From a built zoo to a meta-model, with a process a core; the reference is only estimated.", cases
)
