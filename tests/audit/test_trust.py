import math
from collections import Counter

import pytest
import torch
from error_checks import raises
from torch import Tensor
from torch.nn import functional

from metazoo.audit import nearest_mean_skill, partners_of, skill_on, trust_of
from metazoo.bank import ResidentBank
from metazoo.errors import DataError


def by_loop(features: Tensor, labels: Tensor) -> float:
    """Leave each image out, average the rest of each class, and take the nearest by cosine."""
    right = 0
    directions = functional.normalize(features.double(), dim=1)
    classes = labels.unique().tolist()
    for index, label in enumerate(labels.tolist()):
        others = torch.arange(len(labels)) != index
        means = torch.stack([directions[others & (labels == name)].mean(0) for name in classes])
        right += classes[int(functional.cosine_similarity(means, directions[index : index + 1]).argmax())] == label
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
    for name, values, figures in (
        ("recognised_by_others", skill, trust.recognised_by_others),
        ("recognises_others", skill.T, trust.recognises_others),
    ):
        for model in range(12):
            others = [other for other in range(12) if other != model]
            weights = trust.score[others] ** 4
            expected = float(values[model, others] @ weights / weights.sum())
            assert float(figures[model]) == pytest.approx(expected), name
    product = (trust.recognised_by_others * trust.recognises_others).sqrt()
    torch.testing.assert_close(trust.score, product / product.max())


def of_domains(sizes: dict[str, int], bad: int = 0, seed: int = 0) -> tuple[Tensor, list[str]]:
    """Models that see images of their own domain well; the first `bad` ones of each domain see and show little."""
    random = torch.Generator().manual_seed(seed)
    domains = [name for name, count in sizes.items() for _ in range(count)]
    honest = torch.tensor([index >= bad for count in sizes.values() for index in range(count)])
    same = torch.tensor([[one == other for other in domains] for one in domains])
    easy = torch.tensor([1.3 if name == "easy" else 1.0 for name in domains])
    skill = torch.where(same, 0.6, 0.25) * easy[:, None]
    skill = torch.where(honest[:, None] & honest, skill, 0.1)
    noise = 0.03 * torch.randn(skill.shape, generator=random)
    return (skill + noise).clamp(0, 1).double().fill_diagonal_(torch.nan), domains


@pytest.mark.parametrize(
    "sizes", [{"easy": 6, "hard": 6}, {"easy": 12, "hard": 3}, {"easy": 3, "hard": 12, "third": 2}]
)
def test_nobody_is_doubted_for_the_domain(sizes: dict[str, int]) -> None:
    for seed in range(5):
        skill, domains = of_domains(sizes, seed=seed)
        assert float(trust_of(skill, domains).score.min()) > 0.7
        if max(sizes.values()) > 6:
            assert float(trust_of(skill).score.min()) < 0.6


@pytest.mark.parametrize("bad", [1, 2, 4])
def test_the_bad_ones_of_every_domain_are_doubted(bad: int) -> None:
    for seed in range(5):
        skill, domains = of_domains({"easy": 6, "hard": 6}, bad, seed)
        honest = torch.tensor([index % 6 >= bad for index in range(12)])
        score = trust_of(skill, domains).score
        assert float(score[honest].min()) > 0.7
        assert float(score[~honest].max()) < 0.5


def test_a_domain_of_bad_models_alone_is_not_excused() -> None:
    for seed in range(5):
        skill = of_domains({"easy": 10, "hard": 10}, 4, seed)[0]
        keep = [*range(4, 10), *range(10, 20)]
        named = ["easy"] * 6 + ["bad"] * 4 + ["hard"] * 6
        score = trust_of(skill[keep][:, keep], named).score
        assert float(score[6:10].max()) < 0.5
        assert float(torch.cat([score[:6], score[10:]]).min()) > 0.7


def test_a_single_model_of_its_domain_is_judged_by_the_others() -> None:
    skill, domains = of_domains({"easy": 6, "alone": 1})
    for bad in range(2):
        skill[-1, :-1] *= 1 - 0.7 * bad
        trust = trust_of(skill, domains)
        weights = trust.score[:-1] ** 4
        torch.testing.assert_close(trust.recognised_by_others[-1], (skill[-1, :-1] @ weights) / weights.sum())
        assert bool(trust.score[-1] < 0.5) == bool(bad)
        assert float(trust.score[:-1].min()) > 0.9
    # Where every model is of a domain of its own, domains say nothing.
    torch.testing.assert_close(trust_of(skill, [*"abcdefg"]).score, trust_of(skill).score)


