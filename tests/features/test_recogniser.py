import pytest
import torch
from error_checks import raises
from learn_helpers import SPEC
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from metazoo.errors import UsageError
from metazoo.features.domain_router import DomainRecogniser, fitted_recogniser
from metazoo.features.embedders import (
    MirroredFeatures,
    MultiDomainClassifier,
    count_parameters,
    for_known_domain,
    recogniser_of,
)
from metazoo.features.heads import get_head
from metazoo.features.linear_models import normalised_inputs
from metazoo.models import ImageClassifier, build_classifier

SIZE = 6


def features(count: int, seed: int = 0, size: int = SIZE) -> Tensor:
    return torch.rand(count, size, generator=torch.Generator().manual_seed(seed)) + 0.1


def recogniser(count: int = 2) -> DomainRecogniser:
    weight = 5 * torch.randn(SIZE + 1, count, generator=torch.Generator().manual_seed(6))
    return DomainRecogniser([f"domain {index}" for index in range(count)], weight)


def domain_model(seed: int, size: int = 16) -> ImageClassifier:
    spec = SPEC.model_copy(update={"input_size": size})
    return build_classifier(spec, torch.Generator().manual_seed(seed)).eval()


def test_inner_products_are_those_of_the_networks_weighted_by_the_shares() -> None:
    made, tasks = recogniser(3), torch.stack([features(5, seed) for seed in range(4)])
    shares = made.shares(tasks)
    torch.testing.assert_close(shares.sum(1), torch.ones(4))
    for task, share, scale in zip(tasks, shares, made.scale(shares), strict=True):
        torch.testing.assert_close(made.shares(task), share)
        parts = task.unflatten(1, (3, 2))
        expected = sum(share[index] * parts[:, index] @ parts[:, index].T for index in range(3))
        torch.testing.assert_close((task * scale) @ (task * scale).T, expected)
        assert all(map(torch.equal, made.weigh(task), (made.shares(task), made.scale(made.shares(task)))))


def test_the_general_network_has_its_share_of_every_domain() -> None:
    weight, general = recogniser(3).weight, (0.5, 0.0, 0.25)
    made, task = DomainRecogniser("abc", weight, general), features(5, size=SIZE + 2)
    assert made.is_general
    assert not DomainRecogniser("abc", weight, (0, 0, 0)).is_general
    shares = made.shares(task)
    torch.testing.assert_close(shares, DomainRecogniser("abc", weight).shares(task[:, :SIZE]))
    parts, own = task.unflatten(1, (4, 2)), shares * torch.tensor([0.5, 1.0, 0.75])
    of_all = [*own, 1 - own.sum()]
    expected = sum(share * parts[:, index] @ parts[:, index].T for index, share in enumerate(of_all))
    scaled = task * made.scale(shares)
    torch.testing.assert_close(scaled @ scaled.T, expected)


def test_repeated_images_do_not_change_the_shares() -> None:
    made, task = DomainRecogniser("ab", recogniser().weight / 10), features(2)
    torch.testing.assert_close(made.shares(task.repeat(7, 1)), made.shares(task))
    logits = normalised_inputs(task) @ made.weight
    one = made.shares(task[:1])
    torch.testing.assert_close(one[0] / one[1], (3 * (logits[0, 0] - logits[0, 1])).exp())


def test_small_shares_are_set_to_zero() -> None:
    logits = torch.tensor([2.0, 1.0, 0.0])
    weight = torch.zeros(SIZE + 1, 3)
    weight[-1] = logits
    found = DomainRecogniser("abc", weight).shares(features(4))
    assert float(torch.softmax(3 * logits, 0)[2]) < 0.02
    torch.testing.assert_close(found, torch.cat([torch.softmax(3 * logits[:2], 0), torch.zeros(1)]))


@pytest.mark.parametrize("count", [2, 60, 256])
def test_equal_logits_give_equal_shares(count: int) -> None:
    made = DomainRecogniser([f"domain {number}" for number in range(count)], torch.zeros(SIZE * count + 1, count))
    torch.testing.assert_close(made.shares(torch.ones(2, SIZE * count)), torch.full((count,), 1 / count))


def test_features_of_length_zero_have_shares() -> None:
    assert float(recogniser(3).shares(torch.zeros(3, SIZE)).sum()) == pytest.approx(1)


def test_the_recogniser_is_logistic_regression_on_equally_many_images_per_domain() -> None:
    domains = [features(300, seed) + torch.eye(SIZE)[seed] * 0.3 for seed in range(3)]
    found = fitted_recogniser("abc", [domains[0], domains[1][:100], domains[2]])
    chosen = [domains[0][torch.linspace(0, 299, 100).long()], domains[1][:100],
              domains[2][torch.linspace(0, 299, 100).long()]]  # fmt: skip
    inputs, labels = normalised_inputs(torch.cat(chosen)), torch.arange(3).repeat_interleave(100)
    oracle = LogisticRegression(C=1 / 0.3, fit_intercept=False, tol=1e-8, max_iter=2000).fit(inputs, labels)
    expected = torch.from_numpy(oracle.predict_proba(inputs)).float()
    torch.testing.assert_close(torch.softmax(inputs @ found.weight, 1), expected, atol=0.01, rtol=0)
    held_back = [features(200, 10 + seed) + torch.eye(SIZE)[seed] * 0.3 for seed in range(3)]
    assert all(int(found.shares(part).argmax()) == index for index, part in enumerate(held_back))


