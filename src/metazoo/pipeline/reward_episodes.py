"""Episodes that measure a meta-model while it learns: of recovered images, or of labelled images of the user."""

from collections.abc import Sequence

import torch

from metazoo.bank import Bank, fitted
from metazoo.data import EpisodeList, ImageSet, UnlabelledImages
from metazoo.data.images import draw_of_each, first_of_each
from metazoo.execution.randomness import generator, seed_of
from metazoo.learn.interpolated_learning import InterpolationConfig
from metazoo.learn.learners import EpisodeImages
from metazoo.learn.model_choice import DrawRewardEpisodes, RewardEpisode
from metazoo.pipeline.layout import VALIDATION
from metazoo.pipeline.visits import Labelled
from metazoo.pipeline.workspace import Workspace
from metazoo.zoo import Zoo

_IMAGES_OF_PART, _SMALL_SIDE = 1000, 8


def keep_hashes(workspace: Workspace, validation: UnlabelledImages) -> None:
    """Record the SHA-256 of every labelled validation image, so that an evaluation on the same images is noticed."""
    if not workspace.folder.has(VALIDATION):
        parts = torch.arange(validation.count).split(_IMAGES_OF_PART)
        hashes = [own for part in parts for own in validation.read(part, _SMALL_SIDE)[1]]
        workspace.folder.write_json(VALIDATION, {"format_version": 1, "images": len(hashes), "sha256": hashes})


def split_bank(bank: Bank, zoo: Zoo, side: int, held_out: int) -> tuple[list[Labelled], list[Labelled]]:
    """Images of every model to learn from, and the first `held_out` of each class, which only the reward sees."""
    own, rewarded = [], []
    for contract in zoo:
        images, labels = bank.images_of(contract.name)
        images, first = fitted(images, side), first_of_each(labels, held_out)
        others = torch.ones(len(labels), dtype=torch.bool)
        others[first] = False
        own.append((images[others], labels[others]))
        rewarded.append((images[first], labels[first]))
    return own, rewarded


def recovered_episodes(
    stored: Sequence[Labelled], ways: int, config: InterpolationConfig, seed: int, device: str
) -> DrawRewardEpisodes:
    """Draw reward episodes of recovered images, each of the classes of one model that was not chosen last.

    An episode within one model asks what that model knows; classes of several models would differ by how each model's
    images look. If all models were chosen, all count. Models of a single class are not asked.

    Args:
        stored: images of each model, which no learning sees; at least `shots` + `queries` of each class.
        ways: most classes of an episode.
        config: options of the learning.
        seed: seed of the run.
        device: device of the episodes.
    """
    asked = [model for model, own in enumerate(stored) if len(own[1].unique()) > 1]

    def draw(step: int, chosen: Sequence[int]) -> list[RewardEpisode]:
        random = generator(seed, "reward", "recovered", step)
        subjects = [model for model in asked if model not in chosen] or asked
        order = torch.randperm(len(subjects), generator=random)[: config.reward_episodes].tolist()
        drawn = [subjects[position] for position in order]
        return [RewardEpisode(subject, episode(stored[subject], random)) for subject in drawn]

    def episode(own: Labelled, random: torch.Generator) -> EpisodeImages:
        pixels, labels = own
        classes = labels.unique()
        classes = classes[torch.randperm(len(classes), generator=random)[:ways]].tolist()
        drawn = torch.stack(draw_of_each(labels, classes, config.shots + config.queries, random))
        images = pixels.to(device)
        support, query = drawn[:, : config.shots].flatten(), drawn[:, config.shots :].flatten()
        return EpisodeImages.of_classes(images[support].float() / 255, images[query].float() / 255, len(classes))

    return draw


def validation_episodes(
    images: ImageSet, ways: int, config: InterpolationConfig, seed: int, side: int, device: str
) -> DrawRewardEpisodes:
    """Draw reward episodes of labelled images, as published; a run with them is not data-free.

    Raises:
        UsageError: the images have too few classes, or too few images of one.
    """
    fitting = images.resized(side).images.to(device)

    def draw(step: int, _chosen: Sequence[int]) -> list[RewardEpisode]:
        random = seed_of(seed, "reward", "validation", step)
        drawn = EpisodeList.draw(images, ways, config.shots, config.queries, config.reward_episodes, random)
        parts = [[fitting[rows].float() / 255 for rows in (own.support_indices, own.query_indices)] for own in drawn]
        return [RewardEpisode(0, EpisodeImages.of_classes(support, query, ways)) for support, query in parts]

    draw(0, ())
    return draw
