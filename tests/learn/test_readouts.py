from collections.abc import Iterable, Sequence

import pytest
import torch
from learn_helpers import SPEC
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn import functional

from metazoo.errors import UsageError
from metazoo.learn.embedders import MirroredFeatures, MultiDomainClassifier, count_parameters, readouts_of
from metazoo.learn.heads import NearestMean, get_head
from metazoo.learn.linear_inputs import normalised_inputs
from metazoo.learn.readout_fitting import domain_kernel, domain_recogniser
from metazoo.learn.readouts import DomainReadouts, read
from metazoo.models import build_classifier

SIZE = 6


def features(count: int, seed: int = 0, size: int = SIZE) -> Tensor:
    return torch.rand(count, size, generator=torch.Generator().manual_seed(seed)) + 0.1


def kernels(count: int) -> Tensor:
    roots = torch.randn(count, SIZE + 1, SIZE + 1, generator=torch.Generator().manual_seed(5))
    products = roots @ roots.mT
    return (products + products.mT) / 2


def readouts(count: int = 2) -> DomainReadouts:
    recogniser = 5 * torch.randn(SIZE + 1, count, generator=torch.Generator().manual_seed(6))
    return DomainReadouts([f"domain {index}" for index in range(count)], kernels(count), recogniser)


def kernel_of(own: Tensor, seen: Iterable[Tensor], weights: Sequence[float], labels: Tensor | None = None) -> Tensor:
    labels = torch.arange(len(own)) if labels is None else labels
    return domain_kernel(own, labels, seen, weights, torch.Generator().manual_seed(7))


def test_features_that_follow_from_the_meta_models_are_seen_as_they_are() -> None:
    own = features(60, size=4)
    turn = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(2))).Q
    true = functional.normalize(own, dim=1) @ turn
    inputs = normalised_inputs(own)
    for teachers in ([true], [true] * 5):
        kernel = kernel_of(own, teachers, [1.0] * len(teachers))
        assert torch.equal(kernel, kernel.T)
        torch.testing.assert_close(inputs @ kernel @ inputs.T, true @ true.T, atol=0.02, rtol=0)


