"""Learners, which adapt parameters to the support set of an episode, differentiably in the initial parameters.

Learners are functions from parameters by name to logits of the queries, so that any order of derivative and any outer
optimiser is possible. Batch norm normalises support and query batches by their own statistics, as in the papers of
data-free meta-learning.
"""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar, final

import torch
from jaxtyping import Float, Int64
from pydantic import AfterValidator
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from metazoo.execution.threads import ThreadCopies
from metazoo.features.batch_norm import batch_statistics
from metazoo.features.heads.head import raw_class_means
from metazoo.learn.regularisers import Parameters
from metazoo.learn.second_derivatives import QuickSecondDerivatives
from metazoo.models import ImageClassifier
from metazoo.plugins import Registry

_HEAD = "network.head."


@dataclass(frozen=True, eq=False)
class EpisodeImages:
    """Images of an episode in [0, 1], and their relative labels below `ways`."""

    support_images: Float[Tensor, "support 3 side side"]
    support_labels: Int64[Tensor, " support"]
    query_images: Float[Tensor, "queries 3 side side"]
    query_labels: Int64[Tensor, " queries"]
    ways: int

    @classmethod
    def of_classes(
        cls, support: Float[Tensor, "support 3 side side"], query: Float[Tensor, "queries 3 side side"], ways: int
    ) -> "EpisodeImages":
        """Make an episode from images in the order of its classes, equally many of each."""
        own, asked = (
            torch.arange(ways, device=images.device).repeat_interleave(len(images) // ways)
            for images in (support, query)
        )
        return cls(support, own, query, asked, ways)


@final
class FunctionalClassifier:
    """Classifier as a function of its parameters, which are named as in `ImageClassifier`. It is thread-safe.

    Every batch is normalised by its own statistics; see `batch_norm.batch_statistics`.
    """

    def __init__(self, classifier: ImageClassifier) -> None:
        self.classifier = classifier
        self._features = ThreadCopies(_Features(classifier))

    def features(self, parameters: Parameters, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        """Features of `images` in [0, 1]."""
        named, module = {f"classifier.{name}": value for name, value in parameters.items()}, self._features.own
        with batch_statistics(module.classifier):
            # Pooling and batch norm are several times faster in this format, whatever that of the parameters.
            return functional_call(module, named, (images.contiguous(memory_format=torch.channels_last),))

    def head(self, parameters: Parameters, features: Float[Tensor, "n d"]) -> Float[Tensor, "n ways"]:
        """Logits of `features`."""
        return functional.linear(features, parameters[f"{_HEAD}weight"], parameters[f"{_HEAD}bias"])

    def logits(self, parameters: Parameters, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n ways"]:
        """Logits of `images` in [0, 1]."""
        return self.head(parameters, self.features(parameters, images))


class _Features(nn.Module):
    def __init__(self, classifier: ImageClassifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier.features(images)


def prototype_logits(
    support: Float[Tensor, "support d"],
    support_labels: Int64[Tensor, " support"],
    queries: Float[Tensor, "queries d"],
    ways: int,
) -> Float[Tensor, "queries ways"]:
    """Minus the squared Euclidean distances of queries from the class means of the support (Snell et al. 2017)."""
    means = raw_class_means(support, support_labels, ways)
    return -(queries.unsqueeze(1) - means).square().sum(2)


class Learner(ABC):
    """Learner of an episode from its support set.

    Attributes:
        name: name in configurations.
    """

    name: ClassVar[str]

    @abstractmethod
    def query_logits(
        self, model: FunctionalClassifier, parameters: Parameters, episode: EpisodeImages
    ) -> Float[Tensor, "queries ways"]:
        """Compute logits of the queries, differentiable in `parameters`.

        Args:
            model: classifier, whose head has as many outputs as the episode has ways; prototypical networks ignore it.
            parameters: parameters of the model; those that need a gradient are leaves or functions of leaves.
            episode: images with labels from 0 to ways - 1.
        """


@final
class Maml(Learner):
    """Model-agnostic meta-learning (Finn et al. 2017): full-batch gradient steps of all parameters on the support set.

    Args:
        steps: steps of the inner loop.
        learning_rate: learning rate of the inner loop.
        first_order: whether the inner gradients count as constants in the outer gradient (FOMAML), at about half the
            cost and a fraction of the memory.
    """

    name = "maml"

    def __init__(self, steps: int = 5, learning_rate: float = 0.01, *, first_order: bool = False) -> None:
        self._steps, self._learning_rate, self._first_order = steps, learning_rate, first_order

    def query_logits(  # noqa: D102
        self, model: FunctionalClassifier, parameters: Parameters, episode: EpisodeImages
    ) -> Float[Tensor, "queries ways"]:
        adapted = parameters
        for _ in range(self._steps):
            with contextlib.nullcontext() if self._first_order else QuickSecondDerivatives():
                loss = functional.cross_entropy(model.logits(adapted, episode.support_images), episode.support_labels)
            adapted = _descended(adapted, loss, self._learning_rate, create_graph=not self._first_order)
        return model.logits(adapted, episode.query_images)


@final
class Anil(Learner):
    """Almost no inner loop (Raghu et al. 2020): the inner loop adapts the head only, on features computed once.

    The outer gradient is of second order, which is cheap for a linear head.

    Args:
        steps: steps of the inner loop.
        learning_rate: learning rate of the inner loop.
    """

    name = "anil"

    def __init__(self, steps: int = 5, learning_rate: float = 0.01) -> None:
        self._steps, self._learning_rate = steps, learning_rate

    def query_logits(  # noqa: D102
        self, model: FunctionalClassifier, parameters: Parameters, episode: EpisodeImages
    ) -> Float[Tensor, "queries ways"]:
        support = model.features(parameters, episode.support_images)
        head = {name: value for name, value in parameters.items() if name.startswith(_HEAD)}
        for _ in range(self._steps):
            loss = functional.cross_entropy(model.head(head, support), episode.support_labels)
            head = _descended(head, loss, self._learning_rate, create_graph=True)
        return model.head(head, model.features(parameters, episode.query_images))


@final
class ProtoNet(Learner):
    """Prototypical networks (Snell et al. 2017): minus the squared Euclidean distance to the mean of each class."""

    name = "protonet"

    def query_logits(  # noqa: D102
        self, model: FunctionalClassifier, parameters: Parameters, episode: EpisodeImages
    ) -> Float[Tensor, "queries ways"]:
        support = model.features(parameters, episode.support_images)
        queries = model.features(parameters, episode.query_images)
        return prototype_logits(support, episode.support_labels, queries, episode.ways)


LEARNERS: Registry[Callable[..., Learner]] = Registry(
    "learner",
    values={
        "maml": Maml,
        "maml-first-order": partial(Maml, first_order=True),
        "anil": Anil,
        "protonet": lambda **_: ProtoNet(),
    },
)
register_learner = LEARNERS.register
"""Register a builder of a `Learner`, called as `builder(steps=, learning_rate=)` with the options of its inner loop:
`register_learner(name, builder)`, or as a decorator `register_learner(name)`."""

LearnerName = Annotated[str, AfterValidator(LEARNERS.validate)]
"""Type of options that name a learner; validation refuses unknown names."""


def build_learner(name: str, *, steps: int = 5, learning_rate: float = 0.01) -> Learner:
    """Make the learner called `name`.

    Raises:
        UsageError: there is no such learner.
    """
    return LEARNERS.get(name)(steps=steps, learning_rate=learning_rate)


def _descended(parameters: Parameters, loss: Tensor, learning_rate: float, *, create_graph: bool) -> Parameters:
    gradients = torch.autograd.grad(
        loss, list(parameters.values()), create_graph=create_graph, allow_unused=True, materialize_grads=True
    )
    return {
        name: torch.sub(value, gradient, alpha=learning_rate)
        for (name, value), gradient in zip(parameters.items(), gradients, strict=True)
    }
