import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from metazoo.bank import ResidentBank
from metazoo.errors import DataError
from metazoo.run.threads import WorkerThreads
from metazoo.taskspace import nearest_mean_skill, skill_matrix, trust_of


def by_loop(features: Tensor, labels: Tensor) -> float:
    """Leave each image out, average the rest of each class, and take the nearest by cosine."""
    right = 0
    directions = functional.normalize(features.double(), dim=1)
    classes = labels.unique().tolist()
    for place, label in enumerate(labels.tolist()):
        others = torch.arange(len(labels)) != place
        means = torch.stack([directions[others & (labels == name)].mean(0) for name in classes])
        right += classes[int(functional.cosine_similarity(means, directions[place : place + 1]).argmax())] == label
    chance = 1 / len(classes)
    return max(0.0, (right / len(labels) - chance) / (1 - chance))


@pytest.mark.parametrize("seed", range(5))
def test_skill_is_that_of_a_loop_over_the_images(seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (40,), generator=random) * 2  # some values do not occur
    features = torch.randn(40, 6, generator=random) + functional.one_hot(labels, 6)
    assert 0 < by_loop(features, labels) < 1
    assert nearest_mean_skill(features, labels) == pytest.approx(by_loop(features, labels))


def test_skill_is_one_for_separate_classes_and_zero_for_chance() -> None:
    labels = torch.arange(4).repeat(5)
    assert nearest_mean_skill(functional.one_hot(labels).float(), labels) == 1
    assert nearest_mean_skill(torch.ones(20, 3), labels) == 0


def test_classes_of_one_image_tell_nothing() -> None:
    features, labels = torch.eye(5), torch.tensor([0, 0, 1, 2, 3])
    assert math.isnan(nearest_mean_skill(features, labels))
    assert nearest_mean_skill(torch.eye(3)[[0, 0, 1, 1, 2]], torch.tensor([4, 4, 7, 7, 9])) == 1


def planted(honest: int, bad: int, seed: int = 0) -> Tensor:
    """Honest models see each other's classes, the others little of anything."""
    random = torch.Generator().manual_seed(seed)
    count = honest + bad
    skill = 0.3 + 0.05 * torch.randn(count, count, generator=random, dtype=torch.float64)
    skill[:honest, :honest] += 0.3
    return skill.clamp(0, 1).fill_diagonal_(torch.nan)


@pytest.mark.parametrize(("honest", "bad"), [(12, 1), (12, 3), (12, 8), (12, 18)])
def test_the_bad_are_trusted_less_than_the_honest_even_where_they_are_more(honest: int, bad: int) -> None:
    for seed in range(10):
        score = trust_of(planted(honest, bad, seed)).score
        assert float(score.max()) == 1
        assert float(score[:honest].min()) > 0.8
        assert float(score[honest:].max()) < 0.7


def test_among_honest_models_nobody_is_doubted() -> None:
    assert float(trust_of(planted(20, 0)).score.min()) > 0.85


def test_trust_is_a_fixed_point_of_its_equations() -> None:
    skill = planted(8, 4)
    trust = trust_of(skill)
    for name, values, figures in (("claims", skill, trust.claims), ("service", skill.T, trust.service)):
        for model in range(12):
            others = [other for other in range(12) if other != model]
            weights = trust.score[others] ** 4
            expected = float(values[model, others] @ weights / weights.sum())
            assert float(figures[model]) == pytest.approx(expected), name
    product = (trust.claims * trust.service).sqrt()
    torch.testing.assert_close(trust.score, product / product.max())


def test_the_order_of_the_zoo_does_not_matter() -> None:
    skill, order = planted(6, 5), torch.randperm(11, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(trust_of(skill[order][:, order]).score, trust_of(skill).score[order])


def test_what_is_not_known_counts_for_nothing() -> None:
    nan = float("nan")
    assert trust_of(torch.full((1, 1), nan)).score.tolist() == [1]
    assert trust_of(torch.zeros(3, 3)).score.tolist() == [1, 1, 1]
    assert trust_of(torch.tensor([[nan, 0.9], [0.4, nan]])).score.tolist() == [1, 1]  # no majority, no doubt
    single_class = planted(6, 0)
    single_class[0] = nan
    trust = trust_of(single_class)
    assert math.isnan(float(trust.claims[0]))
    assert float(trust.score[0]) > 0.8
    unknown = planted(6, 0)
    unknown[0] = unknown[:, 0] = nan
    torch.testing.assert_close(trust_of(unknown).score[1:], trust_of(unknown[1:, 1:]).score)
    assert float(trust_of(unknown).score[0]) == 1


@pytest.mark.parametrize("skill", [torch.zeros(2, 3), torch.full((2, 2), 1.5), torch.tensor([[0.0, -0.1], [0, 0]])])
def test_other_matrices_are_refused(skill: Tensor) -> None:
    with pytest.raises(DataError, match="a square matrix of skills"):
        trust_of(skill)


def bank_of(count: int) -> ResidentBank:
    """Models of 2 classes and 6 images; in the first two the grey value tells the class, in the others nothing does."""
    random = torch.Generator().manual_seed(3)
    labels = torch.tensor([0, 1]).repeat(3 * count)
    images = torch.randint(0, 40, (6 * count, 3, 4, 4), generator=random)
    images[:12] += 150 * labels[:12, None, None, None]
    starts = tuple(range(0, 6 * count + 1, 6))
    return ResidentBank(tuple("abcdef"[:count]), images.to(torch.uint8), labels, starts)


def test_every_model_is_asked_about_every_other() -> None:
    bank, asked = bank_of(4), []

    def features_of(model: int):
        asked.append(model)
        return lambda images: torch.cat([images.mean((1, 2, 3))[:, None] - 0.3, torch.ones(len(images), 1)], 1)

    skill = skill_matrix(bank, features_of, images_per_class=2)
    assert asked == [0, 1, 2, 3]
    assert torch.equal(skill.isnan(), torch.eye(4, dtype=torch.bool))
    assert skill[0, 1:].tolist() == [1, 1, 1]
    assert torch.equal(
        skill.nan_to_num(2), skill_matrix(bank, features_of, images_per_class=2, threads=WorkerThreads(3)).nan_to_num(2)
    )
    for subject in (2, 3):
        pixels = bank.pixels(torch.arange(6 * subject, 6 * subject + 4))
        expected = by_loop(features_of(0)(pixels), bank.labels[:4])
        assert float(skill[subject, 0]) == pytest.approx(expected)


def test_in_a_large_zoo_each_judges_and_is_judged_by_as_many() -> None:
    calls = 0

    def features_of(_: int):
        def features(images: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            return images.flatten(1)

        return features

    known = ~skill_matrix(bank_of(6), features_of, partners=2, seed=5).isnan()
    assert known.sum(0).tolist() == known.sum(1).tolist() == [2] * 6
    assert calls == 12
    assert not known.diagonal().any()
    assert not torch.equal(known, ~skill_matrix(bank_of(6), features_of, partners=2, seed=6).isnan())