def test_trust_by_domains_is_a_fixed_point_of_its_equations() -> None:
    skill, domains = of_domains({"easy": 5, "hard": 4, "third": 1}, 1)
    skill[2, 3] = skill[7, 0] = torch.nan
    trust, count = trust_of(skill, domains), len(domains)
    pairs = [(of, by) for of in range(count) for by in range(count) if not skill[of, by].isnan()]
    weight = (trust.score**4).tolist()

    def mean(chosen: list[tuple[int, int]]) -> float:
        total = sum(weight[of] * weight[by] for of, by in chosen)
        return sum(weight[of] * weight[by] * float(skill[of, by]) for of, by in chosen) / total

    def usual(of: int, by: int) -> float:
        within = mean([pair for pair in pairs if domains[pair[0]] == domains[pair[1]]])
        alike = [pair for pair in pairs if (domains[pair[0]], domains[pair[1]]) == (domains[of], domains[by])]
        if domains[of] == domains[by]:
            return max(mean(alike), 0.75 * within)
        if "third" in (domains[of], domains[by]):
            alike = [pair for pair in pairs if domains[pair[0]] != domains[pair[1]]]
        return max(mean(alike), within / 2)

    def judged(model: int, side: int) -> float:
        active = [pair for pair in pairs if pair[side] == model]
        own = [weight[pair[1 - side]] * (1 if domains[pair[0]] == domains[pair[1]] else 0.05) for pair in active]
        return sum(w * float(skill[pair]) / usual(*pair) for w, pair in zip(own, active, strict=True)) / sum(own)

    expected = torch.tensor([math.sqrt(judged(model, 0) * judged(model, 1)) for model in range(count)]).double()
    torch.testing.assert_close(trust.score, expected / expected.max(), rtol=1e-5, atol=1e-6)


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
    assert math.isnan(float(trust.recognised_by_others[0]))
    assert float(trust.score[0]) > 0.8
    unknown = planted(6, 0)
    unknown[0] = unknown[:, 0] = nan
    torch.testing.assert_close(trust_of(unknown).score[1:], trust_of(unknown[1:, 1:]).score)
    assert float(trust_of(unknown).score[0]) == 1


@pytest.mark.parametrize("skill", [torch.zeros(2, 3), torch.full((2, 2), 1.5), torch.tensor([[0.0, -0.1], [0, 0]])])
def test_other_matrices_are_refused(skill: Tensor) -> None:
    with raises(DataError, subject="skill", problem=str(list(skill.shape))):
        trust_of(skill)


def bank_of(count: int) -> ResidentBank:
    """Models of 2 classes and 6 images; in the first two the grey value tells the class, in the others nothing does."""
    random = torch.Generator().manual_seed(3)
    labels = torch.tensor([0, 1]).repeat(3 * count)
    images = torch.randint(0, 40, (6 * count, 3, 4, 4), generator=random)
    images[:12] += 150 * labels[:12, None, None, None]
    starts = tuple(range(0, 6 * count + 1, 6))
    return ResidentBank(tuple("abcdef"[:count]), images.to(torch.uint8), labels, starts)


def test_the_skill_on_images_is_that_of_the_first_ones_of_each_class() -> None:
    bank = bank_of(1)

    def features(images: Tensor) -> Tensor:
        return torch.cat([images.mean((1, 2, 3))[:, None] - 0.3, torch.ones(len(images), 1)], 1)

    assert skill_on(features, bank, 2) == 1
    images = bank.images[:] - 150 * bank.labels[:, None, None, None]
    plain = ResidentBank(("a",), images.to(torch.uint8), bank.labels, bank.starts)
    assert skill_on(features, plain, 2) == pytest.approx(
        by_loop(features(plain.pixels(torch.arange(4))), plain.labels[:4])
    )


def test_each_model_judges_all_others_or_as_many_as_asked_for() -> None:
    assert [sorted(subjects) for subjects in partners_of(4, 24, 0)] == [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]]
    few = partners_of(6, 2, 5)
    assert [len(set(subjects) - {judge}) for judge, subjects in enumerate(few)] == [2] * 6
    assert Counter(subject for subjects in few for subject in subjects) == dict.fromkeys(range(6), 2)
    assert partners_of(6, 2, 6) != few
    assert partners_of(1, 2, 0) == [[]]
