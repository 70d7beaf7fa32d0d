"""Gradients of batches of episodes with respect to the common initial parameters."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from metazoo.execution.repeat import Repeated
from metazoo.execution.threads import CALLING_THREAD, WorkerThreads
from metazoo.learn.learners import EpisodeImages, FunctionalClassifier, Learner
from metazoo.learn.regularisers import Parameters


@dataclass(frozen=True, eq=False)
class BatchOfEpisodes:
    """Gradient of the sum of the episodes' query losses, and mean loss and accuracy."""

    gradient: Parameters
    loss: Float[Tensor, ""]
    accuracy: Float[Tensor, ""]


@dataclass(frozen=True, eq=False)
class ImageGradients:
    """Query loss of one episode, and its gradients with respect to the images of support and query."""

    loss: Float[Tensor, ""]
    support: Float[Tensor, "support 3 side side"]
    query: Float[Tensor, "queries 3 side side"]


@final
class EpisodeGradients:
    """Gradients of batches of episodes. No thread keeps more than one episode's graph in memory.

    On a GPU the hundreds of kernel launches of an episode are recorded once for each shape of episodes and played back.

    Attributes:
        model: classifier that the learner adapts.

    Args:
        learner: learner of an episode.
        model: classifier that the learner adapts.
        parameters: parameters of the model; their values at the time of a call count.
        threads: worker threads that share the episodes of a batch; on a GPU only the calling thread, which can record.
    """

    def __init__(
        self,
        learner: Learner,
        model: FunctionalClassifier,
        parameters: Parameters,
        *,
        threads: WorkerThreads = CALLING_THREAD,
    ) -> None:
        self.model, self._learner, self._threads = model, learner, threads
        self._leaves = {name: value.detach().requires_grad_(True) for name, value in parameters.items()}
        self._total = {name: torch.zeros_like(value) for name, value in parameters.items()}
        self._repeated: dict[int, Repeated[tuple[Tensor, Tensor]]] = {}

    def __call__(self, episodes: Sequence[EpisodeImages]) -> BatchOfEpisodes:
        """Gradient of `episodes` of equal shapes, in tensors that the next call overwrites."""
        for part in self._total.values():
            part.zero_()
        found = self._by_threads(episodes) if self._threads.count > 1 else self._in_turn(episodes)
        losses, accuracies = zip(*found, strict=True)
        return BatchOfEpisodes(self._total, torch.stack(losses).mean(), torch.stack(accuracies).mean())

    def of_images(self, episode: EpisodeImages) -> ImageGradients:
        """Gradients of the query loss with respect to the images of `episode`, also through the learner's inner loop.

        The gradient through a first-order inner loop counts as 0. Nothing is recorded.
        """
        shown = [images.detach().requires_grad_(True) for images in (episode.support_images, episode.query_images)]
        with torch.enable_grad():
            attached = replace(episode, support_images=shown[0], query_images=shown[1])
            logits = self._learner.query_logits(self.model, self._leaves, attached)
            loss = functional.cross_entropy(logits, episode.query_labels)
        support, query = torch.autograd.grad(loss, shown, allow_unused=True, materialize_grads=True)
        return ImageGradients(loss.detach(), support, query)

    def _by_threads(self, episodes: Sequence[EpisodeImages]) -> Iterator[tuple[Tensor, Tensor]]:
        for parts, loss, accuracy in self._threads.map(self._of, episodes):
            self._add(parts)
            yield loss, accuracy

    def _in_turn(self, episodes: Sequence[EpisodeImages]) -> Iterator[tuple[Tensor, Tensor]]:
        for episode in episodes:
            loss, accuracy = self._repeatedly(episode)
            yield loss.clone(), accuracy.clone()

    def _repeatedly(self, episode: EpisodeImages) -> tuple[Tensor, Tensor]:
        """Loss and accuracy of one episode, after adding its gradient to the total."""
        ways = episode.ways
        if ways not in self._repeated:

            def step(*tensors: Tensor) -> tuple[Tensor, Tensor]:
                parts, loss, accuracy = self._of(EpisodeImages(*tensors, ways=ways))
                self._add(parts)
                return loss, accuracy

            self._repeated[ways] = Repeated(step, next(iter(self._total.values())).device)
        return self._repeated[ways](
            episode.support_images, episode.support_labels, episode.query_images, episode.query_labels
        )

    def _add(self, parts: Sequence[Tensor]) -> None:
        for total, part in zip(self._total.values(), parts, strict=True):
            total += part

    def _of(self, episode: EpisodeImages) -> tuple[Sequence[Tensor], Tensor, Tensor]:
        """Gradient, loss and accuracy of one episode."""
        with torch.enable_grad():
            logits = self._learner.query_logits(self.model, self._leaves, episode)
            loss = functional.cross_entropy(logits, episode.query_labels)
        parts = torch.autograd.grad(loss, list(self._leaves.values()), allow_unused=True, materialize_grads=True)
        return parts, loss.detach(), (logits.argmax(1) == episode.query_labels).double().mean()