def of_two(sure: float) -> tuple[MultiDomainClassifier, tuple[ImageClassifier, ImageClassifier]]:
    """Two per-domain networks, with a logit of `sure` for the second domain whatever the images."""
    own = domain_model(0), domain_model(1)
    weight = torch.zeros(2 * own[0].network.feature_size + 1, 2)
    weight[-1, 1] = sure
    return MultiDomainClassifier(own, DomainRecogniser("ab", weight)).eval(), own


@pytest.mark.parametrize("head", ["nearest-mean", "logistic", "ridge", "fine-tune", "soft-k-means-free"])
def test_heads_use_the_features_of_the_networks_of_the_domain(head: str) -> None:
    images, labels = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(1)), torch.arange(4).repeat(2)

    def scores(module: MultiDomainClassifier | ImageClassifier | MirroredFeatures) -> Tensor:
        adapted, fitted = get_head(head).fit(module, images, labels, 4)
        with torch.no_grad():
            return fitted.scores(adapted.features(images))

    sure, own = of_two(50.0)
    torch.testing.assert_close(scores(sure), scores(own[1]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(scores(MirroredFeatures(sure)), scores(MirroredFeatures(own[1])), rtol=1e-4, atol=1e-5)
    unsure, _ = of_two(0.0)
    assert not torch.allclose(scores(unsure), scores(own[1]), rtol=1e-4, atol=1e-4)
    _, fitted = get_head(head).fit(unsure, images, labels, 4)
    assert fitted.shares is not None
    assert fitted.shares.tolist() == [0.5, 0.5]


def test_recognisers_of_mirrored_features_are_found_and_counted() -> None:
    module, own = of_two(1.0)
    assert recogniser_of(module) is recogniser_of(MirroredFeatures(module)) is module.recogniser
    assert recogniser_of(own[0]) is None
    assert module.networks == own
    assert count_parameters(module) == 2 * count_parameters(own[0]) + module.recogniser.weight.numel()
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(module.features(images), torch.cat([one.features(images) for one in own], 1))


def test_a_known_domain_selects_its_network() -> None:
    module, own = of_two(1.0)
    assert [for_known_domain(module, name) for name in "ab"] == [*own]
    with raises(UsageError, subject="'signs'", remedy="choose one of a, b"):
        for_known_domain(module, "signs")
    networks = [*own, domain_model(2)]
    beside = MultiDomainClassifier(networks, DomainRecogniser("ab", module.recogniser.weight, (0.0, 0.3)))
    assert for_known_domain(beside, "a") is own[0]
    known = for_known_domain(beside, "b")
    assert isinstance(known, MultiDomainClassifier)
    assert known.networks == tuple(networks)
    for task in (features(5, size=12), -100 * features(2, seed=1, size=12), torch.zeros(3, 12)):
        shares = known.recogniser.shares(task)
        assert shares.tolist() == [0, 1]
        torch.testing.assert_close(
            known.recogniser.scale(shares), torch.tensor([0, 0.7, 0.3]).sqrt().repeat_interleave(known.recogniser.size)
        )
    joined = MultiDomainClassifier(own, DomainRecogniser(("a + b", "c"), module.recogniser.weight))
    assert [for_known_domain(joined, name) for name in ("a + b", "a", "b", "c")] == [own[0], own[0], own[0], own[1]]
    with raises(UsageError, subject="'+'", remedy="choose one of a + b, c"):
        for_known_domain(joined, "+")
    with raises(UsageError, subject="'a'", problem="one domain", remedy="omit --domain"):
        for_known_domain(own[0], "a")


@pytest.mark.parametrize(
    ("domains", "weight", "subject", "problem"),
    [
        (("one",), torch.zeros(SIZE + 1, 1), "domains", "['one']"),
        (("one", "one"), torch.zeros(SIZE + 1, 2), "domains", "['one', 'one']"),
        (("a", "b"), torch.zeros(SIZE + 1, 3), "weight", "[7, 3], not [2 * d + 1, 2]"),
        (("a", "b"), torch.zeros(SIZE, 2), "weight", "[6, 2], not [2 * d + 1, 2]"),
        (("a", "b"), torch.zeros(SIZE + 1), "weight", "[7]"),
    ],
)
def test_domains_and_weights_that_do_not_fit_are_refused(
    domains: tuple[str, ...], weight: Tensor, subject: str, problem: str
) -> None:
    with raises(UsageError, subject=subject, problem=problem):
        DomainRecogniser(domains, weight)


@pytest.mark.parametrize("general", [(0.5,), (0.5, 1.1), (-0.1, 0.0), (0.0, float("nan")), ()])
def test_general_shares_that_do_not_fit_are_refused(general: tuple[float, ...]) -> None:
    with raises(UsageError, subject="general", problem=f"{list(general)}, not 2 shares in [0, 1]"):
        DomainRecogniser("ab", torch.zeros(SIZE + 1, 2), general)


def test_networks_that_do_not_fit_the_recogniser_are_refused() -> None:
    size = domain_model(0).network.feature_size
    for seeds, count, width in (([0, 1], 3, size), ([0, 1, 2], 2, size), ([0, 1], 2, size + 1)):
        made = DomainRecogniser("abc"[:count], torch.zeros(count * width + 1, count))
        with raises(UsageError, subject="networks", problem=f"{count} domains with weight {list(made.weight.shape)}"):
            MultiDomainClassifier([*map(domain_model, seeds)], made)
    with raises(UsageError, subject="networks"):
        MultiDomainClassifier([domain_model(0)] * 2, DomainRecogniser("ab", torch.zeros(2 * size + 1, 2), (0.5, 0.5)))
    unlike = [domain_model(0), domain_model(1, size=32)]
    with raises(UsageError, subject="networks"):
        MultiDomainClassifier(unlike, DomainRecogniser("ab", torch.zeros(2 * size + 1, 2)))
