"""What the zoo says of the images that the meta-model learns from."""

import torch

from benchmarks.measure import Case, Settings, Suite, Way, timed
from benchmarks.suites.examples import classifier, pixels, teacher
from metazoo.execution.compute import Compute
from metazoo.learn.learning_config import LearningConfig
from metazoo.pipeline.learning_stage import teacher_targets


def _case(models: int, side: int, batch: int, width: int | None) -> Case:
    def prepare() -> dict[str, Way]:
        config = LearningConfig()
        targets = teacher_targets([teacher(side=side, width=width, seed=seed) for seed in range(models)], Compute())
        student = classifier(side=side, width=width, seed=999)
        images = (pixels(batch, side).float() / 255).contiguous(memory_format=torch.channels_last)

        def ask() -> None:
            with torch.no_grad():
                targets(images)

        asking, learning = timed(ask), timed(lambda: student.features(images).square().mean().backward())
        pooled = config.views / batch / config.steps_per_views
        return {
            "teachers asked every step": lambda: asking() + learning(),
            f"asked for {config.views} views for {config.steps_per_views} steps (default)": lambda: (
                learning() + pooled * asking()
            ),
        }

    return Case(f"{models} Conv4, {batch} images, {side} px", prepare, 1, "steps", "models", models)


def cases(settings: Settings) -> list[Case]:
    if settings.quick:
        return [_case(models, 16, 4, 4) for models in (1, 2)]
    return [_case(models, 32, 128, None) for models in (10, 20, 40)]


SUITE = Suite(
    "targets", "A step of learning from a group: the meta-model's own pass, and what all teachers say.", cases
)
