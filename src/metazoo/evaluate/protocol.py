"""Accuracy of subjects on lists of episodes."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from metazoo.data import Episode, EpisodeList, ImageSet
from metazoo.errors import Interrupted, MetazooError, UsageError
from metazoo.evaluate.subjects import Subject
from metazoo.features.batch_norm import BatchNormMode, batch_norm_mode, has_batch_norm
from metazoo.features.embedders import Embedder, JointFeaturesInTurn, MirroredFeatures, recogniser_of
from metazoo.features.episode_accuracy import accuracy, episode_accuracies, used_images
from metazoo.features.heads import FeatureHead, Head, query_features

Advance = Callable[[int], object]


def evaluate_lists(
    subject: Subject,
    image_set: ImageSet,
    episode_lists: Sequence[EpisodeList],
    head: Head,
    batch_norm: BatchNormMode = "running",
    advance: Advance | None = None,
) -> list[Tensor]:
    """Accuracies of one subject in percent, float64 [episodes], for each list.

    If features do not depend on the episode (the head does not change the model, and statistics are stored), each image
    is embedded once for all lists, and episodes are solved together. Otherwise the head is fitted for each episode, and
    the queries of an episode form one batch.

    Args:
        subject: subject to evaluate, which is not changed.
        image_set: images of the episodes.
        episode_lists: lists drawn from `image_set`.
        head: head that learns each episode.
        batch_norm: batch-norm mode; see `metazoo.features.batch_norm`.
        advance: callback with the number of episodes since the last call.

    Raises:
        UsageError: a list was drawn from other images, or the module has no statistics for the mode, or it does not
            support the mode or head (`JointFeaturesInTurn`).
        MetazooError: the features are not finite.
    """
    mode = batch_norm_mode(batch_norm)
    bare = subject.module.embedder if isinstance(subject.module, MirroredFeatures) else subject.module
    if isinstance(bare, JointFeaturesInTurn) and not (mode == "running" and isinstance(head, FeatureHead)):
        raise UsageError(
            subject.name,
            f"models loaded in turn do not support batch norm {mode} with head {head.name}",
            "load all models at once, by zoo_ensemble",
        )
    for episodes in episode_lists:
        episodes.check_drawn_from(image_set)
    shared = mode == "running" or not has_batch_norm(subject.module)
    try:
        if isinstance(head, FeatureHead) and shared:
            return _solve_together(subject.module, image_set, episode_lists, head, advance)
        return [_solve_singly(subject.module, image_set, episodes, head, mode, advance) for episodes in episode_lists]
    except Interrupted:
        raise
    except MetazooError as error:
        raise type(error)(f"{subject.name}: {error.subject}", error.problem, error.remedy) from error


def score_episode(
    module: Embedder, image_set: ImageSet, episode: Episode, head: Head, batch_norm: BatchNormMode
) -> Tensor:
    """Scores [ways * queries, ways] of the queries of an episode, from a head fitted to its support."""
    support, query = image_set.images[episode.support_indices], image_set.images[episode.query_indices]
    adapted, fitted = head.fit(module, support, episode.support_labels, episode.ways, batch_norm)
    return fitted.scores(query_features(adapted, query, batch_norm))


def _solve_singly(
    module: Embedder,
    image_set: ImageSet,
    episodes: EpisodeList,
    head: Head,
    batch_norm: BatchNormMode,
    advance: Advance | None,
) -> Tensor:
    accuracies = torch.empty(len(episodes), dtype=torch.float64)
    for index, episode in enumerate(episodes):
        scores = score_episode(module, image_set, episode, head, batch_norm)
        accuracies[index] = accuracy(scores.cpu(), episode.query_labels)
        if advance is not None:
            advance(1)
    return accuracies


def _solve_together(
    module: Embedder,
    image_set: ImageSet,
    episode_lists: Sequence[EpisodeList],
    head: FeatureHead,
    advance: Advance | None,
) -> list[Tensor]:
    used = used_images(*episode_lists)
    features = query_features(module, image_set.images[used])
    recogniser = recogniser_of(module)
    return [episode_accuracies(features, used, episodes, head, advance, recogniser) for episodes in episode_lists]
