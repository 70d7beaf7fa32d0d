"""Fitting and calibrating a head on support images."""

import copy
import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from metazoo.adapt.held_out import (
    Fold,
    HeldOut,
    familiar_means,
    fitted_temperature,
    hold_out,
    unknown_threshold,
)
from metazoo.errors import MetazooError, UsageError
from metazoo.features.batch_norm import BatchNormMode, has_batch_norm, store_statistics, stored_statistics
from metazoo.features.embedders import Embedder, JointFeatures, MirroredFeatures, MultiDomainClassifier, SideBySide
from metazoo.features.heads import FeatureHead, FittedHead, Head
from metazoo.features.heads.fitted import scaled
from metazoo.features.heads.head import checked, on_device
from metazoo.models import ImageClassifier

Images = Float[Tensor, "n channels side side"]


@dataclass(frozen=True, eq=False)
class FittedSupport:
    """Head that has learned a support set.

    Attributes:
        module: networks, a copy.
        fitted: head, with its temperature.
        features: features of the support images, as the head takes them before its scale; None if the classifier is
            transductive, so that an image has no features of its own.
        held_out: predictions for images that were held out; None if there are none.
        threshold: familiarity below which an image is of no class; None if there are too few images to tell.
    """

    module: ImageClassifier | SideBySide
    fitted: FittedHead
    features: Float[Tensor, "n features"] | None
    held_out: HeldOut | None
    threshold: float | None


def fit_support(
    embedder: ImageClassifier | SideBySide,
    head: Head,
    *,
    images: Images,
    labels: Int64[Tensor, " n"],
    ways: int,
    batch_norm: BatchNormMode,
    mirrored: bool,
    rate: float,
) -> FittedSupport:
    """Fit a head to images, in the order given.

    Args:
        embedder: networks, which are not changed.
        head: head.
        images: square images in [0, 1].
        labels: labels from 0 to `ways` - 1.
        ways: number of classes.
        batch_norm: batch-norm mode.
        mirrored: whether to use `MirroredFeatures`.
        rate: share of the images of known classes that the threshold rejects, in (0, 1).

    Raises:
        UsageError, MetazooError: see `Head.fit`.
    """
    module = MirroredFeatures(embedder) if mirrored else embedder
    is_transductive = head.transductive or (batch_norm == "query" and has_batch_norm(embedder))
    if is_transductive or not isinstance(head, FeatureHead):
        return _fit_images(module, head, images, labels, ways, batch_norm, rate, is_transductive)
    own = copy.deepcopy(module)
    _store_support(own, images, batch_norm)
    features = features_one_by_one(own, images)
    shares = scale = None
    networks = own.embedder if isinstance(own, MirroredFeatures) else own
    columns = torch.ones(features.shape[1], dtype=torch.bool)
    if isinstance(networks, MultiDomainClassifier):
        shares, scale = (own.cpu() for own in networks.recogniser.weigh(features.to(networks.recogniser.weight.device)))
        networks, columns, scale = _active_networks(networks, scale)
        features = features[:, columns]
    assert isinstance(networks, ImageClassifier | SideBySide)

    def fold(kept: Tensor, held: Tensor) -> Fold:
        seen = features
        if batch_norm == "support" and has_batch_norm(embedder):
            of_fold = copy.deepcopy(module)
            _store_support(of_fold, images[kept], batch_norm)
            seen = features_one_by_one(of_fold, images)[:, columns]
        return Fold(fit_features(head, seen[kept], labels[kept], ways, scale), seen[kept], seen[held])

    held_out = hold_out(labels, ways, fold)
    fitted = dataclasses.replace(fit_features(head, features, labels, ways, scale), shares=shares)
    fitted, threshold = calibrated(fitted, head, features, labels, ways, held_out, rate)
    return FittedSupport(networks, fitted, features, held_out, threshold)


def calibrated(
    fitted: FittedHead,
    head: Head,
    features: Float[Tensor, "n features"],
    labels: Int64[Tensor, " n"],
    ways: int,
    held_out: HeldOut | None,
    rate: float,
) -> tuple[FittedHead, float | None]:
    """Fitted head with its temperature, and the threshold of unknown images; see `fit_support`."""
    means = familiar_means(features, labels, ways, fitted.scale)
    temperature = fitted_temperature(held_out, head.temperature)
    return dataclasses.replace(fitted, temperature=temperature), unknown_threshold(held_out, means, rate)


