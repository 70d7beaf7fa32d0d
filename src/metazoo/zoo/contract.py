"""What must be known of one model of a zoo, apart from its weights."""

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
        raise ValueError("a text has 1 to 500 characters, none of them a control character")
    return text


# A name is the stem of a file, so nothing in it can lead out of the folder.
ModelName = Annotated[str, AfterValidator(_check_name)]
# Control characters could forge the lines of a terminal or a report.
ShortText = Annotated[str, AfterValidator(_check_text)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
_LONGEST_NAME_IN_A_SPEC = 100
# Fields that are younger than format version 1; with the value beside them they are not written.
_SILENT = {
    ("recovered_images",): "show",
    ("provenance",): None,
    ("training", "recipe", "largest_shift"): None,
    ("training", "control"): None,
}


class TrainingRecord(BaseModel):
    """Where the weights of a model come from. With the same images it is enough to train the model again."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    source: ShortText = Field(description="name of the image set that the classes were drawn from")
    data_sha256: Sha256 = Field(description="`ImageSet.sha256` of that whole set")
    seed: int = Field(ge=0, lt=2**63)
    index: int = Field(ge=0, description="number of the model among those of its domain, architecture and seed")
    ways: int = Field(ge=2, description="classes drawn; their order is that of the model's outputs")
    train_fraction: float = Field(gt=0, lt=1, description="part of each class's images that it was trained on")
    training_images: int = Field(ge=1)
    validation_images: int = Field(ge=1)
    recipe: TrainingConfig = Field(description="configuration, with a value for every default")
    torch_version: ShortText
    control: Control | None = Field(default=None, description="how a control was made; None for a trained model")

    @model_validator(mode="after")
    def _check(self) -> "TrainingRecord":
        if not self.recipe.is_resolved:
            raise ValueError("the training configuration leaves a value open")
        return self


class Provenance(BaseModel):
    """Where imported weights come from, and their properties by that source. None stands for an unknown value."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    source: ShortText = Field(description="as it was asked for, such as hf:OWNER/NAME; of a local file its name alone")
    source_sha256: Sha256 = Field(description="SHA-256 of the file of weights")
    revision: ShortText | None = Field(default=None, description="commit of a repository, or the published weights")
    licence: ShortText | None = None
    library: ShortText | None = Field(default=None, description="which builds the architecture, with its version")
    resize: int | None = Field(
        default=None, ge=1, le=4096, description="pixels of the shorter side before cropping, as in its training"
    )
    crop: float | None = Field(default=None, gt=0, le=1, description="part of the resized side that is seen")
    interpolation: ShortText | None = Field(default=None, description="interpolation of the resizing")
    output: Literal["logits"] = "logits"


class ModelContract(BaseModel):
    """One model of a zoo: how to build it, what its outputs stand for, where it is from, and which weights are its own.

    The weights are always in `models/NAME.safetensors` of the zoo; a contract names no file.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: ModelName
    spec: ClassifierSpec
    class_names: tuple[ShortText, ...] = Field(description="what the outputs stand for, in their order")
    domain: ShortText = Field(description="domain of the images, such as the name of a data set")
    weights_sha256: Sha256
    accuracy: float | None = Field(default=None, ge=0, le=100, description="accuracy on validation images in percent")
    training: TrainingRecord | None = Field(default=None, description="None for a model that was not trained here")
    recovered_images: Permission = Field(default="show", description="what may be done with images recovered from it")
    provenance: Provenance | None = Field(default=None, description="source of an imported model")

    def as_record(self) -> dict[str, Any]:
        """The JSON form. What older zoos do not know is left out where it says nothing."""
        record = self.model_dump(mode="json")
        for (*above, name), silent in _SILENT.items():
            holder: Any = record
            for key in above:
                holder = holder.get(key) or {}  # of a model that was not trained here there is no record
            if name in holder and holder[name] == silent:
                del holder[name]
        return record

    def identity(self) -> dict[str, Any]:
        """The JSON form of what the model is: all but what may be done with its recovered images."""
        return {key: value for key, value in self.as_record().items() if key != "recovered_images"}

    @property
    def is_white_box(self) -> bool:
        """Whether its weights are known, and not only a way to ask it."""
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
    """Make a contract of values from a user.

    Raises:
        UsageError: one of them is out of bounds.
    """
    try:
        return ModelContract(**values)
    except ValidationError as error:
        raise UsageError(f"model {values['name']!r}", first_problem(error), "change that value") from error
