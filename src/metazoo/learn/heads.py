"""Heads: how a model's features become a classifier of a new task from a few images a class.

Evaluation and the classifier that users get are made by these same objects. A head never changes the module it is
given.
"""

import copy
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor
from torch.nn import functional

from metazoo.errors import MetazooError, UsageError
from metazoo.learn.batch_norm import (
    BatchNormMode,
    batch_norm_mode,
    batch_statistics,
    store_statistics,
    stored_statistics,
)
from metazoo.learn.embedders import Embedder, device_of

COSINE_SCALE = 10.0
_PIXELS_A_BATCH = 2**18


@dataclass(frozen=True, eq=False)
class FittedHead:
    """A classifier on features. Leading dimensions may stand for many tasks at once.

    Attributes:
        kind: `cosine` (the cosine of feature and weight) or `linear` (feature times weight plus bias).
        weight: [..., ways, d].
        bias: [..., ways], or None for zero.
    """

    kind: Literal["cosine", "linear"]
    weight: Tensor
    bias: Tensor | None = None

    def scores(self, features: Tensor) -> Tensor:
        """Scores [..., n, ways] of `features` [..., n, d]; the greatest is the prediction."""
        if self.kind == "cosine":
            return functional.normalize(features, dim=-1) @ functional.normalize(self.weight, dim=-1).mT
        scores = features @ self.weight.mT
        return scores if self.bias is None else scores + self.bias.unsqueeze(-2)

    def probabilities(self, features: Tensor) -> Tensor:
        """Softmax [..., n, ways] of linear scores, or of `COSINE_SCALE` times cosine scores.

        They rank the classes of one image and are not calibrated: the scale is a convention, fitted to nothing, since a
        task of a few images leaves none to fit it on.
        """
        scores = self.scores(features)
        return torch.softmax(scores * COSINE_SCALE if self.kind == "cosine" else scores, dim=-1)


class Head(ABC):
    """A way to learn a new task.

    Attributes:
        name: as users type it.
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
            batch_norm: see `metazoo.learn.batch_norm`.

        Returns:
            The module to take features from (the same one, or a copy) and the classifier on them.

        Raises:
            UsageError: the labels do not fit, or the module has no statistics for the mode.
            MetazooError: the features are not finite.
        """


@final
class NearestMean(Head):
    """The class whose mean of normalised support features has the greatest cosine with the query's features.

    Prototypes as of Snell et al. 2017 with the cosine in place of the squared distance.
    """

    name = "nearest-mean"
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
        _check_labels(support_images, support_labels, ways)
        if batch_norm_mode(batch_norm) == "support":
            module = copy.deepcopy(module)
            store_statistics(module, _on_device(module, support_images))
        features = query_features(module, support_images, batch_norm)
        return module, self.fit_features(features, support_labels, ways)

    def fit_features(self, support_features: Tensor, support_labels: Tensor, ways: int) -> FittedHead:
        """As `fit`, from features [..., n, d] that are known already; `support_labels` [n] serve every task."""
        return FittedHead("cosine", class_means(support_features, support_labels, ways))


