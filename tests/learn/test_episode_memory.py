import torch
from error_checks import raises
from torch import Tensor

from metazoo.errors import DataError
from metazoo.learn.episode_memory import EpisodeMemory


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images_of(identities: Tensor, round_: int) -> Tensor:
    """Images whose channels are class, round and number."""
    images = torch.zeros(len(identities), 3, 2, 2, dtype=torch.uint8)
    images[:, 0] = identities.view(-1, 1, 1).to(torch.uint8)
    images[:, 1] = round_
    images[:, 2] = torch.arange(len(identities)).view(-1, 1, 1).to(torch.uint8)
    return images


def filled(rounds: int = 1, *, slots: int = 3, classes: int = 6, conflicts: Tensor | None = None) -> EpisodeMemory:
    memory = EpisodeMemory(classes, slots, conflicts)
    for number in range(rounds):
        identities = torch.arange(classes).repeat_interleave(5)
        memory.add(images_of(identities, number), identities)
    return memory


def test_the_oldest_insertion_makes_room() -> None:
    memory = filled(rounds=5, slots=3)
    assert memory.counts().tolist() == [15] * 6
    task = memory.draw(2, 5, 10, seeded())
    rounds = torch.cat([task.support_images, task.query_images])[:, 1, 0, 0].mul(255).round()
    assert set(rounds.tolist()) == {2.0, 3.0, 4.0}


def test_an_episode_has_distinct_images_of_distinct_classes_in_order() -> None:
    task = filled(2).draw(4, 2, 7, seeded())
    assert task.support_labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert task.query_labels.tolist() == [way for way in range(4) for _ in range(7)]
    for images, labels in ((task.support_images, task.support_labels), (task.query_images, task.query_labels)):
        classes = images[:, 0, 0, 0].mul(255).round()
        of_way = [set(classes[labels == way].tolist()) for way in range(4)]
        assert all(len(found) == 1 for found in of_way)
        assert len(set.union(*of_way)) == 4
    both = torch.cat([task.support_images, task.query_images]).flatten(1)
    assert len(both.unique(dim=0)) == len(both)


def test_classes_are_drawn_uniformly() -> None:
    memory, random = filled(2), seeded()
    drawn = [memory.draw(2, 1, 1, random).support_images[:, 0, 0, 0].mul(255).round() for _ in range(600)]
    counts = torch.bincount(torch.cat(drawn).long(), minlength=6)
    assert counts.sum() == 1200
    assert (counts - 200).abs().max() < 50  # four deviations


def test_classes_that_conflict_never_meet() -> None:
    conflicts = torch.zeros(6, 6, dtype=torch.bool)
    conflicts[0, 1] = conflicts[1, 0] = conflicts[2, 3] = conflicts[3, 2] = True
    memory, random = filled(2, conflicts=conflicts), seeded()
    for _ in range(100):
        met = set(memory.draw(4, 1, 1, random).support_images[:, 0, 0, 0].mul(255).round().long().tolist())
        assert len(met) == 4
        assert not {0, 1} <= met
        assert not {2, 3} <= met
    assert memory.holds(4, 2)
    assert not memory.holds(5, 2)
    with raises(DataError, problem="no 5 classes that are known to differ have 2 images"):
        memory.draw(5, 1, 1, random)


def test_a_class_without_enough_images_is_not_ready() -> None:
    memory = filled(1)
    memory.add(images_of(torch.tensor([2]), 9), torch.tensor([2]))
    with raises(DataError, problem="no 2 classes that are known to differ have 6 images"):
        memory.draw(2, 1, 5, seeded())


def test_a_state_is_restored() -> None:
    memory, again = filled(5), EpisodeMemory(6, 3)
    again.restore({**memory.state(), "parameters.other": torch.zeros(1)})
    for one in (memory, again):
        one.add(images_of(torch.arange(6), 7), torch.arange(6))
    assert torch.equal(memory.counts(), again.counts())
    ours, theirs = memory.draw(3, 1, 5, seeded(4)), again.draw(3, 1, 5, seeded(4))
    assert torch.equal(ours.query_images, theirs.query_images)
    with raises(DataError, subject="checkpoint", problem="memory"):
        EpisodeMemory(5).restore(memory.state())
