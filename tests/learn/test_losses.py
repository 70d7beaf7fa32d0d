import math

import pytest
import torch
from torch import Tensor

from metazoo.learn.losses import (
    adversarial_divergence,
    distillation_loss,
    joint_feature_loss,
    published_distillation_loss,
    relational_loss,
    zoo_cosines,
)

COUNTS = (3, 2)


def values(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def divergence(logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """The definition, one teacher and one image after the other."""
    total = logits.new_zeros(())
    for own, target in zip(logits, teacher_logits, strict=True):
        for own_part, target_part in zip(own.split(COUNTS), target.split(COUNTS), strict=True):
            p, q = (part.div(temperature).exp() for part in (target_part, own_part))
            p, q = p / p.sum(), q / q.sum()
            total = total + (p * (p / q).log()).sum()
    return total / (len(logits) * len(COUNTS)) * temperature**2


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_distillation_and_its_gradient_are_those_of_the_definition(temperature: float) -> None:
    logits, teacher_logits = values(6, 5).requires_grad_(True), values(6, 5, seed=1)
    loss = distillation_loss(logits, teacher_logits, COUNTS, temperature)
    expected = divergence(logits, teacher_logits, temperature)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(*(torch.autograd.grad(value, logits)[0] for value in (loss, expected)))


def test_distillation_is_zero_and_at_rest_where_the_probabilities_agree() -> None:
    teacher_logits = values(6, 5)
    shifted = teacher_logits + torch.tensor([4.0] * 3 + [-7.0] * 2)  # the same probabilities
    logits = shifted.requires_grad_(True)
    loss = distillation_loss(logits, teacher_logits, COUNTS, 2.0)
    assert loss.item() == pytest.approx(0, abs=1e-12)
    torch.testing.assert_close(torch.autograd.grad(loss, logits)[0], torch.zeros(6, 5, dtype=torch.float64))


def test_temperature_softens_both_sides_and_keeps_the_size_of_the_gradient() -> None:
    logits, teacher_logits = values(6, 5), values(6, 5, seed=1)
    softened = distillation_loss(logits / 3, teacher_logits / 3, COUNTS)
    torch.testing.assert_close(distillation_loss(logits, teacher_logits, COUNTS, 3.0), 9 * softened)
    # In the limit it is half the variance of the difference over the classes.
    differences = (logits - teacher_logits).split(COUNTS, 1)
    limit = torch.stack([part.var(1, correction=0).mean() / 2 for part in differences]).mean()
    torch.testing.assert_close(distillation_loss(logits, teacher_logits, COUNTS, 1e4), limit, rtol=1e-3, atol=0)


def test_no_gradient_reaches_the_teachers() -> None:
    teacher_logits = values(4, 5).requires_grad_(True)
    loss = distillation_loss(values(4, 5, seed=1).requires_grad_(True), teacher_logits, COUNTS)
    assert torch.autograd.grad(loss, teacher_logits, allow_unused=True) == (None,)


def test_probabilities_of_zero_are_no_trouble() -> None:
    logits = torch.tensor([[200.0, -200.0]]).requires_grad_(True)
    loss = distillation_loss(logits, -logits.detach(), (2,))
    assert loss.item() == pytest.approx(400)
    assert bool(torch.autograd.grad(loss, logits)[0].isfinite().all())


def test_joint_features_by_hand() -> None:
    predicted = torch.tensor([[1.0, 0.0, 5.0], [1.0, 1.0, -2.0]])
    targets = torch.tensor([[1.0, 1.0, 2.0], [0.0, 3.0, 1.0]])
    # Cosines of the first teacher (two features): both 1 / sqrt 2; of the second (one feature): 1 and -1.
    expected = 1 - (math.sqrt(0.5) + 0) / 2
    assert float(joint_feature_loss(predicted, targets, (2, 1))) == pytest.approx(expected)


def test_joint_features_do_not_depend_on_lengths_and_vanish_where_directions_agree() -> None:
    sizes, targets = (4, 2), values(5, 6)
    scale = torch.cat([values(5, 1, seed=1).exp().expand(5, 4), values(5, 1, seed=2).exp().expand(5, 2)], 1)
    assert float(joint_feature_loss(scale * targets, targets, sizes)) == pytest.approx(0, abs=1e-12)
    assert float(joint_feature_loss(-scale * targets, targets, sizes)) == pytest.approx(2)
    predicted = values(5, 6, seed=3)
    torch.testing.assert_close(
        joint_feature_loss(scale * predicted, targets, sizes), joint_feature_loss(predicted, scale * targets, sizes)
    )


def test_every_teacher_counts_alike_whatever_its_size() -> None:
    targets = torch.ones(1, 11)
    wrong_small, wrong_large = torch.ones(1, 11), torch.ones(1, 11)
    wrong_small[:, 10:] = -1
    wrong_large[:, :10] = -1
    assert [float(joint_feature_loss(wrong, targets, (10, 1))) for wrong in (wrong_small, wrong_large)] == (
        pytest.approx([1.0, 1.0])
    )


def test_relations_by_hand() -> None:
    features = torch.tensor([[2.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    targets = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    # Own cosines of the three pairs: 0, h, h with h = sqrt 0.5; of the one teacher: 0, 1, 0.
    half = math.sqrt(0.5)
    expected = ((1 - half) ** 2 + half**2) / 3
    assert float(relational_loss(features, targets @ targets.T)) == pytest.approx(expected)


def test_relations_ask_for_the_mean_cosine_of_the_teachers() -> None:
    first, second = (torch.nn.functional.normalize(values(6, size, seed=size), dim=1) for size in (3, 4))
    joint = torch.cat([first, second], 1)
    turn = torch.linalg.qr(values(7, 7)).Q
    lengths = values(6, 1, seed=1).exp()
    assert float(relational_loss(lengths * joint @ turn, zoo_cosines(joint, (3, 4)))) == pytest.approx(0, abs=1e-12)
    mean = (first @ first.T + second @ second.T) / 2
    own = torch.nn.functional.normalize(values(6, 3, seed=5), dim=1)
    rows, columns = torch.triu_indices(6, 6, 1)
    expected = (own @ own.T - mean)[rows, columns].square().mean()
    torch.testing.assert_close(relational_loss(own, zoo_cosines(joint, (3, 4))), expected)


def test_the_published_distillation_by_hand() -> None:
    logits, teacher_logits = values(4, 3), values(4, 3, seed=1)
    total = 0.0
    for own, target in zip(logits.tolist(), teacher_logits.tolist(), strict=True):
        q, p = ([math.exp(value) / sum(map(math.exp, row)) for value in row] for row in (own, target))
        total += sum(there * (math.log(there) - here) for here, there in zip(q, p, strict=True))
    assert float(published_distillation_loss(logits, teacher_logits)) == pytest.approx(total / 12, rel=1e-12)


def test_weights_count_as_copies_of_a_teacher() -> None:
    """A teacher of weight 2 beside one of weight 1 is as good as two and one; one of weight 0 is as good as none."""
    unit = torch.nn.functional.normalize
    one, two = (unit(values(6, size, seed=size), dim=1) for size in (3, 4))
    other_one, other_two = values(6, 3, seed=8), values(6, 4, seed=9)
    pair, copies = torch.cat([one, two], 1), torch.cat([one, one, two], 1)
    other_pair, other_copies = torch.cat([other_one, other_two], 1), torch.cat([other_one, other_one, other_two], 1)
    double, alone = torch.tensor([2.0, 1.0]).to(one), torch.tensor([1.0, 0.0]).to(one)
    for loss in (joint_feature_loss, distillation_loss):
        weighed = loss(other_pair, pair, (3, 4), weights=double)
        torch.testing.assert_close(weighed, loss(other_copies, copies, (3, 3, 4)))
        torch.testing.assert_close(loss(other_pair, pair, (3, 4), weights=alone), loss(other_one, one, (3,)))
    torch.testing.assert_close(zoo_cosines(pair, (3, 4), double), zoo_cosines(copies, (3, 3, 4)))
    torch.testing.assert_close(zoo_cosines(pair, (3, 4), alone), zoo_cosines(one, (3,)))


def test_the_adversarial_divergence_and_its_gradient_are_those_of_the_definition() -> None:
    logits, teacher_logits = values(7, 4), values(7, 4, seed=1)
    agree = logits.argmax(1) == teacher_logits.argmax(1)
    assert 0 < int(agree.sum()) < 7

    def definition(taught: Tensor) -> float:
        total = 0.0
        for own, target in zip(logits.tolist(), taught.tolist(), strict=True):
            p, q = ([math.exp(value) / sum(map(math.exp, row)) for value in row] for row in (own, target))
            if p.index(max(p)) == q.index(max(q)):
                total -= sum(here * math.log(here / there) for here, there in zip(p, q, strict=True))
        return total / 7

    taught = teacher_logits.clone().requires_grad_(True)
    loss = adversarial_divergence(logits.clone().requires_grad_(True), taught)
    assert loss.item() == pytest.approx(definition(teacher_logits), rel=1e-12)
    (gradient,) = torch.autograd.grad(loss, taught)
    shift = 1e-6
    for row in range(7):
        for column in range(4):
            there, back = teacher_logits.clone(), teacher_logits.clone()
            there[row, column] += shift
            back[row, column] -= shift
            slope = (definition(there) - definition(back)) / (2 * shift)
            assert gradient[row, column].item() == pytest.approx(slope, rel=1e-5, abs=1e-8)
    assert torch.equal(gradient[~agree], torch.zeros_like(gradient[~agree]))
    assert bool((gradient[agree] != 0).any(1).all())


def test_no_gradient_of_the_adversarial_divergence_reaches_the_student() -> None:
    logits = values(3, 4).requires_grad_(True)
    loss = adversarial_divergence(logits, logits.detach().mul(2).requires_grad_(True))
    assert torch.autograd.grad(loss, logits, allow_unused=True) == (None,)
