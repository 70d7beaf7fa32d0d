from pathlib import Path

import pytest
import torch
from learn_helpers import SIDE, resident_bank, student, targets
from torch.nn import functional

from metazoo.data import EpisodeList, ImageSet
from metazoo.errors import DataError
from metazoo.features.batch_norm import batch_statistics
from metazoo.learn.draw_policy import DrawPolicy
from metazoo.learn.group_learning import GroupLearner
from metazoo.learn.learning_config import LearningConfig
from metazoo.learn.selecting_learner import SelectingLearner, accuracy_on
from metazoo.storage.tensor_files import read_tensors, write_tensors
from metazoo.taskspace import FixedGrouping, Partition

CONFIG = LearningConfig(steps=12, teachers_per_step=1, batch_size=8, learning_rate=0.02, warm_up_steps=1, views=12)


def images() -> ImageSet:
    random = torch.Generator().manual_seed(3)
    labels = torch.arange(4).repeat(6)
    colours = torch.randint(60, 190, (4, 3, 1, 1), generator=random)[labels]
    noise = torch.randint(-60, 60, (24, 3, SIDE, SIDE), generator=random)
    return ImageSet((colours + noise).to(torch.uint8), labels, ("a", "b", "c", "d"))


def episodes(count: int = 5) -> EpisodeList:
    return EpisodeList.draw(images(), 3, 2, 3, count, 0)


def selecting(seed: int = 0, steps_per_draw: int = 3, own_student: int = 0) -> SelectingLearner:
    grouping = FixedGrouping(Partition(((0, 2), (1,)), "random"))
    learner = GroupLearner(student(own_student), resident_bank(), grouping, targets, CONFIG, seed)
    policy = DrawPolicy(3, 2, 0.1)
    return SelectingLearner(learner, policy, accuracy_on(images(), episodes()), steps_per_draw, seed)


def test_accuracy_is_that_of_the_nearest_mean_on_one_batch() -> None:
    classifier, drawn, whole = student().classifier, episodes(), images()
    used = sorted({int(place) for episode in drawn for place in (*episode.support_indices, *episode.query_indices)})
    with torch.no_grad(), batch_statistics(classifier):
        features = functional.normalize(classifier.features(whole.images[used].float() / 255), dim=1)
    of = dict(zip(used, features, strict=True))
    right = []
    for episode in drawn:
        support = torch.stack([of[int(place)] for place in episode.support_indices]).view(3, 2, -1)
        means = functional.normalize(support.mean(1), dim=1)
        found = [int((means @ of[int(place)]).argmax()) for place in episode.query_indices]
        right += [own == true for own, true in zip(found, episode.query_labels.tolist(), strict=True)]
    measure = accuracy_on(whole, drawn)
    assert measure(classifier) == pytest.approx(100 * sum(right) / len(right))
    assert 20 < measure(classifier) <= 100


def test_a_draw_serves_some_steps_and_is_then_rewarded_by_the_accuracy(monkeypatch: pytest.MonkeyPatch) -> None:
    learner, rewards, drawn = selecting(), [], []
    real = learner.policy.learn
    monkeypatch.setattr(learner.policy, "learn", lambda one, reward: (rewards.append(reward), real(one, reward)))
    accuracies, before = [learner.accuracy], []
    for _ in range(12):
        before.append(learner.policy.preferences)
        report = learner.step()
        drawn.append(learner.learner.active)
        accuracies.append(report.validation_accuracy)
        assert 1 <= report.models_in_use <= 3
    assert rewards == accuracies[3::3]
    assert all(len(set(drawn[start : start + 3])) == 1 for start in (0, 3, 6, 9))
    assert len(set(drawn)) > 1
    assert learner.step().models_in_use < 3
    assert [step for step in range(1, 12) if not torch.equal(before[step], before[step - 1])] in ([6, 9], [6], [9])


# In the middle of a draw, and between two.
@pytest.mark.parametrize("stopped_after", [4, 6, 8])
def test_restored_it_ends_as_if_it_had_not_stopped(tmp_path: Path, stopped_after: int) -> None:
    whole = selecting()
    for _ in range(stopped_after):
        whole.step()
    write_tensors(tmp_path / "state.safetensors", whole.state())
    restored = selecting(own_student=5)  # whose first weights are others
    restored.restore(stopped_after, read_tensors(tmp_path / "state.safetensors"))
    while whole.steps_done < 12:
        assert vars(whole.step()) == vars(restored.step())
    one, other = whole.state(), restored.state()
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    with pytest.raises(DataError, match="does not know a selection"):
        selecting().restore(12, whole.learner.state())


@pytest.mark.parametrize("active", [None, (0, 2)])
def test_a_step_draws_and_reproduces_the_active_teachers_alone(active: tuple[int, ...] | None) -> None:
    def state(factor: float) -> dict[str, torch.Tensor]:
        def other(pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            features, logits = targets(pixels)
            features[:, 5:8] *= factor  # of teacher 1
            logits[:, 3:5] *= factor
            return features, logits

        learner = GroupLearner(
            student(), resident_bank(), FixedGrouping(Partition(((0, 1, 2),), "single")), other, CONFIG, 0,
            weights=torch.tensor([1.0, 0.7, 0.5]),
        )  # fmt: skip
        learner.active = active
        learner.step()
        return learner.state()

    one, other = state(1), state(-1)
    assert all(torch.equal(value, other[name]) for name, value in one.items()) is (active is not None)
