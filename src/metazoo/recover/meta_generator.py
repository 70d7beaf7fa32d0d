"""A generator that a few steps adapt to any teacher (FIVE of FREE, Wei et al., CVPR 2024).

Inversion from scratch trains a new generator for every teacher, in hundreds of steps. Here one generator persists. A
few steps adapt a copy of it to a teacher, and what all copies learned moves the persistent one, so that the next few
steps lead further.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, final

import torch
from jaxtyping import Int64
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from metazoo.data.augment import CropAndFlipAlike, ShiftAndFlip
from metazoo.errors import DataError
from metazoo.execution.compute import CPU, Compute
from metazoo.execution.optimisers import Adam
from metazoo.execution.process_memory import give_back_memory
from metazoo.execution.threads import CALLING_THREAD, WorkerThreads
from metazoo.models import Generator
from metazoo.recover.adam import PlainAdam
from metazoo.recover.generated import GeneratorCanvas
from metazoo.recover.inversion import Inversion, RecoveredImages
from metazoo.recover.objectives import BatchNormDistance, CrossEntropy, Objective
from metazoo.zoo.teachers import WhiteBoxTeacher

_BETAS = 0.5, 0.999


class MetaGeneratorConfig(BaseModel):
    """Options of a meta-generator, with the published values as defaults."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    steps: int = Field(default=5, ge=1, description="steps of Adam on the copy for a teacher and its latent vectors")
    learning_rate: float = Field(default=1e-3, gt=0, description="learning rate of these steps")
    outer_step: Literal["published", "persistent", "reptile"] = Field(
        default="published",
        description="step of the meta-generator: published, persistent: Adam on the summed gradients of the copies at "
        "their last steps, made anew in every iteration (which amounts to the sign of the gradient) or not; reptile: "
        "towards the mean of the copies",
    )
    outer_learning_rate: float = Field(
        default=1e-3, gt=0, description="learning rate of the outer Adam; unused by reptile"
    )
    interpolation: float = Field(
        default=1.0, gt=0, le=1, description="share of the way to the mean of the copies; reptile only"
    )
    warm_up: int = Field(
        default=19, ge=0, description="iterations that train only the meta-generator, before the first visit"
    )
    latent: int = Field(default=256, ge=1, le=65536, description="size of a latent vector")
    width: int = Field(default=64, ge=1, le=4096, description="channels of the last hidden layer of the generator")
    cross_entropy: float = Field(default=1.0, ge=0, description="weight of the cross-entropy with the target class")
    batch_norm: float = Field(default=0.0, ge=0, description="weight of the batch-norm statistics")
    adversarial: float = Field(
        default=1.0,
        ge=0,
        description="weight of the divergence of meta-model and teacher where both predict one class; 0 in the warm-up",
    )
    shift: float = Field(default=0.125, ge=0, lt=0.5, description="largest shift of a crop, as a fraction of the side")
    shared_augmentation: bool = Field(
        default=True, description="one crop with black border and one flip for the whole batch, as published"
    )

    @model_validator(mode="after")
    def _check(self) -> "MetaGeneratorConfig":
        if not (self.cross_entropy or self.batch_norm):
            raise ValueError("cross_entropy and batch_norm are 0; raise one of them")
        return self


@dataclass(frozen=True, eq=False)
class Adaptation:
    """Wish for images of one teacher: the teacher, target classes, further terms of the loss, and random numbers."""

    teacher: WhiteBoxTeacher
    labels: Int64[Tensor, " n"]
    objectives: Sequence[Objective]
    random: torch.Generator


@dataclass(frozen=True, eq=False)
class _Adapted:
    """Images of an adapted copy, its values, and the gradient of the last loss, one tensor per parameter."""

    recovered: RecoveredImages
    values: Sequence[Tensor]
    gradients: Sequence[Tensor]


