"""Few-shot classifiers, made from a few images per class."""

import copy
import dataclasses
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from metazoo.adapt.bundle import Bundle, ClassifierDescription, read_bundle
from metazoo.adapt.card import classifier_card
from metazoo.adapt.pretrained import downloaded_bundle
from metazoo.adapt.support import checked_images, checked_labels
from metazoo.errors import UsageError
from metazoo.execution.compute import Compute
from metazoo.features.batch_norm import (
    BatchNormMode,
    batch_norm_mode,
    batch_statistics,
    has_batch_norm,
    stored_statistics,
)
from metazoo.features.embedders import (
    Embedder,
    JointFeatures,
    MirroredFeatures,
    MultiDomainClassifier,
    SideBySide,
    device_of,
    for_known_domain,
)
from metazoo.features.heads import DEFAULT_HEAD, FittedHead, HeadKind, get_head
from metazoo.features.heads.head import checked, in_batches
from metazoo.models import ImageClassifier, square_images
from metazoo.zoo.importing.hub_files import is_hub_name


@dataclass(frozen=True, eq=False)
class Prediction:
    """Predictions for n images.

    Attributes:
        class_names: names of the classes, in the order of the probabilities.
        probabilities: probabilities on the CPU, rows summing to 1; they rank classes but are not calibrated.
    """

    class_names: tuple[str, ...]
    probabilities: Float[Tensor, "n ways"]

    @property
    def labels(self) -> Int64[Tensor, " n"]:
        """Predicted class of each image, as an index into `class_names`."""
        return self.probabilities.argmax(1)

    @property
    def names(self) -> list[str]:
        """Name of the predicted class of each image."""
        return [self.class_names[label] for label in self.labels.tolist()]


@final
class FewShotModule(nn.Module):
    """Few-shot classifier as a module from images to probabilities, for export.

    The steps are `square_images`, normalisation, the features of every network (also of the mirror image if mirrored)
    and the head. `torch.export` works with a dynamic number of images and dynamic sizes of at least 2 pixels. A
    transductive classifier takes each batch as the whole query set, so an export has to fix its size.
    """

    def __init__(
        self, module: ImageClassifier | SideBySide, fitted: FittedHead, description: ClassifierDescription
    ) -> None:
        super().__init__()
        self._embedder = MirroredFeatures(module) if description.mirrored else module
        self._statistics = batch_statistics if description.batch_norm == "query" else stored_statistics
        self.side = max(spec.input_size for spec in description.networks)
        self._kind: HeadKind = fitted.kind
        self._head = nn.Module()
        for name, tensor in fitted.tensors.items():
            self._head.register_buffer(name, tensor)

    @property
    def embedder(self) -> Embedder:
        """Embedder of the networks, without the mirror image."""
        return self._embedder.embedder if isinstance(self._embedder, MirroredFeatures) else self._embedder

    @property
    def fitted(self) -> FittedHead:
        """Fitted head."""
        return FittedHead(self._kind, **dict(self._head.named_buffers()))

    def features(self, images: Tensor) -> Tensor:
        """Features [n, d] of `images` [n, 1 or 3, h, w], uint8 or float in [0, 1], as the head takes them."""
        squares = square_images(images, self.side)
        with self._statistics(self._embedder):
            return self._embedder.features(squares)

    def embed(self, images: Tensor) -> Tensor:
        """Features [n, d] of `images` [n, 1 or 3, h, w], weighted by the domains of the task and of length 1."""
        features, scale = self.features(images), self.fitted.scale
        return functional.normalize(features if scale is None else features * scale, dim=1)

    def forward(self, images: Tensor) -> Tensor:
        """Probabilities [n, ways] of `images` [n, 1 or 3, h, w], uint8 or float in [0, 1]."""
        return self.fitted.probabilities(self.features(images))


