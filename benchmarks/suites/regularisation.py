"""One step of Task Groupings Regularization: the joint direction of a group's members."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional

from benchmarks.measure import Case, Settings, Suite, Way, timed
from benchmarks.suites.examples import classifier, pixels, teacher
from metazoo.execution.threads import CALLING_THREAD, ThreadCopies, WorkerThreads
from metazoo.features.batch_norm import batch_statistics
from metazoo.learn.losses import published_distillation_loss
from metazoo.learn.regularisers import (
    ExplicitRegularisation,
    ImplicitRegularisation,
    Loss,
    MeanGradient,
    Parameters,
    Regulariser,
)
from metazoo.models import ImageClassifier
from metazoo.zoo import WhiteBoxTeacher

Task = tuple[WhiteBoxTeacher, Tensor, Tensor]
"""A teacher, its images (float in [0, 1]) and their labels."""


def published_direction(student: ImageClassifier, tasks: Sequence[Task], displacement: float) -> Parameters:
    """As the official code of TGR: through the displacement, one backward pass a member, teachers asked in both passes.

    Batch norm as the caller has set it.
    """
    parameters = {name: value.detach().requires_grad_(True) for name, value in student.named_parameters()}

    def loss_at(values: Parameters, task: Task) -> Tensor:
        subject, images, labels = task
        logits = functional_call(student, values, (images,))
        taught = subject(images)
        distillation = functional.kl_div(logits.softmax(1), taught.softmax(1), reduction="none").mean()
        return functional.cross_entropy(logits, labels) + distillation

    gradients = []
    for task in tasks:
        parts = torch.autograd.grad(loss_at(parameters, task), list(parameters.values()), create_graph=True)
        gradients.append(dict(zip(parameters, parts, strict=True)))
    mean = {name: torch.stack([own[name] for own in gradients]).mean(0) for name in parameters}
    total = {name: torch.zeros_like(value) for name, value in parameters.items()}
    losses = [
        loss_at({name: value - displacement * (mean[name] - own[name]) for name, value in parameters.items()}, task)
        for own, task in zip(gradients, tasks, strict=True)
    ]
    for loss in losses:
        parts = torch.autograd.grad(loss / len(tasks), list(parameters.values()), retain_graph=True)
        for name, part in zip(parameters, parts, strict=True):
            total[name] += part
    return total


def library_losses(student: ThreadCopies[ImageClassifier], tasks: Sequence[Task]) -> list[Loss]:
    """The same losses, each teacher asked once."""

    def loss_of(subject: WhiteBoxTeacher, images: Tensor, labels: Tensor) -> Callable[[Parameters], Tensor]:
        taught = subject(images)

        def loss(values: Parameters) -> Tensor:
            with batch_statistics(student.own):
                logits = functional_call(student.own, values, (images,))
            return functional.cross_entropy(logits, labels) + published_distillation_loss(logits, taught)

        return loss

    return [loss_of(*task) for task in tasks]


def tasks_of(members: int, images: int, side: int, width: int | None = None) -> list[Task]:
    labels = torch.arange(images) % 5
    return [
        (teacher(side=side, width=width, seed=seed), pixels(images, side, seed).float() / 255, labels)
        for seed in range(members)
    ]


class Step:
    """One step from a group, as published and by a regulariser of the library."""

    def __init__(self, members: int, images: int, side: int, width: int | None) -> None:
        self._student, self._tasks = classifier(side=side, width=width, seed=99), tasks_of(members, images, side, width)
        self._parameters = {name: value.detach() for name, value in self._student.named_parameters()}
        self._copies = ThreadCopies(self._student)

    def published(self) -> object:
        with batch_statistics(self._student):
            return published_direction(self._student, self._tasks, 1e-3)

    def by(self, regulariser: Regulariser, threads: WorkerThreads = CALLING_THREAD) -> Callable[[], object]:
        return lambda: regulariser.direction(library_losses(self._copies, self._tasks), self._parameters, threads)


def _case(members: int, images: int, side: int, width: int | None, *, memory: bool = False) -> Case:
    def prepare() -> dict[str, Way]:
        step = Step(members, images, side, width)
        as_published = ImplicitRegularisation(1e-3, 1e-3, differentiate_displacement=True)
        return {
            "implicit as published, plain torch": timed(step.published),
            "implicit as published, by metazoo": timed(step.by(as_published)),
            "implicit, displacement detached (default)": timed(step.by(ImplicitRegularisation(2e-3, 2e-3))),
            "explicit": timed(step.by(ExplicitRegularisation(2e-3))),
            "mean gradient": timed(step.by(MeanGradient())),
        }

    name = f"{members} members of {images} images, Conv4, {side} px"
    return Case(name, prepare, 1, "steps", "members", members, memory=memory)


def cases(settings: Settings) -> list[Case]:
    if settings.quick:
        return [_case(members, 10, 16, 4) for members in (2, 3)]
    return [_case(members, 150, 32, None, memory=members == 4) for members in (2, 3, 4)]


SUITE = Suite(
    "regularisation",
    "The direction of one step from a group, cross-entropy and distillation as published, by each regulariser.",
    cases,
)
