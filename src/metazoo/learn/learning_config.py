"""Options of learning from groups of teachers."""

from collections.abc import Callable
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from metazoo.learn.modulated import GateConfig, ModulatedRegularisation
from metazoo.learn.regularisers import ExplicitRegularisation, ImplicitRegularisation, MeanGradient, Regulariser
from metazoo.learn.update_rules import ReptileConfig, UpdateName
from metazoo.plugins import Registry

_RegulariserFactory = Callable[["RegularisationConfig"], Regulariser]
REGULARISERS: Registry[_RegulariserFactory] = Registry(
    "regulariser",
    values={
        "implicit": lambda config: config.implicit(),
        "explicit": lambda config: ExplicitRegularisation(config.step_strength),
        "mean": lambda _: MeanGradient(),
        "modulated": lambda config: ModulatedRegularisation(config.implicit(), config.gate),
    },
)
register_regulariser = REGULARISERS.register
"""Register a function from a `RegularisationConfig` to a `Regulariser`: `register_regulariser(name, factory)`, or as a
decorator `register_regulariser(name)`."""


class RegularisationConfig(BaseModel):
    """Options of joining the members' gradients; see `metazoo.learn.regularisers`.

    A regularised step takes several times as long as others, so one in `every` steps is regularised, with `every` times
    the strength (lazy regularisation, Karras et al. 2020, section 3.1).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Annotated[str, AfterValidator(REGULARISERS.validate)] = "implicit"
    displacement: float = Field(default=2e-3, gt=0, description="displacement r of the implicit form")
    strength: float = Field(default=2e-3, ge=0, description="weight of the disagreement; unused by mean")
    differentiate_displacement: bool = Field(default=False, description="as published, which doubles the strength")
    every: int = Field(default=1, ge=1, description="period of regularised steps, and factor of their strength")
    gate: GateConfig = GateConfig()

    def is_due(self, step: int) -> bool:
        """Whether a step, counted from 1, is regularised; the others follow the mean gradient."""
        return step % self.every == 0

    @property
    def step_strength(self) -> float:
        """Strength of a regularised step."""
        return self.strength * self.every

    def implicit(self) -> ImplicitRegularisation:
        """Make the implicit form of these options."""
        return ImplicitRegularisation(
            self.displacement, self.step_strength, differentiate_displacement=self.differentiate_displacement
        )

    def build(self) -> Regulariser:
        """Make the regulariser."""
        return REGULARISERS.get(self.kind)(self)


# Options of every learner; see `metazoo.learn.update_rules`.
Update = Annotated[
    UpdateName,
    Field(
        description="joint: one update per step; in-turn: one for each sub-group of teachers; reptile: one along the "
        "way of an inner optimiser, which visits the sub-groups in turn",
    ),
]
TeachersPerUpdate = Annotated[
    int,
    Field(
        ge=1, description="teachers of a sub-group; 1: nothing is regularised; unused by joint and by selective groups"
    ),
]


class DistillationConfig(BaseModel):
    """Options of learning the outputs of all teachers on recovered images."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    steps: int = Field(
        default=3000, ge=1, description="steps of Adam; with several domains, more for each: domains.specialise"
    )
    teachers_per_step: int = Field(default=4, ge=1, description="teachers of a step, all of one group")
    batch_size: int = Field(default=128, ge=2, description="augmented images of a step, over all its teachers")
    learning_rate: float = Field(default=5e-3, gt=0, description="highest learning rate, which falls by a cosine")
    warm_up_steps: int = Field(default=50, ge=0, description="steps in which the learning rate rises")
    joint_features: float = Field(default=1.0, ge=0, description="weight of predicting every teacher's features")
    relations: float = Field(default=3.0, ge=0, description="weight of the zoo's cosines between images")
    distillation: float = Field(default=0.3, ge=0, description="weight of predicting every teacher's probabilities")
    temperature: float = Field(default=1.0, gt=0, description="temperature of the distillation")
    views: int = Field(default=8192, ge=1, description="augmented images of a pool, which many steps use")
    steps_per_views: int = Field(default=1000, ge=1, description="steps with one pool of augmented images")
    mix: bool = Field(default=True, description="whether augmented images mix images of a group")
    shift: float = Field(default=0.125, ge=0, lt=0.5, description="largest shift, as a share of the side")
    calibration_images: int = Field(
        default=4096, ge=2, description="augmented images that give the meta-model its batch-norm statistics in the end"
    )

    @model_validator(mode="after")
    def _check(self) -> "DistillationConfig":
        if not (self.joint_features or self.relations or self.distillation):
            raise ValueError("joint_features, relations and distillation are 0; raise one of them")
        return self


class LearningConfig(DistillationConfig):
    """Options of learning from groups of teachers."""

    regularisation: RegularisationConfig = RegularisationConfig()
    update: Update = "joint"
    teachers_per_update: TeachersPerUpdate = 2
    reptile: ReptileConfig = ReptileConfig()
