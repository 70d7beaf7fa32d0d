"""Configuration of the training of zoo models, with the published values as defaults."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from metazoo.errors import UsageError

Optimiser = Literal["adam", "sgd"]


class TrainingConfig(BaseModel):
    """Configuration of supervised training, which keeps the weights of the last step.

    The defaults are the published ones: 60 epochs in batches of 128 without augmentation, Adam for conv4, SGD with
    momentum for residual networks. None stands for the published value of the architecture or optimiser (see
    `resolved`), and for no augmentation in `largest_shift`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    epochs: int = Field(default=60, ge=1, le=1_000_000, description="passes over the training images")
    batch_size: int = Field(
        default=128, ge=2, le=1_000_000, description="images per step; a single last image is skipped"
    )
    optimiser: Optimiser | None = Field(default=None, description="optimiser; None: adam for conv4, otherwise sgd")
    learning_rate: float | None = Field(default=None, gt=0, le=1e6, description="initial learning rate; None: 0.01")
    momentum: float | None = Field(default=None, ge=0, lt=1, description="momentum of sgd; None: 0.9")
    weight_decay: float | None = Field(
        default=None, ge=0, le=1e6, description="weight decay; None: 0 with adam, 5e-4 with sgd"
    )
    milestones: tuple[int, ...] | None = Field(
        default=None,
        max_length=1000,
        description="epochs after which the learning rate falls; None: 70 with adam, 30, 50 and 80 with sgd",
    )
    decay: float = Field(default=0.2, gt=0, le=1, description="factor on the learning rate at every milestone")
    gradient_norm: float = Field(
        default=50.0, gt=0, le=1e6, description="gradient norm above which gradients are clipped"
    )
    largest_shift: int | None = Field(
        default=None,
        ge=0,
        le=1000,
        description="largest shift in pixels of images that are mirrored and shifted at random; None: no augmentation",
    )

    def resolved(self, architecture: str) -> "TrainingConfig":
        """Configuration for one architecture, with the published value for every None.

        Raises:
            UsageError: Adam with momentum.
        """
        optimiser = self.optimiser or ("adam" if architecture == "conv4" else "sgd")
        if optimiser == "adam" and self.momentum:
            raise UsageError("momentum", f"adam takes none, not {self.momentum}", "omit it or choose sgd")
        published = {"optimiser": optimiser, **_PUBLISHED[optimiser]}
        return self.model_copy(update={key: value for key, value in published.items() if getattr(self, key) is None})

    @property
    def is_resolved(self) -> bool:
        """Whether no value is left open."""
        return None not in (self.optimiser, self.learning_rate, self.momentum, self.weight_decay, self.milestones)

    def learning_rate_in(self, epoch: int) -> float:
        """Learning rate of a resolved configuration in `epoch`, counted from 0."""
        assert self.learning_rate is not None
        assert self.milestones is not None
        return self.learning_rate * self.decay ** sum(epoch >= milestone for milestone in self.milestones)


_PUBLISHED: dict[Optimiser, dict[str, float | tuple[int, ...]]] = {
    "adam": {"learning_rate": 0.01, "momentum": 0.0, "weight_decay": 0.0, "milestones": (70,)},
    "sgd": {"learning_rate": 0.01, "momentum": 0.9, "weight_decay": 5e-4, "milestones": (30, 50, 80)},
}
