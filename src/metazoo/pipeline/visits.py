"""Sources of visits to teachers: with images of the bank, or by inversion from scratch."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Int64, UInt8
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from metazoo.bank import fitted
from metazoo.data.images import draw_of_each
from metazoo.execution.randomness import generator
from metazoo.learn.replay_learning import Visit, VisitSource
from metazoo.models import ClassifierSpec
from metazoo.pipeline.workspace import Workspace
from metazoo.recover import GeneratorConfig, RecoveryConfig, Request, recover_requests
from metazoo.taskspace import Grouping, draw_members
from metazoo.zoo import ClassIdentity

_STORED_SIDE = 1024
"""Largest stored side of images that are recovered for one visit."""
Labelled = tuple[UInt8[Tensor, "n channels side side"], Int64[Tensor, " n"]]
"""Images, and their classes of one teacher."""


class VisitDrawConfig(BaseModel):
    """Options of the draw of visits in a meta-iteration. The defaults are those published with TGR (ICML 2024)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    teachers: int = Field(default=4, ge=1, description="number of visits in a meta-iteration")
    replacement: bool = Field(default=True, description="whether a meta-iteration may visit a teacher twice")
    images_per_class: int = Field(default=30, ge=1, description="images per class of a visited teacher")


class VisitConfig(VisitDrawConfig):
    """Options of the visits of a meta-iteration to teachers. The defaults are those published with TGR (ICML 2024)."""

    reinversion: bool = Field(
        default=True,
        description="whether every visit recovers new images; otherwise visits and replay draw from the bank",
    )


@dataclass(frozen=True, eq=False)
class Chosen:
    """Choice of a visit: index of the teacher, and its classes in the order of the meta-model's outputs."""

    teacher: int
    classes: Int64[Tensor, " classes"]

    def logits(self, of_teacher: Tensor) -> Tensor:
        """Logits of the chosen classes, [n, classes], among those of all classes of the teacher."""
        return of_teacher[:, self.classes.to(of_teacher.device)]


class TeacherVisits(VisitSource):
    """Base class of sources that draw teachers and classes; subclasses provide their images.

    From a teacher with more classes than the meta-model has outputs, every visit draws as many classes as there are
    outputs. A teacher with fewer classes uses the first outputs. Classes keep the teacher's order at every visit: with
    a drawn order, the labels of a visit would have no meaning that the head could learn.

    Args:
        workspace: run at work; its zoo has the teachers.
        grouping: groups of the teachers.
        identity: classes of all teachers.
        config: options of the visits.
        spec: input and number of outputs of the meta-model.
    """

    def __init__(
        self,
        workspace: Workspace,
        grouping: Grouping,
        identity: ClassIdentity,
        config: VisitDrawConfig,
        spec: ClassifierSpec,
    ) -> None:
        self.workspace, self.grouping, self.identity = workspace, grouping, identity
        self.config, self.spec = config, spec
        self.teachers = workspace.zoo.teachers_in_turn(workspace.compute.device)

    @property
    def stored(self) -> Sequence[Labelled]:
        """Images of every teacher that fill the memory from the start; empty, the default, if it grows by visits."""
        return ()

    def __call__(self, iteration: int) -> Sequence[Visit]:
        """Visits of a meta-iteration."""
        random = generator(self.workspace.seed, "visits", "iteration", iteration)
        return self._visits(iteration, self.draw(iteration, random), random)

    def to_teachers(self, iteration: int, teachers: Sequence[int], random: torch.Generator) -> list[Visit]:
        """Visits to given teachers instead of drawn ones."""
        return self._visits(iteration, self._choose(teachers, random), random)

    def draw(self, iteration: int, random: torch.Generator) -> list[Chosen]:
        """Draw the teachers of an iteration, and their classes."""
        partition = self.grouping.draw(iteration, random)
        members = draw_members(partition, self.config.teachers, random, replacement=self.config.replacement)[1]
        return self._choose(members, random)

    def _choose(self, teachers: Sequence[int], random: torch.Generator) -> list[Chosen]:
        return [Chosen(teacher, self._drawn_classes(teacher, random)) for teacher in teachers]

    def _visits(self, iteration: int, chosen: Sequence[Chosen], random: torch.Generator) -> list[Visit]:
        found = self.images_of(iteration, chosen, random)
        return [self._visit(visit, *labelled) for visit, labelled in zip(chosen, found, strict=True)]

    def _drawn_classes(self, teacher: int, random: torch.Generator) -> Tensor:
        offered = self.classes_of(teacher)
        drawn = torch.randperm(len(offered), generator=random)[: self.spec.classes]
        return offered[drawn.sort().values]

    def _visit(self, chosen: Chosen, images: Tensor, labels: Tensor) -> Visit:
        teacher = chosen.teacher
        return Visit(
            fitted(images, self.spec.input_size),
            (labels.unsqueeze(1) == chosen.classes).int().argmax(1),
            self.identity.of(teacher)[labels],
            lambda pixels: chosen.logits(self.teachers[teacher](pixels)),
            teacher,
        )

    def classes_of(self, teacher: int) -> Int64[Tensor, " classes"]:
        """Classes of a teacher that a visit may draw."""
        return torch.arange(self.workspace.zoo.contracts[teacher].spec.classes)

    def wanted(self, chosen: Chosen) -> Int64[Tensor, " n"]:
        """Classes of the images to recover for a visit."""
        return chosen.classes.repeat(self.config.images_per_class)

    def finish(self) -> None:
        """Store what the run keeps of the source, once, after the last visit."""

    @abstractmethod
    def images_of(self, iteration: int, chosen: Sequence[Chosen], random: torch.Generator) -> Sequence[Labelled]:
        """Images of the chosen classes of every visit, with their classes."""


