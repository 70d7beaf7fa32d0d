"""Heads that train the whole network on the support."""

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
        """Initial weight [ways, d] and bias [ways], from the features [n, d] of the support."""

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
                # Features do not depend on the class head of the network, so it gets no gradient.
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
                    "fine-tuning",
                    f"diverged in {self.steps} steps with learning rate {self.learning_rate}",
                    "choose another head, or batch norm support or query",
                )


@final
class FineTune(_FullBatchDescent):
    """Ten full-batch steps of plain gradient descent (rate 0.01) on cross-entropy, on all parameters of a copy.

    The parameters include the scale and shift of batch norm and a linear head; only the head of a module without
    parameters (raw pixels) is trained. Deterministic on the CPU.

    The papers of data-free meta-learning start from a five-way head stored with the meta-model, which limits it to five
    classes in an arbitrary order. Here the head is imprinted (Qi et al. 2018): the weight of a class is the mean of its
    normalised support features, scaled to length 1, and the bias is zero. This works for any number of ways and any
    model, and training starts from the nearest-mean classifier. Unlike in Qi et al., the scale is not learned: it is
    the length of the features.
    """

    name = choices.FINE_TUNE

    def start(self, module: Embedder, features: Tensor, labels: Tensor, ways: int) -> tuple[Tensor, Tensor]:  # noqa: D102
        weight = functional.normalize(class_means(features, labels, ways), dim=-1)
        return weight, weight.new_zeros(ways)


@final
class FineTuneOwn(_FullBatchDescent):
    """Fine-tuning like `FineTune`, but from the class head stored with the model.

    With batch norm `query`, this is the protocol of the papers. It needs a meta-model that was learned together with
    its head (preset `published`), and tasks with as many classes as that head.
    """

    name = choices.FINE_TUNE_OWN

    def start(self, module: Embedder, features: Tensor, labels: Tensor, ways: int) -> tuple[Tensor, Tensor]:  # noqa: D102
        module = module.embedder if isinstance(module, MirroredFeatures) else module
        if not isinstance(module, ImageClassifier) or module.spec.classes != ways:
            found = f"a head of {module.spec.classes}" if isinstance(module, ImageClassifier) else "no head"
            raise UsageError(
                f"head {self.name}", f"the task has {ways} classes, the model {found}", "choose the head fine-tune"
            )
        head = module.network.head
        if not bool(head.weight.any()):
            raise UsageError(
                f"head {self.name}",
                "the model has a class head of zeros, not a learned one",
                "choose the head fine-tune",
            )
        return head.weight.detach().clone(), head.bias.detach().clone()
