"""The meta-model as users hold it: load it, adapt it, hand it on."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, final

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from metazoo.adapt.classifier import FewShotClassifier, adapt
from metazoo.adapt.stored import check_tensors
from metazoo.errors import ArtefactError, UsageError
from metazoo.learn.heads import DEFAULT_HEAD
from metazoo.models import ClassifierSpec, ImageClassifier, build_classifier, network_without_weights
from metazoo.run.artefacts import read_json, write_json
from metazoo.run.tensor_files import read_tensors, write_tensors
from metazoo.run.validation import first_problem

FORMAT_VERSION = 1
DESCRIPTION, WEIGHTS = "meta-model.json", "model.safetensors"


class MetaModelDescription(BaseModel):
    """What `meta-model.json` says."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["metazoo-meta-model"] = "metazoo-meta-model"
    format_version: Literal[1] = FORMAT_VERSION
    method: str
    setting: str
    seed: int
    spec: ClassifierSpec
    weights_sha256: str


@final
class MetaModel:
    """A trained meta-model.

    Attributes:
        classifier: the network; images [n, 3, h, w] in [0, 1] of any size go in, `classifier.features` is what new
            classes are told apart by.
        method: that it was trained by.
        setting: of the method.
        seed: of the run.
    """

    def __init__(self, classifier: ImageClassifier, *, method: str, setting: str, seed: int) -> None:
        self.classifier, self.method, self.setting, self.seed = classifier, method, setting, seed

    def adapt(
        self,
        support_images: Tensor,
        support_labels: Tensor,
        class_names: Sequence[str] | None = None,
        *,
        head: str = DEFAULT_HEAD,
        batch_norm: str = "running",
        mirrored: bool = False,
    ) -> FewShotClassifier:
        """A classifier of new classes from a few images of each; see `metazoo.adapt.adapt`."""
        source = f"{self.method} ({self.setting}), seed {self.seed}"
        return adapt(
            self.classifier,
            support_images,
            support_labels,
            class_names,
            head=head,
            batch_norm=batch_norm,
            mirrored=mirrored,
            source=source,
        )

    def save(self, folder: Path | str) -> tuple[str, ...]:
        """Write both files, weights first; their names are returned.

        Raises:
            ArtefactError: the folder cannot be written.
        """
        folder = Path(folder)
        sha256 = write_tensors(folder / WEIGHTS, self.classifier.network.state_dict())
        description = MetaModelDescription(
            method=self.method,
            setting=self.setting,
            seed=self.seed,
            spec=self.classifier.spec,
            weights_sha256=sha256,
        )
        write_json(folder / DESCRIPTION, description.model_dump(mode="json"))
        return WEIGHTS, DESCRIPTION

    @classmethod
    def load(cls, folder: Path | str) -> "MetaModel":
        """Read a meta-model, to the CPU.

        Raises:
            UsageError: the folder does not exist.
            ArtefactError: a file is missing, damaged, changed, or does not fit the other.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise UsageError(f"{folder} is not a folder; give that of a meta-model, such as RUN/meta-model")
        try:
            description = MetaModelDescription.model_validate(read_json(folder / DESCRIPTION))
            expected = network_without_weights(description.spec).state_dict()
        except (ValidationError, UsageError) as error:
            reason = first_problem(error) if isinstance(error, ValidationError) else error
            raise ArtefactError(f"{folder / DESCRIPTION} does not describe a meta-model: {reason}") from error
        tensors = read_tensors(folder / WEIGHTS, description.weights_sha256)
        check_tensors(folder, DESCRIPTION, tensors, expected, "restore both files")
        classifier = build_classifier(description.spec, torch.Generator().manual_seed(0))
        classifier.network.load_state_dict(tensors)
        return cls(
            classifier.eval().requires_grad_(False),
            method=description.method,
            setting=description.setting,
            seed=description.seed,
        )
