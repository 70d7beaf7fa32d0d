"""Base classes of heads, and the features that they use."""

import copy
from abc import ABC, abstractmethod
from dataclasses import replace

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor
from torch.nn import functional

from metazoo.errors import MetazooError, UsageError
from metazoo.features.batch_norm import (
    BatchNormMode,
    batch_norm_mode,
    batch_statistics,
    store_statistics,
    stored_statistics,
)
from metazoo.features.embedders import Embedder, device_of, recogniser_of
from metazoo.features.heads.fitted import FittedHead

_PIXELS_A_BATCH = 2**18


class Head(ABC):
    """Method to learn a new task.

    Attributes:
        name: name for users.
        transductive: whether the prediction for a query depends on the other queries. (With batch norm `query`, it
            always does.)
        adapts_backbone: whether `fit` changes the features, in a copy of the module.
        temperature: temperature of the probabilities of a task that is too small to fit it.
    """

    name: str
    transductive: bool
    adapts_backbone: bool
    temperature: float = 1.0

    @abstractmethod
    def fit(
        self,
        module: Embedder,
        support_images: Tensor,
        support_labels: Tensor,
        ways: int,
        batch_norm: BatchNormMode = "running",
    ) -> tuple[Embedder, FittedHead]:
        """Learn a task.

        Args:
            module: embedder, which is not changed.
            support_images: images of the support, float [n, 3, h, w] in [0, 1], or uint8.
            support_labels: labels from 0 to `ways` - 1, int64 [n]. Every class needs an image; classes may have
                different numbers of images.
            ways: number of classes.
            batch_norm: batch-norm mode; see `metazoo.features.batch_norm`.

        Returns:
            Module for `query_features` with the same batch-norm mode (the given one or a copy), and classifier on its
            features. Stored classifiers consist of these and do not depend on the head.

        Raises:
            UsageError: the labels do not fit, or the module has no statistics for the mode.
            MetazooError: the features are not finite, or fine-tuning diverged.
        """


class FeatureHead(Head):
    """Head that does not change the model, so that it can be fitted to precomputed features."""

    transductive = False
    adapts_backbone = False

    def fit(  # noqa: D102
        self,
        module: Embedder,
        support_images: Tensor,
        support_labels: Tensor,
        ways: int,
        batch_norm: BatchNormMode = "running",
    ) -> tuple[Embedder, FittedHead]:
        check_labels(support_images, support_labels, ways)
        if batch_norm_mode(batch_norm) == "support":
            module = copy.deepcopy(module)
            store_statistics(module, on_device(module, support_images))
        features, recogniser = query_features(module, support_images, batch_norm), recogniser_of(module)
        if recogniser is None:
            return module, self.fit_features(features, support_labels, ways)
        shares, scale = recogniser.weigh(features)
        return module, replace(self.fit_features(features * scale, support_labels, ways), scale=scale, shares=shares)

    @abstractmethod
    def fit_features(
        self, support_features: Float[Tensor, "*tasks n features"], support_labels: Int64[Tensor, " n"], ways: int
    ) -> FittedHead:
        """Learn many tasks at once from finite features; the labels are the same for every task.

        The result for a task does not depend on the other tasks, except for rounding.
        """


def one_hot(labels: Int64[Tensor, " n"], ways: int, like: Float[Tensor, "..."]) -> Float[Tensor, "n {ways}"]:
    """One-hot labels, of the type and on the device of `like`."""
    # `functional.one_hot` synchronises a GPU to check for labels that are too large.
    return (labels.to(like.device).unsqueeze(1) == torch.arange(ways, device=like.device)).to(like.dtype)


def class_means(
    features: Float[Tensor, "*tasks n features"], labels: Int64[Tensor, " n"], ways: int
) -> Float[Tensor, "*tasks {ways} features"]:
    """Mean of the normalised features of each class."""
    return raw_class_means(functional.normalize(features, dim=-1), labels, ways)


def raw_class_means(
    features: Float[Tensor, "*tasks n features"], labels: Int64[Tensor, " n"], ways: int
) -> Float[Tensor, "*tasks {ways} features"]:
    """Mean of the features of each class, without normalisation."""
    members = one_hot(labels, ways, features)
    return (members / members.sum(0)).mT @ features


@torch.no_grad()
def query_features(
    module: Embedder, images: Shaped[Tensor, "n channels height width"], batch_norm: BatchNormMode = "running"
) -> Float[Tensor, "n features"]:
    """Features without gradients, on the device of a module that `Head.fit` has returned.

    In mode `query`, all images form one batch and influence each other. In the other modes, they are processed in small
    batches and are independent.

    Args:
        module: module returned by `Head.fit`.
        images: images, float in [0, 1] or uint8.
        batch_norm: batch-norm mode that was given to `Head.fit`.

    Raises:
        UsageError: the module has no statistics for the mode.
        MetazooError: the features are not finite.
    """
    if batch_norm_mode(batch_norm) == "query":
        with batch_statistics(module):
            return checked(module.features(on_device(module, images)))
    with stored_statistics(module):
        return checked(torch.cat([module.features(on_device(module, part)) for part in in_batches(images)]))


def in_batches(images: Tensor) -> tuple[Tensor, ...]:
    """Split images [n, c, h, w] into batches of at most 262,144 pixels, or of 8 images if these have more."""
    return images.split(max(8, _PIXELS_A_BATCH // (images.shape[-1] * images.shape[-2])))


def on_device(module: Embedder, images: Tensor) -> Tensor:
    """Convert images to float on the device of the module."""
    images = images.to(device_of(module) or images.device)
    return images.float() / 255 if images.dtype == torch.uint8 else images


def checked(features: Tensor) -> Tensor:
    """Return the features if they are finite.

    Raises:
        MetazooError: the features are not finite.
    """
    if not bool(features.isfinite().all()):
        raise MetazooError(
            "model", "features that are not finite", "check its weights: they are damaged or diverged in training"
        )
    return features


def check_labels(images: Tensor, labels: Tensor, ways: int) -> None:
    """Check that there is one label per image and at least one image per class.

    Raises:
        UsageError: the labels do not fit.
    """
    if labels.dtype != torch.int64 or labels.shape != (len(images),):
        problem = f"{labels.dtype} {list(labels.shape)}, not torch.int64 [{len(images)}]"
        raise UsageError("support labels", problem, "give one label per image")
    present = labels.unique().tolist()
    if present != list(range(ways)):
        raise UsageError("support labels", f"must be 0 to {ways - 1}, each at least once, not {present}")
