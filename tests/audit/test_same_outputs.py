import torch

from metazoo.audit import duplicate_groups, trust_of


def outputs(seed: int, classes: int = 4) -> torch.Tensor:
    return torch.randn(16, classes, generator=torch.Generator().manual_seed(seed))


def test_copies_answer_alike_up_to_rounding_the_order_of_classes_and_a_constant() -> None:
    first = outputs(0)
    saved_again = first.bfloat16().float()
    found = [first, outputs(1), saved_again, outputs(2, 5), first[:, [3, 1, 0, 2]] + 7, outputs(3)]
    assert duplicate_groups(found) == [[0, 2, 4]]
    assert duplicate_groups(found, [[1, 5], [5, 4]]) == [[0, 1, 2, 4, 5]]
    assert duplicate_groups([torch.zeros(16, 4), torch.zeros(16, 4)]) == []


def test_six_copies_of_a_bad_model_do_not_outvote_four_honest_ones() -> None:
    random = torch.Generator().manual_seed(0)
    skill = 0.25 + 0.05 * torch.randn(10, 10, generator=random, dtype=torch.float64)
    skill[:4, :4] += 0.35
    skill[4:, 4:] = 0.95  # copies recognise each other
    skill.fill_diagonal_(torch.nan)
    assert trust_of(skill).score[4:].min() > trust_of(skill).score[:4].max()
    score = trust_of(skill, duplicates=[range(4, 10)]).score
    assert score[:4].min() > 0.8 > 0.5 > score[4:].max()
