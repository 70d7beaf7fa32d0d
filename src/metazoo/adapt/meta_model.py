"""The meta-model as users hold it: load it, adapt it, hand it on."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, final

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from metazoo.adapt.classifier import FewShotClassifier, adapt
from metazoo.adapt.stored import check_tensors, silent
from metazoo.errors import ArtefactError, UsageError
from metazoo.learn.embedders import MultiDomainClassifier, readouts_of
from metazoo.learn.heads import DEFAULT_HEAD
from metazoo.learn.readouts import DomainReadouts
from metazoo.models import ClassifierSpec, ImageClassifier, build_classifier, network_without_weights
from metazoo.run.artefacts import read_json, write_json
from metazoo.run.tensor_files import read_tensors, write_tensors
from metazoo.run.validation import first_problem

FORMAT_VERSION = 1
_READOUTS = "readouts."
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
    domains: tuple[str, ...] = Field(default=(), description="that there are readouts of; none or at least two")
    weights_sha256: str


@final
class MetaModel:
    """A trained meta-model.

    Attributes:
        module: what new tasks are learned from: the classifier, with the readouts of its domains if it has some.
        method: that it was trained by.
        setting: of the method.
        seed: of the run.
    """

    def __init__(
        self, module: ImageClassifier | MultiDomainClassifier, *, method: str, setting: str, seed: int
    ) -> None:
        self.module, self.method, self.setting, self.seed = module, method, setting, seed

    @property
    def classifier(self) -> ImageClassifier:
        """The network: images [n, 3, h, w] in [0, 1] of any size go in; `classifier.features` gives its features."""
        return self.module.classifier if isinstance(self.module, MultiDomainClassifier) else self.module

    def adapt(
        self,
        support_images: Tensor,
        support_labels: Tensor,
        class_names: Sequence[str] | None = None,
        *,
        head: str = DEFAULT_HEAD,
        batch_norm: str = "running",
        mirrored: bool = False,
        domain: str | None = None,
    ) -> FewShotClassifier:
        """A classifier of new classes from a few images of each; see `metazoo.adapt.adapt`."""
        source = f"{self.method} ({self.setting}), seed {self.seed}"
        return adapt(
            self.module,
            support_images,
            support_labels,
            class_names,
            head=head,
            batch_norm=batch_norm,
            mirrored=mirrored,
            domain=domain,
            source=source,
        )

    def save(self, folder: Path | str) -> tuple[str, ...]:
        """Write both files, weights first; their names are returned.

        Raises:
            ArtefactError: the folder cannot be written.
        """
        folder = Path(folder)
        readouts = readouts_of(self.module)
        tensors = self.classifier.network.state_dict()
        if readouts is not None:
            tensors |= {f"{_READOUTS}{name}": tensor for name, tensor in readouts.state_dict().items()}
        sha256 = write_tensors(folder / WEIGHTS, tensors)
        description = MetaModelDescription(
            method=self.method,
            setting=self.setting,
            seed=self.seed,
            spec=self.classifier.spec,
            domains=() if readouts is None else readouts.domains,
            weights_sha256=sha256,
        )
        write_json(folder / DESCRIPTION, description.model_dump(mode="json", exclude=silent(description.domains)))
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
            network = network_without_weights(description.spec)
        except (ValidationError, UsageError) as error:
            reason = first_problem(error) if isinstance(error, ValidationError) else error
            raise ArtefactError(f"{folder / DESCRIPTION} does not describe a meta-model: {reason}") from error
        tensors = read_tensors(folder / WEIGHTS, description.weights_sha256)
        expected = network.state_dict() | _expected_readouts(len(description.domains), network.feature_size)
        check_tensors(folder, DESCRIPTION, tensors, expected, "restore both files")
        of_readouts = {name: tensors.pop(name) for name in [*tensors] if name.startswith(_READOUTS)}
        classifier = build_classifier(description.spec, torch.Generator().manual_seed(0))
        classifier.network.load_state_dict(tensors)
        module: ImageClassifier | MultiDomainClassifier = classifier.eval().requires_grad_(False)
        if of_readouts:
            module = MultiDomainClassifier(module, _readouts(folder, description.domains, of_readouts)).eval()
        return cls(
            module,
            method=description.method,
            setting=description.setting,
            seed=description.seed,
        )


def _expected_readouts(domains: int, features: int) -> dict[str, Tensor]:
    if not domains:
        return {}
    kernels = torch.empty(domains, features + 1, features + 1, device="meta")
    return {f"{_READOUTS}kernels": kernels, f"{_READOUTS}recogniser": kernels[:, 0].T}


def _readouts(folder: Path, domains: Sequence[str], tensors: Mapping[str, Tensor]) -> DomainReadouts:
    try:
        return DomainReadouts(domains, *(tensors[f"{_READOUTS}{name}"] for name in ("kernels", "recogniser")))
    except UsageError as error:
        raise ArtefactError(f"the readouts in {folder} are damaged ({error}); restore both files") from error
