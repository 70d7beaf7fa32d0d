"""Accuracy of a head on many episodes at once, from precomputed features."""

from collections.abc import Callable

import torch
from torch import Tensor

from metazoo.data import EpisodeList
from metazoo.features.domain_router import DomainRecogniser
from metazoo.features.heads import FeatureHead


def used_images(*episode_lists: EpisodeList) -> Tensor:
    """Indices of the images that the episodes use, ascending: int64 [m]."""
    parts = [part for episodes in episode_lists for part in (episodes.support_indices, episodes.query_indices)]
    return torch.cat([part.flatten() for part in parts]).unique()


def episode_accuracies(
    features: Tensor,
    used: Tensor,
    episodes: EpisodeList,
    head: FeatureHead,
    advance: Callable[[int], object] | None = None,
    recogniser: DomainRecogniser | None = None,
    *,
    numbers_at_once: int = 2**24,
) -> Tensor:
    """Accuracy on every episode in percent, float64 [episodes].

    Args:
        features: finite features [m, d] of the images at `used`.
        used: indices from `used_images`, of this list and perhaps others.
        episodes: episodes to solve.
        head: head that learns each episode.
        advance: callback with the number of episodes done since the last call.
        recogniser: domain recogniser that weights the features; None for no weighting.
        numbers_at_once: number of features of queries in memory at once, at least one episode.
    """
    support, query = (
        torch.searchsorted(used, part).to(features.device)
        for part in (episodes.support_indices, episodes.query_indices)
    )
    support_labels, query_labels = episodes[0].support_labels, episodes[0].query_labels
    size = max(1, numbers_at_once // (query.shape[1] * features.shape[1]))
    parts = []
    for support_block, query_block in zip(support.split(size), query.split(size), strict=True):
        of_support, of_query = features[support_block], features[query_block]
        if recogniser is not None:
            scale = recogniser.weigh(of_support)[1].unsqueeze(-2)
            of_support, of_query = of_support * scale, of_query * scale
        fitted = head.fit_features(of_support, support_labels, episodes.ways)
        parts.append(accuracy(fitted.scores(of_query).cpu(), query_labels))
        if advance is not None:
            advance(len(support_block))
    return torch.cat(parts)


def accuracy(scores: Tensor, labels: Tensor) -> Tensor:
    """Accuracy in percent, float64 [...], of `scores` [..., n, ways] for `labels` [n]."""
    return (scores.argmax(-1) == labels).double().mean(-1) * 100
