"""Base classes of heads, and their features."""

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
    """A way to learn a new task.

    Attributes:
        name: name that users type.
        transductive: whether the head itself lets the prediction of one query depend on the others. (Batch norm mode
            `query` does so whatever the head.)
        adapts_backbone: whether `fit` returns other features than those of the module given.
    """

    name: str
    transductive: bool
    adapts_backbone: bool

    @abstractmethod
    def fit(
        self,
        module: Embedder,
        support_images: Tensor,
        support_labels: Tensor,
        ways: int,
        batch_norm: BatchNormMode = "running",
    ) -> tuple[Embedder, FittedHead]:
        """Learn the task; feed what is returned to `query_features` with the same batch-norm mode.

        Args:
            module: left as it is.
            support_images: float [n, 3, h, w] in [0, 1], or uint8.
            support_labels: int64 [n], 0 to `ways` - 1, each at least once; classes may differ in their counts.
            ways: number of classes.
            batch_norm: see `metazoo.features.batch_norm`.

        Returns:
            The module to take features from (the same one, or a copy) and the classifier on them, of one of the forms
            that `FittedHead` has: stored classifiers hold that form and need no head to open.

        Raises:
            UsageError: the labels do not fit, or the module has no statistics for the mode.
            MetazooError: the features are not finite, or fine-tuning diverged.
        """


class FeatureHead(Head):
    """A head that leaves the model alone, so that it can be fitted to features that are known already."""

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
        """As `fit`, from finite features of many tasks at once; the labels serve every task.

        The result for a task does not depend on the other tasks, except for rounding.
        """


def one_hot(labels: Int64[Tensor, " n"], ways: int, like: Float[Tensor, "..."]) -> Float[Tensor, "n {ways}"]:
    """Labels as rows of one 1 each, in the type and on the device of `like`."""
    # `functional.one_hot` makes a GPU wait, to look for labels that are too large.
    return (labels.to(like.device).unsqueeze(1) == torch.arange(ways, device=like.device)).to(like.dtype)


def class_means(
    features: Float[Tensor, "*tasks n features"], labels: Int64[Tensor, " n"], ways: int
) -> Float[Tensor, "*tasks {ways} features"]:
    """Mean of the normalised features of each class."""
    return raw_class_means(functional.normalize(features, dim=-1), labels, ways)


def raw_class_means(
    features: Float[Tensor, "*tasks n features"], labels: Int64[Tensor, " n"], ways: int
) -> Float[Tensor, "*tasks {ways} features"]:
    """Mean of the features of each class as they are."""
    members = one_hot(labels, ways, features)
    return (members / members.sum(0)).mT @ features


@torch.no_grad()
def query_features(
    module: Embedder, images: Shaped[Tensor, "n channels height width"], batch_norm: BatchNormMode = "running"
) -> Float[Tensor, "n features"]:
    """Features, without gradients, from a module as `Head.fit` returned it, on the module's device.

    In mode `query` all `images` (float in [0, 1], or uint8) pass as one batch and depend on each other; else they pass
    in small batches and each stands for itself.

    Raises:
        UsageError, MetazooError: as `Head.fit`.
    """
    if batch_norm_mode(batch_norm) == "query":
        with batch_statistics(module):
            return checked(module.features(on_device(module, images)))
    with stored_statistics(module):
        return checked(torch.cat([module.features(on_device(module, part)) for part in in_batches(images)]))


def in_batches(images: Tensor) -> tuple[Tensor, ...]:
    """Images [n, c, h, w] in batches of at most 262,144 pixels, or of 8 images where these have more."""
    return images.split(max(8, _PIXELS_A_BATCH // (images.shape[-1] * images.shape[-2])))


def on_device(module: Embedder, images: Tensor) -> Tensor:
    """Float images where the module computes."""
    images = images.to(device_of(module) or images.device)
    return images.float() / 255 if images.dtype == torch.uint8 else images


def checked(features: Tensor) -> Tensor:
    """The features, if they are finite.

    Raises:
        MetazooError: they are not.
    """
    if not bool(features.isfinite().all()):
        raise MetazooError("a model's features are not finite; its weights are damaged or its training diverged")
    return features


def check_labels(images: Tensor, labels: Tensor, ways: int) -> None:
    """Check that there is one label an image and one image or more a class.

    Raises:
        UsageError: the labels do not fit.
    """
    if labels.dtype != torch.int64 or labels.shape != (len(images),):
        raise UsageError(f"support labels must be int64 [{len(images)}], one an image, not {list(labels.shape)}")
    present = labels.unique().tolist()
    if present != list(range(ways)):
        raise UsageError(f"support labels must be 0 to {ways - 1}, each at least once, not {present}")
