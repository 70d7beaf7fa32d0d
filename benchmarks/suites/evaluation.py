"""Evaluating a list of episodes."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.measure import Case, Settings, Suite, Way, timed
from benchmarks.suites.examples import classifier, image_set
from metazoo.data import EpisodeList, ImageSet
from metazoo.evaluate import Subject, evaluate_lists
from metazoo.features.heads import get_head
from metazoo.models import ImageClassifier

CLASSES, IMAGES, SHOTS, QUERIES = 20, 40, 5, 15


def episode_by_episode(model: ImageClassifier, images: ImageSet, episodes: EpisodeList, count: int) -> Tensor:
    """Accuracies of the first `count` episodes in percent, every episode's images embedded anew, as published.

    The nearest mean by cosine takes the place of the published fine-tuning.
    """
    accuracies = []
    with torch.no_grad():
        for index in range(count):
            episode = episodes[index]
            support = functional.normalize(model.features(images.images[episode.support_indices].float() / 255))
            query = functional.normalize(model.features(images.images[episode.query_indices].float() / 255))
            means = [support[episode.support_labels == label].mean(0) for label in range(episode.ways)]
            scores = query @ functional.normalize(torch.stack(means)).T
            accuracies.append((scores.argmax(1) == episode.query_labels).double().mean() * 100)
    return torch.stack(accuracies)


class KnownFeatures(nn.Module):
    """Features that were computed before; the first pixel of an image says whose they are."""

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.stored = features

    def features(self, images: Tensor) -> Tensor:
        first = (images[:, :, 0, 0] * 255).round().long()
        return self.stored[first[:, 0] * 256 + first[:, 1]]

    @staticmethod
    def numbered(images: ImageSet) -> ImageSet:
        """As many images of one pixel, which tell their places."""
        places = torch.arange(len(images))
        numbers = torch.stack([places // 256, places % 256, torch.zeros_like(places)], 1)
        return ImageSet(numbers.to(torch.uint8)[:, :, None, None], images.labels, images.class_names)


def _case(ways: int, count: int, share: int, side: int, width: int | None, *, memory: bool = False) -> Case:
    """The reference does one `share`-th of the episodes."""

    def prepare() -> dict[str, Way]:
        images, model = image_set(CLASSES, IMAGES, side), classifier(side=side, width=width)
        episodes = EpisodeList.draw(images, ways, SHOTS, QUERIES, count)
        subject, head = Subject.of("conv4", "conv4", model), get_head("nearest-mean")
        with torch.no_grad():
            known = Subject.of("known", "known", KnownFeatures(model.features(images.images.float() / 255)))
        numbered = KnownFeatures.numbered(images)
        same = EpisodeList.draw(numbered, ways, SHOTS, QUERIES, count)
        return {
            "episode by episode, plain torch": timed(
                lambda: episode_by_episode(model, images, episodes, count // share), 1 / share
            ),
            "features once, episodes together (default)": timed(
                lambda: evaluate_lists(subject, images, [episodes], head)
            ),
            "of that, after the features": timed(lambda: evaluate_lists(known, numbered, [same], head)),
        }

    name = f"{count:,} episodes, {ways}-way {SHOTS}-shot, nearest mean, Conv4, {side} px"
    return Case(name, prepare, count, "episodes", "ways", ways, memory=memory)


def cases(settings: Settings) -> list[Case]:
    if settings.quick:
        return [_case(ways, 10, 5, 16, 4) for ways in (2, 3)]
    return [_case(ways, 1000, 100, 32, None, memory=ways == 5) for ways in (5, 10, 20)]


SUITE = Suite("evaluation", "Inductive evaluation with stored batch-norm statistics, 15 queries a class.", cases)
