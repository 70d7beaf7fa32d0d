"""A user's own classifier, made from a few images a class."""

import copy
import dataclasses
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from metazoo.adapt.bundle import Bundle, ClassifierDescription, read_bundle
from metazoo.adapt.card import classifier_card
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


@dataclass(frozen=True, eq=False)
class Prediction:
    """The prediction for n images.

    Attributes:
        class_names: names of the classes in the order of the probabilities.
        probabilities: probabilities on the CPU, rows summing to 1; they rank classes and are not calibrated.
    """

    class_names: tuple[str, ...]
    probabilities: Float[Tensor, "n ways"]

    @property
    def labels(self) -> Int64[Tensor, " n"]:
        """The predicted class of each image, as an index into `class_names`."""
        return self.probabilities.argmax(1)

    @property
    def names(self) -> list[str]:
        """The name of the predicted class of each image."""
        return [self.class_names[label] for label in self.labels.tolist()]


@final
class FewShotModule(nn.Module):
    """A few-shot classifier from images to probabilities, in tensor operations alone.

    The steps: `square_images`, normalisation, features of every network and perhaps of the mirror image, head.
    `torch.export` may leave the number and the size of images open, from 2 pixels on. Of a transductive classifier each
    batch is the whole query set, and an export has to fix its size.
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
        """The networks, without the mirror image."""
        return self._embedder.embedder if isinstance(self._embedder, MirroredFeatures) else self._embedder

    @property
    def fitted(self) -> FittedHead:
        """The head."""
        return FittedHead(self._kind, **dict(self._head.named_buffers()))

    def forward(self, images: Tensor) -> Tensor:
        """Probabilities [n, ways] of `images` [n, 1 or 3, h, w], uint8 or float in [0, 1]."""
        squares = square_images(images, self.side)
        with self._statistics(self._embedder):
            return self.fitted.probabilities(self._embedder.features(squares))


@final
class FewShotClassifier:
    """One network, or several side by side, and a head that has learned a task; made by `adapt` or `load`.

    Attributes:
        description: head, batch norm, class names and networks, as `bundle.json` holds them.
    """

    def __init__(
        self, module: ImageClassifier | SideBySide, fitted: FittedHead, description: ClassifierDescription
    ) -> None:
        self.description, self._module = description, FewShotModule(module, fitted, description).eval()

    @property
    def card(self) -> ClassifierDescription:
        """The former name of `description`."""
        text = "FewShotClassifier.card is now description; the former name will be removed in the next minor version"
        warnings.warn(text, FutureWarning, stacklevel=2)
        return self.description

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes that it distinguishes."""
        return self.description.class_names

    @property
    def side(self) -> int:
        """Height and width in pixels of the squares that images are fitted to: the largest input of its networks."""
        return self._module.side

    @property
    def transductive(self) -> bool:
        """Whether the prediction for one image depends on the others of the same call.

        It does with soft k-means heads, which refine the classes by the images of a call, and with batch norm `query`,
        which normalises them by each other.
        """
        by_batch_norm = self.description.batch_norm == "query" and has_batch_norm(self._module.embedder)
        return self._module.fitted.transductive or by_batch_norm

    def __repr__(self) -> str:
        networks = ", ".join(spec.architecture for spec in self.description.networks)
        return f"FewShotClassifier({', '.join(self.class_names[:10])}: head {self.description.head} on {networks})"

    def predict(self, images: Any) -> Prediction:
        """Classify images, each by itself unless the classifier is `transductive`.

        Args:
            images: batch [n, 3, h, w] or [n, h, w, 3] of any size, uint8 or float in [0, 1], a tensor or a NumPy array;
                or a sequence of paths, PIL images, tensors or arrays, of any sizes; or one PIL image. The same pixels
                give the same probabilities in every form.

        Raises:
            UsageError: a file does not exist.
            DataError: images of another shape, type or range, none at all, or a file that cannot be read.
        """
        squares = checked_images(images, self.side).to(device_of(self._module.embedder) or "cpu")
        with torch.no_grad():
            parts = [self._module(part) for part in ([squares] if self.transductive else in_batches(squares))]
        return Prediction(self.class_names, checked(torch.cat(parts)).cpu())

    def as_module(self) -> FewShotModule:
        """The module that `predict` uses, weights included: decoded images in, probabilities out.

        Give a copy to whoever trains or moves it.
        """
        return self._module

    def to(self, device: str | torch.device) -> "FewShotClassifier":
        """Move the classifier to `device`, and return it.

        Raises:
            UsageError: a GPU that is not there.
        """
        if torch.device(device).type == "cuda":
            Compute.choose(str(device))
        self._module.to(device)
        return self

    def save(self, folder: Path | str) -> None:
        """Write the bundle, whole or not at all; an earlier classifier there is replaced.

        Raises:
            UsageError: the folder holds something else, which is left alone.
            ArtefactError: it cannot be written.
        """
        head = {f"head.{name}": tensor for name, tensor in self._module.fitted.tensors.items()}
        card = classifier_card(self._module.embedder, self.description, transductive=self.transductive)
        Bundle(self.description, _networks(self._module.embedder), head, card).write(folder)

    @classmethod
    def load(cls, folder: Path | str) -> "FewShotClassifier":
        """Read a bundle, also of version 0.1, to the CPU.

        Raises:
            UsageError: the folder does not exist, or is a run, a zoo or a meta-model.
            ArtefactError: a file is missing, damaged, changed, or does not fit the other.
        """
        bundle = read_bundle(folder, ClassifierDescription)
        description = bundle.description
        several = JointFeatures if description.joint else SideBySide if description.weighed else None
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
) -> FewShotClassifier:
    """Make a classifier of new classes from a few images of each, by the very head that evaluation measures.

    Args:
        module: an `ImageClassifier` or `MultiDomainClassifier` (a meta-model's `module`), a zoo's teacher, or
            `JointFeatures` of classifiers and teachers; it is copied.
        support_images: images in any form that `FewShotClassifier.predict` takes.
        support_labels: one label an image: whole numbers from 0 to ways - 1, or class names; a list, a tensor or an
            array. Classes may differ in their counts.
        class_names: one name a class; its number if None, or for labels that are class names, these in sorted order.
        head: name of one of `metazoo.features.heads.HEADS`.
        batch_norm: `running`, `support` or `query`.
        mirrored: whether features are those of `MirroredFeatures`, also later.
        domain: known domain of the images, one of the meta-model's; None chooses by what they look like.
        source: origin of the model, a note for readers of the bundle.

    Raises:
        UsageError: an unknown head, mode or domain, labels or names that do not fit, a module of another type, or a
            file that does not exist.
        DataError: images of another shape, type or range, none at all, or a file that cannot be read.
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
        own, fitted = _those_that_count(own, fitted)
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
    )
    return FewShotClassifier(own, fitted, description)


def _plain(module: Embedder) -> ImageClassifier | SideBySide:
    """The module with networks in the places of teachers."""
    networks = _networks(module)
    if isinstance(module, MultiDomainClassifier):
        return module
    return JointFeatures(networks) if isinstance(module, JointFeatures) else networks[0]


def _networks(module: Embedder) -> list[ImageClassifier]:
    """Those of a module, in their order."""
    networks: list[ImageClassifier] = []
    for member in module.members if isinstance(module, SideBySide) else [module]:
        network = getattr(member, "classifier", member)
        if not isinstance(network, ImageClassifier):
            raise UsageError("module", f"type {type(network).__name__}", "give an image classifier or several")
        networks.append(network)
    return networks


def _those_that_count(
    module: MultiDomainClassifier, fitted: FittedHead
) -> tuple[ImageClassifier | SideBySide, FittedHead]:
    """The networks that have a share in the task, and the head on their features alone."""
    assert fitted.scale is not None
    counts = fitted.scale > 0
    of_networks = counts.unflatten(0, (len(module.networks), -1)).all(1).tolist()
    own = [network for network, count in zip(module.networks, of_networks, strict=True) if count]
    scale = None if len(own) == 1 else fitted.scale[counts]
    return (
        own[0] if len(own) == 1 else SideBySide(own),
        dataclasses.replace(fitted, weight=fitted.weight[:, counts], scale=scale),
    )