def test_the_more_teachers_the_less_the_features_count_as_they_are() -> None:
    own, seen = features(40), functional.normalize(features(40, seed=1)[:, :2], dim=1)
    inputs = normalised_inputs(own)
    plain = functional.normalize(own, dim=1) @ functional.normalize(own, dim=1).T
    of = {count: inputs @ kernel_of(own, [seen] * count, [1.0] * count) @ inputs.T for count in (1, 2, 3, 4)}
    all_theirs = of[4] * (17 / 16) - plain / 16
    torch.testing.assert_close(of[1], (all_theirs + plain) / 2, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(of[2], (all_theirs + plain / 4) / (5 / 4), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(of[3], (all_theirs + plain / 9) / (10 / 9), rtol=1e-4, atol=1e-4)
    assert float(all_theirs.diagonal().mean()) == pytest.approx(1, rel=1e-4)
    assert not torch.allclose(all_theirs, plain, atol=0.1)
    # One of four that counts for nothing leaves three.
    weighed = inputs @ kernel_of(own, [seen, own.flip(1), seen, seen], [1.0, 1e-9, 1.0, 1.0]) @ inputs.T
    torch.testing.assert_close(weighed, of[3], rtol=1e-3, atol=1e-3)


def test_a_kernel_is_as_sharp_as_its_classes_ask_for() -> None:
    """Teachers see the first direction most; only where the classes differ by it alone, nothing else counts beside."""
    random = torch.Generator().manual_seed(3)
    labels = torch.arange(6).repeat_interleave(20)
    own = 0.3 * torch.randn(120, SIZE, generator=random)
    own[:, 0] += torch.linspace(-2, 2, 6)[labels]
    own[:, 1] += 3
    seen = functional.normalize(own * torch.tensor([1.0, 1.0, 0.7, 0.7, 0.7, 0.7]), dim=1)
    inputs = normalised_inputs(own.double())
    of_classes, of_images = (
        kernel_of(own, [seen] * 30, [1.0] * 30, some).double() for some in (labels, torch.arange(120))
    )
    sharp, plain = (torch.linalg.eigvalsh(inputs @ kernel @ inputs.T).flip(0) for kernel in (of_classes, of_images))
    assert float(sharp[2] / sharp[1]) < 0.8 * float(plain[2] / plain[1])


def test_inner_products_as_read_are_the_mixed_kernels() -> None:
    made, tasks = readouts(3), torch.stack([features(5, seed) for seed in range(4)])
    shares = made.shares(tasks)
    torch.testing.assert_close(shares.sum(1), torch.ones(4))
    by_all = made.read_by_all(tasks.flatten(0, 1)).unflatten(0, (4, 5)) * made.scale(shares).unsqueeze(1)
    for task, share, beside in zip(tasks, shares, by_all, strict=True):
        inputs, lengths = normalised_inputs(task), task.norm(dim=1)
        mixed = torch.einsum("k,kij->ij", share, made.kernels)
        expected = inputs @ mixed @ inputs.T * lengths[:, None] * lengths
        reading, share_alone = made.reading(task)
        torch.testing.assert_close(share_alone, share)
        seen = read(task, reading)
        assert seen.shape == (5, SIZE + 1)
        torch.testing.assert_close(seen @ seen.T, expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(beside @ beside.T, expected, rtol=1e-4, atol=1e-4)


def test_the_same_images_more_often_are_no_more_evidence() -> None:
    made, task = readouts(), features(2)
    torch.testing.assert_close(made.shares(task.repeat(7, 1)), made.shares(task))
    logits = normalised_inputs(task) @ made.recogniser
    one = made.shares(task[:1])
    torch.testing.assert_close(one[0] / one[1], (3 * (logits[0, 0] - logits[0, 1])).exp())


def test_who_is_told_the_domain_does_not_look_at_the_images() -> None:
    made = readouts(3)
    for index, domain in enumerate(made.domains):
        told = made.told(domain)
        for task in (features(5), -100 * features(2, seed=1), torch.zeros(3, SIZE)):
            assert torch.equal(told.shares(task), torch.eye(3)[index])
        seen, inputs = read(features(5), told.reading(features(5))[0]), normalised_inputs(features(5))
        lengths = features(5).norm(dim=1)
        expected = inputs @ made.kernels[index] @ inputs.T * lengths[:, None] * lengths
        torch.testing.assert_close(seen @ seen.T, expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(UsageError, match="no domain 'signs'; choose one of domain 0, domain 1, domain 2"):
        made.told("signs")


def test_features_of_length_zero_are_read() -> None:
    reading, _ = readouts().reading(torch.zeros(3, SIZE))
    assert torch.equal(read(torch.zeros(3, SIZE), reading), torch.zeros(3, SIZE + 1))


def test_the_recogniser_is_logistic_regression_on_as_many_images_of_each_domain() -> None:
    domains = [features(300, seed) + torch.eye(SIZE)[seed] * 0.3 for seed in range(3)]
    found = domain_recogniser([domains[0], domains[1][:100], domains[2]])
    chosen = [domains[0][torch.linspace(0, 299, 100).long()], domains[1][:100],
              domains[2][torch.linspace(0, 299, 100).long()]]  # fmt: skip
    inputs, labels = normalised_inputs(torch.cat(chosen)), torch.arange(3).repeat_interleave(100)
    oracle = LogisticRegression(C=1 / 0.3, fit_intercept=False, tol=1e-8, max_iter=2000).fit(inputs, labels)
    expected = oracle.predict_proba(inputs)
    torch.testing.assert_close(torch.softmax(inputs @ found, 1), torch.from_numpy(expected).float(), atol=0.01, rtol=0)
    held_back = [features(200, 10 + seed) + torch.eye(SIZE)[seed] * 0.3 for seed in range(3)]
    made = DomainReadouts("abc", kernels(3), found)
    assert all(int(made.shares(part).argmax()) == index for index, part in enumerate(held_back))


def two_domains(seed: int, noise: float = 1.0) -> tuple[list[Tensor], list[Tensor]]:
    """Features [300, 9] of each domain, and what its teachers see.

    The last dimension says which domain it is; of the others the first four tell the classes of the first domain apart,
    the next four those of the second, and what is of no use to a domain varies for no reason.
    """
    random = torch.Generator().manual_seed(seed)
    shown, seen = [], []
    for domain in range(2):
        useful, useless = (scale * torch.randn(300, 4, generator=random) for scale in (1.0, 2.0 * noise))
        parts = (useful, useless) if domain == 0 else (useless, useful)
        shown.append(torch.cat([*parts, torch.full((300, 1), 3.0 - 6.0 * domain)], 1))
        seen.append(functional.normalize(useful, dim=1))
    return shown, seen


def test_a_task_is_read_in_the_way_of_its_domain() -> None:
    shown, seen = two_domains(0)
    made = DomainReadouts(
        ("one", "two"),
        torch.stack([kernel_of(own, [target] * 8, [1.0] * 8) for own, target in zip(shown, seen, strict=True)]),
        domain_recogniser(shown),
    )
    for domain, (own, target) in enumerate(zip(*two_domains(1), strict=True)):
        labels = target.argmax(1)  # a class is told by what the teachers see alone
        support = torch.cat([(labels == label).nonzero()[:2, 0] for label in range(4)])
        head, names = NearestMean(), torch.arange(4).repeat_interleave(2)
        reading, shares = made.reading(own[support])
        assert float(shares[domain]) > 0.95
        right, right_by_domain = (
            float((head.fit_features(shown[support], names, 4).scores(shown).argmax(1) == labels).float().mean())
            for shown in (own, read(own, reading))
        )
        assert right_by_domain > right + 0.1


def test_heads_find_readouts_also_behind_a_mirror_and_parameters_count_them() -> None:
    classifier = build_classifier(SPEC, torch.Generator().manual_seed(0)).eval()
    made = DomainReadouts("ab", torch.eye(5).repeat(2, 1, 1), torch.zeros(5, 2))
    module = MultiDomainClassifier(classifier, made)
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    assert readouts_of(module) is readouts_of(MirroredFeatures(module)) is made
    assert readouts_of(classifier) is None
    assert count_parameters(module) == count_parameters(classifier) + 2 * 15 + 10
    with torch.no_grad():
        assert torch.equal(module.features(images), classifier.features(images))
    _, fitted = get_head("logistic").fit(module, images, torch.arange(4), 4)
    assert fitted.weight.shape == (4, 5)


@pytest.mark.parametrize(
    ("domains", "found", "recogniser", "message"),
    [
        (("one",), kernels(1), torch.zeros(SIZE + 1, 1), "at least two domains, each with a name of its own"),
        (("one", "one"), kernels(2), torch.zeros(SIZE + 1, 2), "at least two domains, each with a name of its own"),
        (("a", "b"), kernels(3), torch.zeros(SIZE + 1, 2), r"not \[3, 7, 7\] and \[7, 2\]"),
        (("a", "b"), kernels(2), torch.zeros(SIZE, 2), r"not \[2, 7, 7\] and \[6, 2\]"),
        (("a", "b"), kernels(2).triu(), torch.zeros(SIZE + 1, 2), "symmetric and positive semi-definite"),
        (("a", "b"), -kernels(2), torch.zeros(SIZE + 1, 2), "symmetric and positive semi-definite"),
    ],
)
def test_readouts_that_are_none_are_refused(
    domains: tuple[str, ...], found: Tensor, recogniser: Tensor, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        DomainReadouts(domains, found, recogniser)
