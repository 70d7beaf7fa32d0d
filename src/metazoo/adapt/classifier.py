"""A user's own classifier, made from a few images a class."""

import copy
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from metazoo.adapt.storage import CARD, ClassifierCard, read_classifier, write_classifier
from metazoo.adapt.stored import check_tensors
from metazoo.adapt.support import checked_images, checked_labels
from metazoo.errors import ArtefactError, UsageError
from metazoo.features.batch_norm import BatchNormMode, batch_norm_mode, has_batch_norm
from metazoo.features.embedders import (
    Embedder,
    JointFeatures,
    MirroredFeatures,
    MultiDomainClassifier,
    SideBySide,
    told_domain,
)
from metazoo.features.heads import DEFAULT_HEAD, FittedHead, extra_tensor, get_head, query_features
from metazoo.models import ImageClassifier, build_classifier, network_without_weights


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a classifier says of n images.

    Attributes:
        class_names: in the order of the probabilities.
        probabilities: float [n, ways] on the CPU, rows summing to 1; they rank, and are not calibrated.
    """

    class_names: tuple[str, ...]
    probabilities: Tensor

    @property
    def labels(self) -> Tensor:
        """The predicted class of each image, int64 [n], as an index into `class_names`."""
        return self.probabilities.argmax(1)

    @property
    def names(self) -> list[str]:
        """The name of the predicted class of each image."""
        return [self.class_names[label] for label in self.labels.tolist()]


@final
class FewShotClassifier:
    """One network, or several side by side, and a head that has learned a task; made by `adapt` or `load`."""

    def __init__(self, module: ImageClassifier | SideBySide, fitted: FittedHead, card: ClassifierCard) -> None:
        self._module, self._fitted, self.card = module, fitted, card
        self._embedder: Embedder = MirroredFeatures(module) if card.mirrored else module

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes it tells apart."""
        return self.card.class_names

    @property
    def side(self) -> int:
        """The size in pixels to read images at: the largest input of its networks."""
        return max(spec.input_size for spec in self.card.networks)

    @property
    def transductive(self) -> bool:
        """Whether what it says of one image depends on the others of the same call.

        So it is with soft k-means heads, which refine the classes by the images of a call, and with batch norm `query`,
        which normalises them by each other.
        """
        by_batch_norm = self.card.batch_norm == "query" and has_batch_norm(self._module)
        return self._fitted.transductive or by_batch_norm

    def __repr__(self) -> str:
        """What it is, in one line."""
        networks = ", ".join(spec.architecture for spec in self.card.networks)
        return f"FewShotClassifier({', '.join(self.class_names[:10])}: head {self.card.head} on {networks})"

    def predict(self, images: Any) -> Prediction:
        """Classify `images`: float [n, 3, h, w] in [0, 1] or uint8, of any size, a tensor or an array of NumPy.

        Every image is judged for itself, unless the classifier is `transductive`.

        Raises:
            DataError: the images are no such tensor.
        """
        features = query_features(self._embedder, checked_images(images), self.card.batch_norm)
        return Prediction(self.class_names, self._fitted.probabilities(features).cpu())

    def to(self, device: str | torch.device) -> "FewShotClassifier":
        """The same classifier on `device`; this one is moved with it."""
        head = {name: tensor.to(device) for name, tensor in self._fitted.tensors.items()}
        return FewShotClassifier(self._module.to(device), FittedHead(self._fitted.kind, **head), self.card)

    def save(self, folder: Path | str) -> None:
        """Write the classifier folder, whole or not at all; an earlier classifier there is replaced.

        Raises:
            UsageError: the folder holds something else, which is left alone.
            ArtefactError: it cannot be written.
        """
        head = {f"head.{name}": tensor for name, tensor in self._fitted.tensors.items()}
        write_classifier(folder, self.card, head | _state(self._module))

    @classmethod
    def load(cls, folder: Path | str) -> "FewShotClassifier":
        """Read a classifier folder, to the CPU.

        Raises:
            UsageError: the folder does not exist.
            ArtefactError: a file is missing, damaged, changed, or does not fit the other.
        """
        folder = Path(folder)
        card, tensors = read_classifier(folder)
        try:
            check_tensors(folder, CARD, tensors, _expected(card), "adapt again")
            networks = [build_classifier(spec, torch.Generator().manual_seed(0)).eval() for spec in card.networks]
        except UsageError as error:
            raise ArtefactError(f"{folder} cannot be built: {error}") from error
        several = JointFeatures if card.joint else SideBySide if card.weighed else None
        module = networks[0] if several is None else several(networks).eval()
        for name, target in _state(module).items():
            target.copy_(tensors[name])
        head = {name.removeprefix("head."): tensor for name, tensor in tensors.items() if name.startswith("head.")}
        return cls(module, FittedHead(card.kind, **head), card)


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
        support_images: float [n, 3, h, w] in [0, 1], or uint8; a tensor or an array of NumPy.
        support_labels: [n] whole numbers, 0 to ways - 1; a tensor, an array or a list. Classes may differ in their
            counts.
        class_names: one a class; its number if not given.
        head: the name of one of `metazoo.features.heads.HEADS`.
        batch_norm: `running`, `support` or `query`.
        mirrored: whether features are those of `MirroredFeatures`, also later.
        domain: of a meta-model's several, that the images are known to be of; None takes them for what they look like.
        source: where the model comes from, a note for readers of the folder.

    Raises:
        UsageError: an unknown head, mode or domain, labels or names that do not fit, or a module of another kind.
        DataError: the images are no such tensor.
    """
    domains: dict[str, float] = {}
    if domain is not None:
        module, domains = told_domain(module, domain), {domain: 1.0}
    embedder = _plain(module)
    mode: BatchNormMode = batch_norm_mode(batch_norm)
    images = checked_images(support_images)
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
    card = ClassifierCard(
        head=head,
        kind=fitted.kind,
        batch_norm=mode,
        mirrored=mirrored,
        domains=domains,
        class_names=names,
        joint=isinstance(own, JointFeatures),
        networks=tuple(network.spec for network in _networks(own)),
        weights_sha256="",
        source=source,
    )
    return FewShotClassifier(own.eval(), fitted, card)


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
            raise UsageError(f"a classifier is made of image classifiers, not of {type(network).__name__}")
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


def _state(module: ImageClassifier | SideBySide) -> dict[str, Tensor]:
    return {
        f"networks.{index}.{name}": tensor
        for index, network in enumerate(_networks(module))
        for name, tensor in network.network.state_dict().items()
    }


def _expected(card: ClassifierCard) -> dict[str, Tensor]:
    """What must be stored for `card`, on the meta device."""
    networks = [network_without_weights(spec) for spec in card.networks]
    size = sum(network.feature_size for network in networks)
    weight = torch.empty(len(card.class_names), size, device="meta")
    extra = extra_tensor(card.kind)
    head = {"weight": weight, **({extra: weight[:, 0]} if extra else {})}
    head |= {"scale": weight[0]} if card.weighed else {}
    return {
        f"networks.{index}.{name}": tensor
        for index, network in enumerate(networks)
        for name, tensor in network.state_dict().items()
    } | {f"head.{name}": tensor for name, tensor in head.items()}
