"""Learning on every core: worker threads share episodes, members and teachers, torch's own threads each operation.

Everything here is by the clock, so nothing else may be at work.
"""

from collections.abc import Callable

import torch

from benchmarks.measure import Case, Settings, Suite, Way, waited
from benchmarks.suites.examples import pixels, teacher
from benchmarks.suites.regularisation import Step
from benchmarks.suites.replay import Replay
from metazoo.execution.compute import CPU
from metazoo.execution.executor import default_workers
from metazoo.execution.threads import WorkerThreads, torch_threads
from metazoo.learn.regularisers import ImplicitRegularisation
from metazoo.pipeline.learning_stage import teacher_targets


def _by_torch(function: Callable[[], object], threads: int) -> Way:
    def run() -> None:
        with torch_threads(threads):
            function()

    return waited(run)


def _published(cores: int, published: Callable[[], object]) -> dict[str, Way]:
    return {
        f"published, plain torch, {cores} torch threads": _by_torch(published, cores),
        "published, plain torch, one thread": _by_torch(published, 1),
    }


def _own(cores: int, own: str, by: Callable[[WorkerThreads], Callable[[], object]]) -> dict[str, Way]:
    alone, shared = by(WorkerThreads(1)), by(WorkerThreads(cores))
    return {
        f"{own}, {cores} torch threads": _by_torch(alone, cores),
        f"{own}, one thread": _by_torch(alone, 1),
        f"{own}, {cores} worker threads (default)": _by_torch(shared, 1),
    }


def _replay(episodes: int, side: int, width: int | None, cores: int) -> Case:
    def prepare() -> dict[str, Way]:
        replay = Replay(5, 1, episodes, side, width)
        own = _own(cores, "maml, second order", lambda threads: replay.by("maml", threads))
        return _published(cores, replay.published) | own

    name = f"replay: {episodes} episodes, 5-way 1-shot, Conv4, {side} px"
    return Case(name, prepare, episodes, "episodes")


def _step(members: int, images: int, side: int, width: int | None, cores: int) -> Case:
    def prepare() -> dict[str, Way]:
        step, regulariser = Step(members, images, side, width), ImplicitRegularisation(2e-3, 2e-3)
        own = _own(cores, "implicit, displacement detached", lambda threads: step.by(regulariser, threads))
        return _published(cores, step.published) | own

    return Case(f"step: {members} members of {images} images, Conv4, {side} px", prepare, 1, "steps")


def _answers(models: int, images: int, side: int, width: int | None, cores: int) -> Case:
    def prepare() -> dict[str, Way]:
        teachers = [teacher(side=side, width=width, seed=seed) for seed in range(models)]
        views = pixels(images, side).float() / 255

        def by(threads: WorkerThreads) -> Callable[[], object]:
            targets = teacher_targets(teachers, CPU, threads)

            def ask() -> object:
                with torch.no_grad():
                    return targets(views)

            return ask

        return _own(cores, "all teachers asked", by)

    return Case(f"answers: {models} Conv4, {images} images, {side} px", prepare, images * models, "images")


def cases(settings: Settings) -> list[Case]:
    cores = default_workers()
    if settings.quick:
        return [_replay(2, 16, 4, cores), _step(2, 10, 16, 4, cores), _answers(2, 8, 16, 4, cores)]
    return [_replay(16, 32, None, cores), _step(4, 150, 32, None, cores), _answers(20, 256, 32, None, cores)]


SUITE = Suite("cores", "Learning on all cores, by the clock: worker threads beside the threads of torch.", cases)