@final
class FineTune(Head):
    """Ten full-batch steps of plain gradient descent (rate 0.01) on cross-entropy, on all parameters of a copy.

    The batch norm's scale and shift are among them, and a linear head: a module without parameters (raw pixels) trains
    the head alone. Deterministic on the CPU.

    The papers of data-free meta-learning start from a five-way head stored with the meta-model, which ties it to five
    classes in an arbitrary order. Here the head is imprinted (Qi et al. 2018): the weight of a class is the mean of its
    normalised support features, scaled to length 1, the bias zero. That serves any number of ways and any model of the
    zoo, and makes the first step start from the nearest mean. Unlike Qi et al. there is no learnt scale; the length of
    the features stands in for it.
    """

    name = "fine-tune"
    transductive = False
    adapts_backbone = True
    steps = 10
    learning_rate = 0.01

    def fit(  # noqa: D102
        self,
        module: Embedder,
        support_images: Tensor,
        support_labels: Tensor,
        ways: int,
        batch_norm: BatchNormMode = "running",
    ) -> tuple[Embedder, FittedHead]:
        _check_labels(support_images, support_labels, ways)
        tuned = copy.deepcopy(module)
        images = _on_device(tuned, support_images)
        statistics = stored_statistics if batch_norm_mode(batch_norm) == "running" else batch_statistics
        with statistics(tuned):
            with torch.no_grad():
                features = _checked(tuned.features(images))
            labels = support_labels.to(features.device)
            weight = functional.normalize(class_means(features, labels, ways), dim=-1)
            bias = weight.new_zeros(ways)
            self._descend(tuned, weight, bias, images, labels)
        if batch_norm == "support":
            store_statistics(tuned, images)
        return tuned, FittedHead("linear", weight, bias)

    def _descend(self, module: Embedder, weight: Tensor, bias: Tensor, images: Tensor, labels: Tensor) -> None:
        parameters: list[Tensor] = [weight, bias, *module.parameters()]
        for parameter in parameters:
            parameter.requires_grad_(True).grad = None
        for _ in range(self.steps):
            with torch.enable_grad():
                loss = functional.cross_entropy(functional.linear(module.features(images), weight, bias), labels)
                # The class head of the network takes no part in its features and gets no gradient.
                gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
            with torch.no_grad():
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    if gradient is not None:
                        parameter.sub_(gradient, alpha=self.learning_rate)
        for parameter in parameters:
            parameter.requires_grad_(False)


HEADS: tuple[Head, ...] = (NearestMean(), FineTune())


def get_head(name: str) -> Head:
    """The head of that name.

    Raises:
        UsageError: there is none.
    """
    for head in HEADS:
        if head.name == name:
            return head
    raise UsageError(f"unknown head {name!r}; choose one of {', '.join(head.name for head in HEADS)}")


def class_means(features: Tensor, labels: Tensor, ways: int) -> Tensor:
    """Mean of the normalised features of each class: [..., ways, d] from `features` [..., n, d] and `labels` [n]."""
    members = functional.one_hot(labels.to(features.device), ways).to(features.dtype)
    return (members / members.sum(0)).mT @ functional.normalize(features, dim=-1)


@torch.no_grad()
def query_features(module: Embedder, images: Tensor, batch_norm: BatchNormMode = "running") -> Tensor:
    """Features [n, d], without gradients, from a module as `Head.fit` returned it, on the module's device.

    In mode `query` all `images` (float [n, 3, h, w] in [0, 1], or uint8) pass as one batch and depend on each other;
    else they pass in small batches and each stands for itself.

    Raises:
        UsageError, MetazooError: as `Head.fit`.
    """
    if batch_norm_mode(batch_norm) == "query":
        with batch_statistics(module):
            return _checked(module.features(_on_device(module, images)))
    size = max(8, _PIXELS_A_BATCH // (images.shape[-1] * images.shape[-2]))
    with stored_statistics(module):
        return _checked(torch.cat([module.features(_on_device(module, part)) for part in images.split(size)]))


def _on_device(module: Embedder, images: Tensor) -> Tensor:
    images = images.to(device_of(module) or images.device)
    return images.float() / 255 if images.dtype == torch.uint8 else images


def _checked(features: Tensor) -> Tensor:
    if not bool(features.isfinite().all()):
        raise MetazooError("a model's features are not finite; its weights are damaged or its training diverged")
    return features


def _check_labels(images: Tensor, labels: Tensor, ways: int) -> None:
    if labels.dtype != torch.int64 or labels.shape != (len(images),):
        raise UsageError(f"support labels must be int64 [{len(images)}], one an image, not {list(labels.shape)}")
    present = labels.unique().tolist()
    if present != list(range(ways)):
        raise UsageError(f"support labels must be 0 to {ways - 1}, each at least once, not {present}")