@final
class FewShotClassifier:
    """Few-shot classifier: networks and a head that has learned a task. Made by `adapt` or `load`.

    Attributes:
        description: content of its `bundle.json`: head, batch norm, class names and networks.
    """

    def __init__(
        self, module: ImageClassifier | SideBySide, fitted: FittedHead, description: ClassifierDescription
    ) -> None:
        self.description, self._module = description, FewShotModule(module, fitted, description).eval()

    @property
    def card(self) -> ClassifierDescription:
        """Former name of `description`."""
        text = "FewShotClassifier.card is now description; the former name will be removed in the next minor version"
        warnings.warn(text, FutureWarning, stacklevel=2)
        return self.description

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.description.class_names

    @property
    def side(self) -> int:
        """Height and width of the input in pixels: the largest input of the networks."""
        return self._module.side

    @property
    def feature_size(self) -> int:
        """Number of features of an image."""
        return self._module.fitted.weight.shape[-1]

    @property
    def transductive(self) -> bool:
        """Whether the prediction for an image depends on the other images of the same call.

        This is so with soft k-means heads, which refine the classes by the images of a call, and with batch norm
        `query`, which normalises images by the statistics of a call.
        """
        by_batch_norm = self.description.batch_norm == "query" and has_batch_norm(self._module.embedder)
        return self._module.fitted.transductive or by_batch_norm

    def __repr__(self) -> str:
        networks = ", ".join(spec.architecture for spec in self.description.networks)
        return f"FewShotClassifier({', '.join(self.class_names[:10])}: head {self.description.head} on {networks})"

    def predict(self, images: Any) -> Prediction:
        """Classify images, each on its own unless the classifier is `transductive`.

        Args:
            images: batch [n, 3, h, w] or [n, h, w, 3] of any size, uint8 or float in [0, 1], a tensor or a NumPy array;
                or a sequence of paths, PIL images, tensors or arrays, of any sizes; or one PIL image. The same pixels
                give the same probabilities in every form.

        Raises:
            UsageError: a file does not exist.
            DataError: no image, a wrong shape, type or range, or a file that cannot be read.
        """
        return Prediction(self.class_names, self._of_images(images, self._module))

    def embed(self, images: Any) -> Float[Tensor, "n features"]:
        """Features of images on the CPU, of length 1, such that similar images have a large inner product.

        Args:
            images: images in any form that `predict` takes.

        Raises:
            UsageError, DataError: see `predict`.
        """
        return self._of_images(images, self._module.embed)

    def _of_images(self, images: Any, function: Callable[[Tensor], Tensor]) -> Tensor:
        squares = checked_images(images, self.side).to(device_of(self._module.embedder) or "cpu")
        with torch.no_grad():
            parts = [function(part) for part in ([squares] if self.transductive else in_batches(squares))]
        return checked(torch.cat(parts)).cpu()

    def as_module(self) -> FewShotModule:
        """Module that `predict` uses, from decoded images to probabilities.

        It shares its weights with the classifier. Copy it before training or moving it.
        """
        return self._module

    def to(self, device: str | torch.device) -> "FewShotClassifier":
        """Move the classifier to a device and return it.

        Raises:
            UsageError: the device is a GPU that does not exist.
        """
        if torch.device(device).type == "cuda":
            Compute.choose(str(device))
        self._module.to(device)
        return self

    def save(self, folder: Path | str) -> None:
        """Write the bundle completely or not at all, and replace an earlier classifier.

        Raises:
            UsageError: the folder holds something other than a classifier.
            ArtefactError: the folder cannot be written.
        """
        head = {f"head.{name}": tensor for name, tensor in self._module.fitted.tensors.items()}
        card = classifier_card(self._module.embedder, self.description, transductive=self.transductive)
        Bundle(self.description, _networks(self._module.embedder), head, card).write(folder)

    @classmethod
    def from_pretrained(cls, source: Path | str) -> "FewShotClassifier":
        """Load a bundle from a folder or, as hf:OWNER/NAME or hf:OWNER/NAME@REVISION, from the Hugging Face Hub.

        Raises:
            UsageError, ArtefactError: see `MetaModel.from_pretrained`.
        """
        if not is_hub_name(source):
            return cls.load(source)
        with downloaded_bundle(str(source), ClassifierDescription) as (folder, _):
            return cls.load(folder)

    @classmethod
    def load(cls, folder: Path | str) -> "FewShotClassifier":
        """Load a bundle, also of version 0.1, to the CPU.

        Raises:
            UsageError: the folder does not exist, or is a run, a zoo or a meta-model.
            ArtefactError: a file is missing, damaged or changed, or does not fit the other.
        """
        bundle = read_bundle(folder, ClassifierDescription)
        description = bundle.description
        several = JointFeatures if description.joint else SideBySide if description.is_weighted else None
        module = bundle.networks[0] if several is None else several(bundle.networks).eval()
        head = {name.removeprefix("head."): tensor for name, tensor in bundle.tensors.items()}
        return cls(module, FittedHead(description.head_kind, **head), description)


