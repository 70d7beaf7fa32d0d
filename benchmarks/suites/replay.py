"""Replay: episodes a second through a learner."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional

from benchmarks.measure import Case, Settings, Suite, Way, timed
from benchmarks.suites.examples import classifier, pixels, random, scratch
from metazoo.execution.threads import CALLING_THREAD, WorkerThreads
from metazoo.features.batch_norm import batch_statistics
from metazoo.learn.episode_gradients import EpisodeGradients
from metazoo.learn.episode_memory import EpisodeMemory
from metazoo.learn.learners import EpisodeImages, FunctionalClassifier, build_learner
from metazoo.learn.regularisers import Parameters
from metazoo.models import ImageClassifier

IDENTITIES, IMAGES, QUERIES, STEPS, RATE = 20, 30, 15, 5, 0.01


def published_gradient(student: ImageClassifier, episodes: Sequence[EpisodeImages]) -> Parameters:
    """Second-order MAML as the official code of TGR: the losses of a batch of episodes summed, one backward pass."""
    parameters = {name: value.detach().requires_grad_(True) for name, value in student.named_parameters()}
    total = torch.zeros(())
    for episode in episodes:
        adapted = dict(parameters)
        for _ in range(STEPS):
            logits = functional_call(student, adapted, (episode.support_images,))
            loss = functional.cross_entropy(logits, episode.support_labels)
            gradients = torch.autograd.grad(loss, list(adapted.values()), create_graph=True)
            adapted = {
                name: value - RATE * part for (name, value), part in zip(adapted.items(), gradients, strict=True)
            }
        logits = functional_call(student, adapted, (episode.query_images,))
        total = total + functional.cross_entropy(logits, episode.query_labels)
    return dict(zip(parameters, torch.autograd.grad(total, list(parameters.values())), strict=True))


def write_pictures(folder: Path, images: Tensor, identities: Tensor) -> None:
    """One PNG an image, in a folder for each class, as the published code keeps its memory."""
    for number, (image, identity) in enumerate(zip(images, identities.tolist(), strict=True)):
        place = folder / str(identity)
        place.mkdir(exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(place / f"{number}.png")


def episode_from_pictures(folder: Path, ways: int, shots: int, draws: torch.Generator) -> EpisodeImages:
    """List the folder, draw classes and images, and decode them."""
    classes = sorted(folder.iterdir())
    support, query = [], []
    for place in torch.randperm(len(classes), generator=draws)[:ways].tolist():
        files = sorted(classes[place].iterdir())
        chosen = torch.randperm(len(files), generator=draws)[: shots + QUERIES].tolist()
        decoded = [torch.from_numpy(np.array(Image.open(files[index]))).permute(2, 0, 1) for index in chosen]
        stacked = torch.stack(decoded).float() / 255
        support.append(stacked[:shots])
        query.append(stacked[shots:])
    labels = torch.arange(ways)
    return EpisodeImages(
        torch.cat(support), labels.repeat_interleave(shots), torch.cat(query), labels.repeat_interleave(QUERIES), ways
    )


class Replay:
    """Steps of replay: each draws its episodes from memory."""

    def __init__(self, ways: int, shots: int, episodes: int, side: int, width: int | None) -> None:
        self.student = classifier(side=side, classes=ways, width=width)
        self.identities = torch.arange(IDENTITIES).repeat_interleave(IMAGES)
        self.images = pixels(len(self.identities), side)
        self._memory = EpisodeMemory(IDENTITIES)
        self._memory.add(self.images, self.identities)
        self._episodes, self._shape = episodes, (ways, shots, QUERIES)

    def drawn(self, draw: Callable[[torch.Generator], EpisodeImages]) -> list[EpisodeImages]:
        draws = random()
        return [draw(draws) for _ in range(self._episodes)]

    def from_memory(self, draws: torch.Generator) -> EpisodeImages:
        return self._memory.draw(*self._shape, draws)

    def published(self, draw: Callable[[torch.Generator], EpisodeImages] | None = None) -> object:
        with batch_statistics(self.student):
            return published_gradient(self.student, self.drawn(draw or self.from_memory))

    def by(self, name: str, threads: WorkerThreads = CALLING_THREAD) -> Callable[[], object]:
        parameters = {name: value.detach() for name, value in self.student.named_parameters()}
        learner = build_learner(name, steps=STEPS, learning_rate=RATE)
        gradients = EpisodeGradients(learner, FunctionalClassifier(self.student), parameters, threads=threads)
        return lambda: gradients(self.drawn(self.from_memory))


def _case(ways: int, shots: int, episodes: int, side: int, width: int | None, *, memory: bool = False) -> Case:
    def prepare() -> dict[str, Way]:
        replay, pictures = Replay(ways, shots, episodes, side, width), scratch()
        write_pictures(pictures, replay.images, replay.identities)

        def from_pictures(draws: torch.Generator) -> EpisodeImages:
            return episode_from_pictures(pictures, ways, shots, draws)

        return {
            "published maml, plain torch, images in memory": timed(replay.published),
            "published maml, plain torch, images in PNG files": timed(lambda: replay.published(from_pictures)),
            "maml, second order": timed(replay.by("maml")),
            "maml-first-order": timed(replay.by("maml-first-order")),
            "anil": timed(replay.by("anil")),
            "protonet": timed(replay.by("protonet")),
        }

    name = f"{episodes} episodes, {ways}-way {shots}-shot, Conv4, {side} px"
    return Case(name, prepare, episodes, "episodes", f"ways, {episodes} episodes, {shots}-shot", ways, memory=memory)


def cases(settings: Settings) -> list[Case]:
    if settings.quick:
        return [_case(ways, 1, 2, 16, 4) for ways in (2, 3)]
    return [
        _case(5, 1, 16, 32, None, memory=True),
        *(_case(ways, 1, 4, 32, None) for ways in (5, 10, 20)),
        _case(5, 5, 4, 32, None),
    ]


SUITE = Suite("replay", "The gradient of one update on episodes from memory, 5 inner steps, 15 queries a class.", cases)
