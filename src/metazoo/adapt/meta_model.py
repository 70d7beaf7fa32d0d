"""The meta-model as users hold it: load it, adapt it, hand it on."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, final

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from metazoo.adapt.classifier import FewShotClassifier, adapt
from metazoo.adapt.stored import check_tensors, other_kind, silent
from metazoo.errors import ArtefactError, UsageError
from metazoo.features.domain_router import DomainRecogniser
from metazoo.features.embedders import MultiDomainClassifier, recogniser_of
from metazoo.features.heads import DEFAULT_HEAD
from metazoo.models import ClassifierSpec, ImageClassifier, build_classifier, network_without_weights
from metazoo.storage.artefacts import read_json, write_json
from metazoo.storage.tensor_files import read_tensors, write_tensors
from metazoo.storage.validation import first_problem

FORMAT_VERSION = 1
_RECOGNISER = "recogniser.weight"
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
    domains: tuple[str, ...] = Field(default=(), description="that there are specialists of; none or at least two")
    general: tuple[float, ...] = Field(
        default=(), description="share of the general network in each; empty if it has none"
    )
    weights_sha256: str


@final
class MetaModel:
    """A trained meta-model.

    Attributes:
        module: what new tasks are learned from: an image classifier, or a specialist of each of several domains.
        method: that it was trained by.
        preset: of the method.
        seed: of the run.
    """

    def __init__(self, module: ImageClassifier | MultiDomainClassifier, *, method: str, preset: str, seed: int) -> None:
        self.module, self.method, self.preset, self.seed = module, method, preset, seed

    def __repr__(self) -> str:
        """What it is, in one line."""
        several = f", {len(self.networks)} networks" if len(self.networks) > 1 else ""
        return (
            f"MetaModel({self.method}, {self.preset}, seed {self.seed}: {self.spec.architecture} of "
            f"{self.spec.input_size} pixels{several})"
        )

    @property
    def networks(self) -> tuple[ImageClassifier, ...]:
        """Its one network, or those of its domains, all of one shape; images [n, 3, h, w] in [0, 1] go in."""
        return self.module.networks if isinstance(self.module, MultiDomainClassifier) else (self.module,)

    @property
    def spec(self) -> ClassifierSpec:
        """The shape of its networks."""
        return self.networks[0].spec

    def adapt(
        self,
        support_images: Any,
        support_labels: Any,
        class_names: Sequence[str] | None = None,
        *,
        head: str = DEFAULT_HEAD,
        batch_norm: str = "running",
        mirrored: bool = False,
        domain: str | None = None,
    ) -> FewShotClassifier:
        """A classifier of new classes from a few images of each; see `metazoo.adapt.adapt`."""
        source = f"{self.method} ({self.preset}), seed {self.seed}"
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
        recogniser = recogniser_of(self.module)
        tensors = {
            f"{prefix}{name}": tensor
            for prefix, own in zip(_prefixes(len(self.networks)), self.networks, strict=True)
            for name, tensor in own.network.state_dict().items()
        }
        if recogniser is not None:
            tensors[_RECOGNISER] = recogniser.weight
        sha256 = write_tensors(folder / WEIGHTS, tensors)
        description = MetaModelDescription(
            method=self.method,
            setting=self.preset,
            seed=self.seed,
            spec=self.spec,
            domains=() if recogniser is None else recogniser.domains,
            general=recogniser.general if recogniser is not None and recogniser.is_general else (),
            weights_sha256=sha256,
        )
        write_json(folder / DESCRIPTION, description.model_dump(mode="json", exclude=silent(description)))
        return WEIGHTS, DESCRIPTION

    @classmethod
    def load(cls, folder: Path | str) -> "MetaModel":
        """Read a meta-model, to the CPU.

        Raises:
            UsageError: the folder does not exist, or is that of a run or a zoo.
            ArtefactError: a file is missing, damaged, changed, or does not fit the other.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise UsageError(f"{folder} is not a folder; give that of a meta-model, such as RUN/meta-model")
        found = None if (folder / DESCRIPTION).exists() else other_kind(folder)
        if found is not None:
            remedy = f"give {folder / 'meta-model'}" if found == "a run" else "give that of a run"
            raise UsageError(f"{folder} is {found}, not a meta-model; {remedy}")
        try:
            description = MetaModelDescription.model_validate(read_json(folder / DESCRIPTION))
            network = network_without_weights(description.spec)
        except (ValidationError, UsageError) as error:
            reason = first_problem(error) if isinstance(error, ValidationError) else error
            raise ArtefactError(f"{folder / DESCRIPTION} does not describe a meta-model: {reason}") from error
        tensors = read_tensors(folder / WEIGHTS, description.weights_sha256)
        domains = description.domains
        prefixes = _prefixes(max(1, len(domains) + any(description.general)))
        expected = {f"{prefix}{name}": own for prefix in prefixes for name, own in network.state_dict().items()}
        if domains:
            expected[_RECOGNISER] = torch.empty(len(domains) * network.feature_size + 1, len(domains), device="meta")
        check_tensors(folder, DESCRIPTION, tensors, expected, "restore both files")
        networks = []
        for prefix in prefixes:
            classifier = build_classifier(description.spec, torch.Generator().manual_seed(0))
            classifier.network.load_state_dict({name: tensors[f"{prefix}{name}"] for name in network.state_dict()})
            networks.append(classifier.eval().requires_grad_(False))
        module: ImageClassifier | MultiDomainClassifier = networks[0]
        if domains:
            try:
                recogniser = DomainRecogniser(domains, tensors[_RECOGNISER], description.general or None)
            except UsageError as error:
                raise ArtefactError(f"{folder / DESCRIPTION} does not describe a meta-model: {error}") from error
            module = MultiDomainClassifier(networks, recogniser).eval()
        return cls(
            module,
            method=description.method,
            preset=description.setting,
            seed=description.seed,
        )


def _prefixes(networks: int) -> list[str]:
    """Of the names of each network's tensors in the file."""
    return [""] if networks == 1 else [f"networks.{index}." for index in range(networks)]
