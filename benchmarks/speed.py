"""The suites of `make bench`. Each returns, by row, seconds and the seconds of the suite's first row."""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from metazoo.data import EpisodeList, ImageSet
from metazoo.evaluate import Subject, evaluate_lists
from metazoo.learn.batch_norm import batch_statistics
from metazoo.learn.heads import get_head
from metazoo.learn.regularisers import (
    ExplicitRegularisation,
    ImplicitRegularisation,
    MeanGradient,
    Parameters,
    Regulariser,
)
from metazoo.models import ClassifierSpec, ImageClassifier, build_classifier

Figures = dict[str, tuple[float, float]]


def _conv4(seed: int = 0) -> ImageClassifier:
    spec = ClassifierSpec(architecture="conv4", classes=5, input_size=32, mean=(0.5,) * 3, std=(0.25,) * 3)
    return build_classifier(spec, torch.Generator().manual_seed(seed)).eval()


def _interleaved(ways: dict[str, Callable[[], object]], rounds: int = 7) -> Figures:
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way()
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    first = next(iter(medians.values()))
    return {name: (value, first) for name, value in medians.items()}


_MEMORY_SCRIPT = """
import sys, time, torch
from metazoo.models import ClassifierSpec, build_classifier
from metazoo.run.memory import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
torch.set_num_threads(1)
spec = ClassifierSpec(architecture="conv4", classes=5, input_size=32, mean=(0.5,) * 3, std=(0.25,) * 3)
network = build_classifier(spec).train()
images = torch.rand(128, 3, 32, 32)
def step():
    network(images).square().mean().backward()
for _ in range(3):
    step()
start = time.perf_counter()
for _ in range(15):
    step()
print((time.perf_counter() - start) / 15)
"""


def memory() -> Figures:
    """A training step of Conv4, one thread, with and without giving freed memory back to the system."""

    def run(kind: str) -> float:
        command = [sys.executable, "-c", _MEMORY_SCRIPT, kind]
        return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    times = [(run("returned"), run("kept")) for _ in range(3)]
    first = statistics.median(time for time, _ in times)
    kept = statistics.median(time for _, time in times)
    return {"freed memory returned (the system's default)": (first, first), "freed memory kept": (kept, first)}


def regularisation() -> Figures:
    """One direction from 4 members of 32 images, Conv4, by each regulariser."""
    student = _conv4()
    parameters: Parameters = {
        name: value.detach() for name, value in student.named_parameters() if not name.startswith("network.head.")
    }
    random = torch.Generator().manual_seed(0)
    tasks = [(torch.rand(32, 3, 32, 32, generator=random), torch.randn(32, 5, generator=random)) for _ in range(4)]

    def loss_of(images: Tensor, targets: Tensor) -> Callable[[Parameters], Tensor]:
        def loss(values: Parameters) -> Tensor:
            logits = torch.func.functional_call(student, values, (images,))
            return functional.mse_loss(logits, targets)

        return loss

    losses = [loss_of(images, targets) for images, targets in tasks]

    def way(regulariser: Regulariser) -> Callable[[], object]:
        def run() -> object:
            with batch_statistics(student):
                return regulariser.direction(losses, parameters)

        return run

    return _interleaved(
        {
            "implicit, displacement differentiated (as published)": way(
                ImplicitRegularisation(1e-3, 1e-3, differentiate_displacement=True)
            ),
            "implicit, displacement detached (default)": way(ImplicitRegularisation(2e-3, 2e-3)),
            "explicit": way(ExplicitRegularisation(2e-3)),
            "mean": way(MeanGradient()),
        }
    )


def evaluation() -> Figures:
    """100 episodes, 5-way 5-shot, nearest mean: episode by episode against features once and episodes together."""
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (16 * 40, 3, 32, 32), generator=random, dtype=torch.uint8)
    image_set = ImageSet(images, torch.arange(16).repeat_interleave(40), tuple(f"class {i}" for i in range(16)))
    episodes = EpisodeList.draw(image_set, 5, 5, 15, 100)
    subject, head = Subject.of("conv4", "conv4", _conv4()), get_head("nearest-mean")
    return _interleaved(
        {
            "episode by episode (batch norm support)": lambda: evaluate_lists(
                subject, image_set, [episodes], head, "support"
            ),
            "together (batch norm running)": lambda: evaluate_lists(subject, image_set, [episodes], head),
        },
        rounds=3,
    )


def targets() -> Figures:
    """A step of 128 images with 20 Conv4 teachers: asking them every step, or from a pool of 8192 views for 1000."""
    teachers, student = [_conv4(seed) for seed in range(20)], _conv4(99)
    images = torch.rand(128, 3, 32, 32).contiguous(memory_format=torch.channels_last)

    def ask() -> None:
        with torch.no_grad():
            for teacher in teachers:
                teacher.features(images)

    def learn() -> None:
        student.features(images).square().mean().backward()

    asked = _interleaved({"ask": ask, "learn": learn})
    every, learning = asked["ask"][0], asked["learn"][0]
    first = every + learning
    return {
        "teachers asked every step": (first, first),
        "teachers asked for a pool": (learning + every * 8192 / 128 / 1000, first),
    }


SUITES: dict[str, Callable[[], Figures]] = {
    "memory": memory,
    "regularisation": regularisation,
    "targets": targets,
    "evaluation": evaluation,
}