@final
class MetaGenerator:
    """Generator that persists over all teachers, and whose copies a few steps adapt to one teacher each.

    An iteration is for several teachers. For each, a copy of the generator and new latent vectors are trained together
    by new moments of Adam. Then the generator takes one step, a first-order meta-gradient step: along the sum of the
    gradients that the copies had at their last step, each where that step began (published), or towards the mean of
    the copies (Reptile, Nichol et al. 2018).

    Deviations from the published code:

    - the images of a teacher are those of the step with the lowest loss (published: of the last step, by a misplaced
      test that was to choose the lowest);
    - the objectives are given, so the adversarial one is what the caller passes; it belongs to the meta-model.

    Args:
        side: side of all generated images in pixels, a multiple of 4; teachers resize them to their own.
        config: options.
        random: source of the first weights.
        compute: device of generator and teachers, and precision of the adaptations.
        threads: worker threads that share the teachers of an iteration.

    Attributes:
        network: the persistent generator.

    Raises:
        UsageError: `side` is not a multiple of 4.
    """

    def __init__(
        self,
        side: int,
        config: MetaGeneratorConfig,
        random: torch.Generator,
        *,
        compute: Compute = CPU,
        threads: WorkerThreads = CALLING_THREAD,
    ) -> None:
        self._config, self._compute, self._threads = config, compute, threads
        self.network = Generator(side, latent=config.latent, width=config.width)
        self.network.initialise(random)
        self.network.to(compute.device).to(memory_format=torch.channels_last)
        self._augmentation = (CropAndFlipAlike if config.shared_augmentation else ShiftAndFlip)(
            round(side * config.shift)
        )
        self._values = dict(self.network.named_parameters())
        self._optimiser = self._new_optimiser()

    def step(
        self, adaptations: Sequence[Adaptation], check: Callable[[], None] = lambda: None
    ) -> list[RecoveredImages]:
        """Adapt a copy to every teacher, then move the generator; return the images of the copies.

        The result does not depend on the number of threads.

        Args:
            adaptations: one or more teachers with their target classes; a teacher may occur twice.
            check: function that is called before every teacher, and may raise.

        Raises:
            DataError: a loss is not finite; the teacher is named.
        """
        found = self._adapted(adaptations, check)
        with torch.no_grad():
            if self._config.outer_step == "reptile":
                for value, *copies in zip(self._values.values(), *(one.values for one in found), strict=True):
                    value.lerp_(torch.stack(copies).mean(0), self._config.interpolation)
            else:
                if self._config.outer_step == "published":
                    self._optimiser = self._new_optimiser()
                sums = [torch.stack(parts).sum(0) for parts in zip(*(one.gradients for one in found), strict=True)]
                self._optimiser.step(sums, self._config.outer_learning_rate)
        images = [one.recovered for one in found]
        del found
        give_back_memory(torch.device(self._compute.device))
        return images

    def images(
        self, adaptations: Sequence[Adaptation], check: Callable[[], None] = lambda: None
    ) -> list[RecoveredImages]:
        """Images of a copy for every teacher, as in `step`, but the generator stays as it is."""
        images = [one.recovered for one in self._adapted(adaptations, check)]
        give_back_memory(torch.device(self._compute.device))
        return images

    def _adapted(self, adaptations: Sequence[Adaptation], check: Callable[[], None]) -> list[_Adapted]:
        # Copies are made before any thread runs a teacher, whose layers it changes for the time of a pass.
        own = [self._unshared(number, adaptations) for number in range(len(adaptations))]

        def checked() -> Iterator[Adaptation]:
            for adaptation in own:
                check()
                yield adaptation

        return list(self._threads.map(self._adapt, checked()))

    def _unshared(self, number: int, adaptations: Sequence[Adaptation]) -> Adaptation:
        """Adaptation of this number; with several threads, a teacher that occurs before is copied."""
        own = adaptations[number]
        occurs = any(own.teacher is other.teacher for other in adaptations[:number])
        if not occurs or self._threads.count == 1:
            return own
        return Adaptation(copy.deepcopy(own.teacher), own.labels, own.objectives, own.random)

    def _adapt(self, adaptation: Adaptation) -> _Adapted:
        config, teacher, random = self._config, adaptation.teacher, adaptation.random
        terms: list[Objective] = [CrossEntropy(config.cross_entropy)]
        if config.batch_norm:
            terms.append(BatchNormDistance(config.batch_norm))
        latents = torch.randn(len(adaptation.labels), config.latent, generator=random).to(teacher.device)
        network = copy.deepcopy(self.network)
        canvas, losses, gradients = GeneratorCanvas(network, latents), [], []
        with self._compute.mixed(), torch.enable_grad():
            inversion = Inversion(
                teacher, canvas, adaptation.labels, [*terms, *adaptation.objectives], self._augmentation, random
            )
            optimiser = PlainAdam(canvas.parameters, _BETAS, [config.learning_rate] * config.steps)
            for _ in range(config.steps):
                loss = inversion.loss()
                gradients = torch.autograd.grad(loss, canvas.parameters)
                losses.append(loss.detach())
                optimiser.step(gradients)
            values = [value.detach() for value in network.parameters()]
            if not all(bool(tensor.isfinite().all()) for tensor in (torch.stack(losses), *values)):
                raise DataError(
                    f"model {teacher.name!r}",
                    "the loss of the generated images, or its gradient, is not finite",
                    "check the model with `metazoo zoo verify`, or lower generator.learning_rate or "
                    "generator.outer_learning_rate",
                )
            return _Adapted(inversion.best(), values, gradients[1:])

    def _new_optimiser(self) -> Adam:
        return Adam([*self._values.values()])

    def state(self) -> dict[str, Tensor]:
        """Weights, and moments of an outer Adam that persists, for a checkpoint."""
        tensors = {f"generator.{name}": value.detach() for name, value in self._values.items()}
        if self._config.outer_step == "persistent":
            for name, state in zip(self._values, self._optimiser.state(), strict=True):
                tensors |= {f"optimiser.{key}.{name}": value for key, value in state.items()}
        return tensors

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Resume from `state`; other tensors are ignored.

        Raises:
            DataError: the tensors are not a state of this generator.
        """
        try:
            with torch.no_grad():
                for name, value in self._values.items():
                    value.copy_(tensors[f"generator.{name}"])
            if self._config.outer_step == "persistent":
                keys = self._optimiser.state()[0]
                states = [{key: tensors[f"optimiser.{key}.{name}"] for key in keys} for name in self._values]
                self._optimiser.restore(states)
        except (KeyError, RuntimeError) as error:
            problem = f"does not fit the meta-generator: {error}"
            raise DataError("checkpoint", problem, "start the run again") from error


def generator_side(side: int) -> int:
    """Side of generated images for a network that sees `side` pixels: rounded up to a multiple of 4."""
    return -(-side // 4) * 4