@final
class InvertedVisits(TeacherVisits):
    """Images of every visit by an inversion from scratch, as published with TGR (ICML 2024).

    Args:
        recovery: options of the inversion; for the others see `TeacherVisits`.
    """

    def __init__(
        self,
        workspace: Workspace,
        grouping: Grouping,
        identity: ClassIdentity,
        config: VisitDrawConfig,
        spec: ClassifierSpec,
        recovery: GeneratorConfig | RecoveryConfig,
    ) -> None:
        super().__init__(workspace, grouping, identity, config, spec)
        self._recovery = recovery

    def images_of(self, iteration: int, chosen: Sequence[Chosen], random: torch.Generator) -> Sequence[Labelled]:
        """Images by inversions of all visits, which the executor may share."""
        workspace = self.workspace
        names = [workspace.zoo.contracts[visit.teacher].name for visit in chosen]
        requests = [Request(name, self.wanted(visit)) for name, visit in zip(names, chosen, strict=True)]
        found = recover_requests(
            workspace.zoo,
            requests,
            self._recovery,
            workspace.seed,
            iteration,
            executor=workspace.executor,
            stored_side=_STORED_SIDE,
            compute=workspace.compute,
            check=workspace.check,
        )
        return [(recovered.images, recovered.labels) for recovered in found]


@final
class BankVisits(TeacherVisits):
    """Images of every visit from the bank, whose images also fill the memory.

    Args:
        stored: recovered images of every teacher; for the others see `TeacherVisits`.
    """

    def __init__(
        self,
        workspace: Workspace,
        grouping: Grouping,
        identity: ClassIdentity,
        config: VisitDrawConfig,
        spec: ClassifierSpec,
        stored: Sequence[Labelled],
    ) -> None:
        super().__init__(workspace, grouping, identity, config, spec)
        self._stored = stored

    @property
    def stored(self) -> Sequence[Labelled]:
        """Images of every teacher in the bank."""
        return self._stored

    def classes_of(self, teacher: int) -> Int64[Tensor, " classes"]:
        """Classes of which the bank holds images."""
        return self._stored[teacher][1].unique()

    def images_of(self, iteration: int, chosen: Sequence[Chosen], random: torch.Generator) -> Sequence[Labelled]:
        """Images drawn from those of each class."""
        found = []
        for visit in chosen:
            images, labels = self._stored[visit.teacher]
            drawn = torch.cat(draw_of_each(labels, visit.classes.tolist(), self.config.images_per_class, random))
            found.append((images[drawn], labels[drawn]))
        return found
