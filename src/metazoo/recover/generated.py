"""Model inversion through a generator, as Task Groupings Regularization publishes it (ICML 2024).

A generator and latent vectors are trained together, so that the teacher recognises what they make. At 32
pixels the generator is 97 % of the arithmetic, which is why `pixels` is the default elsewhere.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import final

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from metazoo.data.augment import CropAndFlipAlike, ShiftAndFlip
from metazoo.models import Generator
from metazoo.recover.inversion import Canvas, Inversion
from metazoo.recover.objectives import BatchNormDistance, CrossEntropy, Objective
from metazoo.zoo.teachers import WhiteBoxTeacher


@final
class GeneratorCanvas(Canvas):
    """Images that a network makes of latent vectors. Both are moved.

    Args:
        network: module from latent vectors to images [n, channels, side, side] in [0, 1].
        latents: [n, size of a latent vector].
    """

    def __init__(self, network: nn.Module, latents: Tensor) -> None:
        self.network, self.latents = network, latents
        self.parameters = (latents, *network.parameters())

    def images(self) -> Tensor:
        """The images of the latent vectors."""
        return self.network(self.latents)


class GeneratorConfig(BaseModel):
    """How images are recovered through a generator. The defaults are the published values."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    iterations: int = Field(default=200, ge=1, description="steps of Adam on generator and latent vectors")
    learning_rate: float = Field(default=1e-3, gt=0)
    latent: int = Field(default=256, ge=1, le=65536, description="size of a latent vector")
    width: int = Field(default=64, ge=1, le=4096, description="maps of the generator's last hidden layer")
    cross_entropy: float = Field(default=1.0, ge=0, description="weight of the wanted class")
    batch_norm: float = Field(default=1.0, ge=0, description="weight of the batch-norm statistics")
    shift: float = Field(default=0.125, ge=0, lt=0.5, description="largest shift of a crop, as a share of the side")
    shared_augmentation: bool = Field(
        default=True, description="as published: one crop with a black border and one flip for a whole batch"
    )

    def inversions(
        self,
        teacher: WhiteBoxTeacher,
        buckets: Iterable[Tensor],
        random: torch.Generator,
        *,
        guide: WhiteBoxTeacher | None = None,
        stored_side: int | None = None,
        objectives: Sequence[Objective] = (),
        network: nn.Module | None = None,
    ) -> Iterator[Inversion]:
        """Yield the inversion of each bucket, to be run before the next one.

        One network is trained from bucket to bucket, with latent vectors and moments of Adam of its own for each, as
        the published code does before it groups the teachers. Its sides are the teacher's input size, rounded up to a
        multiple of 4. Deterministic on a CPU given `random` and the number of threads.

        Args:
            teacher: a frozen model.
            buckets: wanted local classes of the images of each bucket, int64 [n].
            random: source of all draws, on the CPU.
            guide: see `Inversion`.
            stored_side: see `Inversion`.
            objectives: further terms of the loss, added to those of this config.
            network: generator on the teacher's device that is trained further, from latent vectors of size `latent`; a
                fresh one if None.
        """
        side = -(-teacher.input_size // 4) * 4
        if network is None:
            network = Generator(side, teacher.channels, latent=self.latent, width=self.width)
            network.initialise(random)
            # 1.5 times as fast as channels first on a CPU, 1.2 to 1.5 times on an H100.
            network.to(teacher.device).to(memory_format=torch.channels_last)
        augmentation = (CropAndFlipAlike if self.shared_augmentation else ShiftAndFlip)(round(side * self.shift))
        terms: list[Objective] = [CrossEntropy(self.cross_entropy), BatchNormDistance(self.batch_norm), *objectives]
        for labels in buckets:
            latents = torch.randn(len(labels), self.latent, generator=random).to(teacher.device)
            yield Inversion(
                teacher,
                GeneratorCanvas(network, latents),
                labels,
                terms,
                augmentation,
                random,
                learning_rates=[self.learning_rate] * self.iterations,
                betas=(0.5, 0.999),
                guide=guide,
                stored_side=stored_side,
            )