def adapt(
    module: Embedder,
    support_images: Any,
    support_labels: Any,
    class_names: Sequence[str] | None = None,
    *,
    head: str = DEFAULT_HEAD,
    batch_norm: str = "running",
    mirrored: bool = False,
    domain: str | None = None,
    source: str = "",
    licences: Sequence[str] = (),
) -> FewShotClassifier:
    """Make a classifier of new classes from a few images of each, with the same heads as `evaluate`.

    Args:
        module: `ImageClassifier` or `MultiDomainClassifier` (the `module` of a meta-model), teacher of a zoo, or
            `JointFeatures` of classifiers and teachers. It is copied.
        support_images: images in any form that `FewShotClassifier.predict` takes.
        support_labels: labels, one per image: whole numbers from 0 to ways - 1, or class names; a list, a tensor or an
            array. Classes may have different numbers of images.
        class_names: names of the classes. None stands for their numbers, or for the sorted names in `support_labels`.
        head: name of a head in `metazoo.features.heads.HEADS`.
        batch_norm: batch-norm mode `running`, `support` or `query`.
        mirrored: whether to use `MirroredFeatures`, also in predictions.
        domain: known domain of the images, one of those of the meta-model; None recognises it from the images.
        source: origin of the model, stored as a note in the bundle.
        licences: licences of the source models, for the card of the bundle; `unknown` for those without one.

    Raises:
        UsageError: an unknown head, mode or domain, labels or names that do not fit, a module of another type, or a
            file that does not exist.
        DataError: no image, a wrong shape, type or range, or a file that cannot be read.
    """
    domains: dict[str, float] = {}
    if domain is not None:
        module, domains = for_known_domain(module, domain), {domain: 1.0}
    embedder = _plain(module)
    mode: BatchNormMode = batch_norm_mode(batch_norm)
    images = checked_images(support_images, max(network.spec.input_size for network in _networks(embedder)))
    labels, names = checked_labels(support_labels, len(images), class_names)
    embedder = MirroredFeatures(embedder) if mirrored else embedder
    adapted, fitted = get_head(head).fit(embedder, images, labels, len(names), mode)
    own = copy.deepcopy(adapted) if adapted is embedder else adapted
    own = own.embedder if isinstance(own, MirroredFeatures) else own
    if isinstance(own, MultiDomainClassifier):
        assert fitted.shares is not None
        domains = dict(zip(own.recogniser.domains, fitted.shares.tolist(), strict=True))
        own, fitted = _active_networks(own, fitted)
    assert isinstance(own, (ImageClassifier, SideBySide))
    description = ClassifierDescription(
        networks=tuple(network.spec for network in _networks(own)),
        head=head,
        head_kind=fitted.kind,
        batch_norm=mode,
        mirrored=mirrored,
        domains=domains,
        class_names=names,
        joint=isinstance(own, JointFeatures),
        source=source,
        licences=tuple(licences),
    )
    return FewShotClassifier(own, fitted, description)


def _plain(module: Embedder) -> ImageClassifier | SideBySide:
    """Replace teachers in a module by their networks."""
    networks = _networks(module)
    if isinstance(module, MultiDomainClassifier):
        return module
    return JointFeatures(networks) if isinstance(module, JointFeatures) else networks[0]


def _networks(module: Embedder) -> list[ImageClassifier]:
    """Networks of a module, in their order."""
    networks: list[ImageClassifier] = []
    for member in module.members if isinstance(module, SideBySide) else [module]:
        network = getattr(member, "classifier", member)
        if not isinstance(network, ImageClassifier):
            raise UsageError("module", f"type {type(network).__name__}", "give an image classifier or several")
        networks.append(network)
    return networks


def _active_networks(
    module: MultiDomainClassifier, fitted: FittedHead
) -> tuple[ImageClassifier | SideBySide, FittedHead]:
    """Networks with a share in the task, and the head on their features."""
    assert fitted.scale is not None
    counts = fitted.scale > 0
    of_networks = counts.unflatten(0, (len(module.networks), -1)).all(1).tolist()
    own = [network for network, count in zip(module.networks, of_networks, strict=True) if count]
    scale = None if len(own) == 1 else fitted.scale[counts]
    return (
        own[0] if len(own) == 1 else SideBySide(own),
        dataclasses.replace(fitted, weight=fitted.weight[:, counts], scale=scale),
    )
