"""Contracts: the description of each model of a zoo, without its weights."""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from metazoo.choices import Control, Permission
from metazoo.errors import UsageError
from metazoo.models import ClassifierSpec
from metazoo.storage.validation import first_problem
from metazoo.zoo.training_config import TrainingConfig


def _check_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", text):
        raise ValueError(
            "a name has 1 to 100 letters (A to Z), digits, dots, dashes or underscores, a letter or digit first"
        )
    return text


def _check_text(text: str) -> str:
    if not re.fullmatch(r"[^\x00-\x1f\x7f-\x9f]{1,500}", text):
        raise ValueError("a text has 1 to 500 characters without control characters")
    return text


# A name is the stem of a file and must not lead out of the folder.
ModelName = Annotated[str, AfterValidator(_check_name)]
# Control characters could forge lines of a terminal or a report.
ShortText = Annotated[str, AfterValidator(_check_text)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
_LONGEST_NAME_IN_A_SPEC = 100
# Fields added after format version 1, with their defaults, which are not written.
_UNWRITTEN_DEFAULTS = {
    ("recovered_images",): "show",
    ("provenance", "state_dict"): None,
    ("provenance",): None,
    ("training", "recipe", "largest_shift"): None,
    ("training", "control"): None,
    ("training", "choice"): "drawn",
}


class TrainingRecord(BaseModel):
    """Origin of the weights of a trained model: with the same images, enough to train it again."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    source: ShortText = Field(description="name of the image set that has the classes")
    data_sha256: Sha256 = Field(description="`ImageSet.sha256` of the whole set")
    seed: int = Field(ge=0, lt=2**63)
    index: int = Field(ge=0, description="number of the model among those of its domain, architecture and seed")
    ways: int = Field(ge=2, description="number of classes")
    choice: Literal["drawn", "listed"] = Field(
        default="drawn", description="choice of the classes: drawn by the seed, or listed by the user"
    )
    train_fraction: float = Field(gt=0, lt=1, description="fraction of each class's images used for training")
    training_images: int = Field(ge=1)
    validation_images: int = Field(ge=1)
    recipe: TrainingConfig = Field(description="training configuration without open values")
    torch_version: ShortText
    control: Control | None = Field(default=None, description="type of a control model; None for a trained model")

    @model_validator(mode="after")
    def _check(self) -> "TrainingRecord":
        if not self.recipe.is_resolved:
            raise ValueError("the training configuration leaves a value open")
        return self


class Provenance(BaseModel):
    """Origin of imported weights, with their properties according to the source; None: unknown."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    source: ShortText = Field(description="source given by the user, such as hf:OWNER/NAME, or the name of a file")
    source_sha256: Sha256 = Field(description="SHA-256 of the weights file")
    revision: ShortText | None = Field(default=None, description="commit of a repository, or published weights")
    state_dict: ShortText | None = Field(default=None, description="key that was chosen in a file of several")
    licence: ShortText | None = None
    library: ShortText | None = Field(default=None, description="library that builds the architecture, and its version")
    resize: int | None = Field(
        default=None, ge=1, le=4096, description="shorter side in pixels before cropping, as in training"
    )
    crop: float | None = Field(default=None, gt=0, le=1, description="fraction of the resized side kept by cropping")
    interpolation: ShortText | None = Field(default=None, description="interpolation used for resizing")
    output: Literal["logits"] = "logits"


class ModelContract(BaseModel):
    """Description of one model of a zoo: architecture, classes, origin and hash of its weights.

    The weights are always in `models/NAME.safetensors` of the zoo.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: ModelName
    spec: ClassifierSpec
    class_names: tuple[ShortText, ...] = Field(description="class names in the order of the outputs")
    domain: ShortText = Field(description="domain of the images, such as the name of a data set")
    weights_sha256: Sha256
    accuracy: float | None = Field(default=None, ge=0, le=100, description="accuracy on validation images in percent")
    training: TrainingRecord | None = Field(default=None, description="training by metazoo; None for other models")
    recovered_images: Permission = Field(default="show", description="permitted use of images recovered from the model")
    provenance: Provenance | None = Field(default=None, description="origin of an imported model")

    def as_record(self) -> dict[str, Any]:
        """JSON form, without the defaults of fields that older zoos lack."""
        record = self.model_dump(mode="json")
        for (*above, name), default in _UNWRITTEN_DEFAULTS.items():
            holder: Any = record
            for key in above:
                holder = holder.get(key) or {}  # imported models have no training record
            if name in holder and holder[name] == default:
                del holder[name]
        return record

    def identity(self) -> dict[str, Any]:
        """JSON form without the permission for recovered images, which may change."""
        return {key: value for key, value in self.as_record().items() if key != "recovered_images"}

    @property
    def is_white_box(self) -> bool:
        """Whether the weights are known, as opposed to an endpoint that answers queries."""
        return bool(self.weights_sha256)

    @model_validator(mode="after")
    def _check(self) -> "ModelContract":
        if len(self.class_names) != self.spec.classes:
            raise ValueError(f"{len(self.class_names)} class names for {self.spec.classes} classes")
        if len(set(self.class_names)) < len(self.class_names):
            raise ValueError("duplicate class name")
        if max(map(len, (self.spec.architecture, *self.spec.arguments))) > _LONGEST_NAME_IN_A_SPEC:
            raise ValueError("the name of the architecture or of an argument is too long")
        return self


def checked_contract(**values: Any) -> ModelContract:
    """Make a contract from a user's values.

    Raises:
        UsageError: a value is out of bounds.
    """
    try:
        return ModelContract(**values)
    except ValidationError as error:
        raise UsageError(f"model {values['name']!r}", first_problem(error), "change that value") from error