def fit_features(
    head: FeatureHead,
    features: Float[Tensor, "n features"],
    labels: Int64[Tensor, " n"],
    ways: int,
    scale: Tensor | None,
) -> FittedHead:
    """Fit a head to features, with fixed factors `scale` of the features."""
    return dataclasses.replace(head.fit_features(scaled(features, scale), labels, ways), scale=scale)


@torch.no_grad()
def features_one_by_one(module: Embedder, images: Images) -> Float[Tensor, "n features"]:
    """Features with the stored statistics, each image in a batch of its own.

    The last bits of features depend on the size of the batch. A fixed size makes them independent of other images.

    Raises:
        UsageError: the module has no stored statistics.
        MetazooError: the features are not finite.
    """
    with stored_statistics(module):
        return checked(torch.cat([module.features(on_device(module, image)) for image in images.split(1)])).cpu()


def digests(images: Images) -> list[str]:
    """SHA-256 of each image, the same for grey images of one and of three channels."""
    return [
        hashlib.sha256(image.contiguous().numpy().tobytes()).hexdigest()
        for image in images.cpu().float().expand(-1, 3, -1, -1)
    ]


def canonical_order(labels: Sequence[int], hashes: Sequence[str]) -> list[int]:
    """Order by class and hash, so that a fitted head does not depend on the order in which images were given."""
    return sorted(range(len(labels)), key=lambda index: (labels[index], hashes[index]))


def networks_of(module: Embedder) -> list[ImageClassifier]:
    """Networks of a module, in their order.

    Raises:
        UsageError: the module has a member that is no image classifier.
    """
    networks: list[ImageClassifier] = []
    for member in module.members if isinstance(module, SideBySide) else [module]:
        network = getattr(member, "classifier", member)
        if not isinstance(network, ImageClassifier):
            raise UsageError("module", f"type {type(network).__name__}", "give an image classifier or several")
        networks.append(network)
    return networks


def without_teachers(module: Embedder) -> ImageClassifier | SideBySide:
    """Replace teachers in a module by their networks."""
    networks = networks_of(module)
    if isinstance(module, MultiDomainClassifier):
        return module
    return JointFeatures(networks) if isinstance(module, JointFeatures) else networks[0]


def _fit_images(
    module: Embedder,
    head: Head,
    images: Images,
    labels: Tensor,
    ways: int,
    batch_norm: BatchNormMode,
    rate: float,
    is_transductive: bool,
) -> FittedSupport:
    """Fit a head that changes the networks, or whose predictions depend on each other."""
    adapted, fitted = head.fit(module, images, labels, ways, batch_norm)
    own = copy.deepcopy(adapted) if adapted is module else adapted
    networks = own.embedder if isinstance(own, MirroredFeatures) else own
    if isinstance(networks, MultiDomainClassifier):
        assert fitted.scale is not None
        networks, columns, scale = _active_networks(networks, fitted.scale)
        fitted = dataclasses.replace(fitted, weight=fitted.weight[:, columns], scale=scale)
    assert isinstance(networks, ImageClassifier | SideBySide)
    if is_transductive:
        fitted = dataclasses.replace(fitted, temperature=head.temperature)
        return FittedSupport(networks, fitted, None, None, None)

    def fold(kept: Tensor, held: Tensor) -> Fold:
        of_fold, own_head = head.fit(module, images[kept], labels[kept], ways, batch_norm)
        seen = features_one_by_one(of_fold, images).to(own_head.weight.device)
        return Fold(own_head, seen[kept], seen[held])

    try:
        held_out = hold_out(labels, ways, fold)
    except MetazooError:  # fine-tuning diverged without some images
        held_out = None
    features = features_one_by_one(
        MirroredFeatures(networks) if isinstance(module, MirroredFeatures) else networks, images
    )
    fitted, threshold = calibrated(fitted, head, features, labels, ways, held_out, rate)
    return FittedSupport(networks, fitted, features, held_out, threshold)


def _store_support(module: Embedder, images: Images, batch_norm: BatchNormMode) -> None:
    if batch_norm == "support":
        store_statistics(module, on_device(module, images))


def _active_networks(
    module: MultiDomainClassifier, scale: Float[Tensor, " features"]
) -> tuple[ImageClassifier | SideBySide, Tensor, Tensor | None]:
    """Networks with a share in the task, whether each feature belongs to one of them, and the factors of these."""
    columns = scale > 0
    active = columns.unflatten(0, (len(module.networks), -1)).all(1).tolist()
    own = [network for network, is_active in zip(module.networks, active, strict=True) if is_active]
    if len(own) == 1:
        return own[0], columns.cpu(), None
    return SideBySide(own), columns.cpu(), scale[columns]
