"""Training the whole network on the support."""

import copy
from abc import abstractmethod
from typing import final

import torch
from torch import Tensor
from torch.nn import functional

from metazoo import choices
from metazoo.errors import MetazooError, UsageError
from metazoo.features.batch_norm import (
    BatchNormMode,
    batch_norm_mode,
    batch_statistics,
    store_statistics,
    stored_statistics,
)
from metazoo.features.embedders import Embedder, MirroredFeatures, recogniser_of
from metazoo.features.heads.fitted import FittedHead
from metazoo.features.heads.head import Head, check_labels, checked, class_means, on_device
from metazoo.models import ImageClassifier


class _FullBatchDescent(Head):
    """Ten full-batch steps of plain gradient descent (rate 0.01) on cross-entropy, on all parameters of a copy."""

    transductive = False
    adapts_backbone = True
    steps = 10
    learning_rate = 0.01

    @abstractmethod
    def start(self, module: Embedder, features: Tensor, labels: Tensor, ways: int) -> tuple[Tensor, Tensor]:
        """Weight [ways, d] and bias [ways] that the descent starts from, given the support's features [n, d]."""

    def fit(
        self,
        module: Embedder,
        support_images: Tensor,
        support_labels: Tensor,
        ways: int,
        batch_norm: BatchNormMode = "running",
    ) -> tuple[Embedder, FittedHead]:
        check_labels(support_images, support_labels, ways)
        tuned = copy.deepcopy(module)
        images = on_device(tuned, support_images)
        statistics = stored_statistics if batch_norm_mode(batch_norm) == "running" else batch_statistics
        with statistics(tuned):
            with torch.no_grad():
                features = checked(tuned.features(images))
            labels = support_labels.to(features.device)
            recogniser = recogniser_of(tuned)
            shares, scale = (None, None) if recogniser is None else recogniser.weigh(features)
            shown = features if scale is None else features * scale
            fitted = FittedHead("linear", *self.start(tuned, shown, labels, ways), scale=scale, shares=shares)
            self._descend(tuned, fitted, images, labels)
        if batch_norm == "support":
            store_statistics(tuned, images)
        return tuned, fitted

    def _descend(self, module: Embedder, fitted: FittedHead, images: Tensor, labels: Tensor) -> None:
        assert fitted.bias is not None
        parameters: list[Tensor] = [fitted.weight, fitted.bias, *module.parameters()]
        for parameter in parameters:
            parameter.requires_grad_(True).grad = None
        for _ in range(self.steps):
            with torch.enable_grad():
                loss = functional.cross_entropy(fitted.scores(module.features(images)), labels)
                # The class head of the network takes no part in its features and gets no gradient.
                gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
            with torch.no_grad():
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    if gradient is not None:
                        parameter.sub_(gradient, alpha=self.learning_rate)
        for parameter in parameters:
            parameter.requires_grad_(False)
        with torch.no_grad():
            if not bool(fitted.scores(module.features(images)).isfinite().all()):
                raise MetazooError(
                    f"{self.steps} steps of fine-tuning at a rate of {self.learning_rate} diverged on these support "
                    "images; choose another head, or the batch-norm mode support or query"
                )


@final
class FineTune(_FullBatchDescent):
    """Ten full-batch steps of plain gradient descent (rate 0.01) on cross-entropy, on all parameters of a copy.

    The batch norm's scale and shift are among them, and a linear head: a module without parameters (raw pixels) trains
    the head alone. Deterministic on the CPU.

    The papers of data-free meta-learning start from a five-way head stored with the meta-model, which ties it to five
    classes in an arbitrary order. Here the head is imprinted (Qi et al. 2018): the weight of a class is the mean of its
    normalised support features, scaled to length 1, the bias zero. That serves any number of ways and any model of the
    zoo, and makes the first step start from the nearest mean. Unlike Qi et al. there is no learnt scale; the length of
    the features stands in for it.
    """

    name = choices.FINE_TUNE

    def start(self, module: Embedder, features: Tensor, labels: Tensor, ways: int) -> tuple[Tensor, Tensor]:  # noqa: D102
        weight = functional.normalize(class_means(features, labels, ways), dim=-1)
        return weight, weight.new_zeros(ways)


@final
class FineTuneOwn(_FullBatchDescent):
    """As `FineTune`, but from the head stored with the model: with batch norm `query`, the papers' protocol.

    It suits a meta-model whose head was learned with it (preset `published`) and tasks of as many classes as it has.
    """

    name = choices.FINE_TUNE_OWN

    def start(self, module: Embedder, features: Tensor, labels: Tensor, ways: int) -> tuple[Tensor, Tensor]:  # noqa: D102
        module = module.embedder if isinstance(module, MirroredFeatures) else module
        if not isinstance(module, ImageClassifier) or module.spec.classes != ways:
            found = f"one of {module.spec.classes}" if isinstance(module, ImageClassifier) else "none"
            raise UsageError(
                f"fine-tune-own starts from a model's own head of {ways} classes, and this model has {found}; "
                "choose the head fine-tune"
            )
        head = module.network.head
        if not bool(head.weight.any()):
            raise UsageError(
                "fine-tune-own starts from a model's own head, which was not learned here; choose fine-tune"
            )
        return head.weight.detach().clone(), head.bias.detach().clone()
