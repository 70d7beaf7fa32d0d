from pathlib import Path

import pytest
import torch

from metazoo.bank import Bank
from metazoo.recover.health import health_rows, health_warning


def add(bank: Bank, teacher: str, generation: int, bucket: int, count: int, figures: tuple[float, ...]) -> None:
    names = ["agreement", "batch_norm_distance", "batch_norm_distance_at_start"]
    images = torch.zeros(count, 1, 4, 4, dtype=torch.uint8)
    health = dict(zip(names, figures, strict=False))
    bank.add(teacher, generation, bucket, images, torch.zeros(count, dtype=torch.int64), health=health)


@pytest.fixture
def bank(tmp_path: Path) -> Bank:
    bank = Bank.create(tmp_path)
    add(bank, "good", 0, 0, 10, (1.0, 2.0, 8.0))
    add(bank, "good", 0, 1, 30, (0.8, 4.0, 16.0))
    add(bank, "plain", 0, 0, 4, (0.75,))
    add(bank, "bad", 0, 0, 4, (0.9, 1.0, 9.0))
    add(bank, "bad", 1, 0, 5, (0.2, 9.0, 9.0))
    return bank


def test_rows_are_means_over_the_images_of_the_latest_generation(bank: Bank) -> None:
    bad, good, plain = health_rows(bank)
    assert (good.teacher, good.images) == ("good", 40)
    assert good.agreement == pytest.approx(0.85)
    assert good.batch_norm_distance == pytest.approx(3.5)
    assert good.batch_norm_distance_at_start == pytest.approx(14.0)
    assert (plain.batch_norm_distance, plain.batch_norm_distance_at_start) == (None, None)
    assert (bad.agreement, bad.doubtful, good.doubtful) == (0.2, True, False)
    assert next(iter(health_rows(bank, 0))).agreement == 0.9
    assert [row.teacher for row in health_rows(bank, 1)] == ["bad"]


def test_an_older_bank_without_batch_norm_is_read(tmp_path: Path) -> None:
    bank = Bank.create(tmp_path)
    images, labels = torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64)
    health = {"agreement": 0.5, "batch_norm_distance": 0.0, "batch_norm_distance_at_start": 0.0}
    bank.add("plain", 0, 0, images, labels, health=health)
    bank.add("real", 0, 0, images, labels)
    plain, real = health_rows(bank)
    assert (plain.agreement, plain.batch_norm_distance) == (0.5, None)
    assert (real.agreement, real.batch_norm_distance_at_start) == (0.0, None)


def test_doubtful_teachers_are_named_the_worst_first(bank: Bank) -> None:
    assert health_warning(health_rows(bank, 0)) is None
    assert health_warning([]) is None
    warning = health_warning(health_rows(bank))
    assert warning is not None
    assert all(text in warning for text in ("1 of 3 teachers", " 50 %", ": bad (20 %);", "recovery.iterations"))
    for number in range(7):
        add(bank, f"worse-{number}", 0, 0, 1, (0.01 * number, 1.0, 1.0))
    warning = health_warning(health_rows(bank))
    assert warning is not None
    assert "8 of 10 teachers" in warning
    assert "worse-0 (0 %), worse-1 (1 %)" in warning
    assert "and 3 more;" in warning


def test_rejected_guides_are_named_with_their_teachers(bank: Bank) -> None:
    images, labels = torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64)
    for name, rejected in (("led", {"guide_let_go": 1.0}), ("well-led", {})):
        health = {"agreement": 0.5, **rejected}
        bank.add(name, 0, 0, images, labels, health=health, made_with={"guide": f"guide-of-{name}"})
    rows = health_rows(bank, 0)
    assert {row.teacher: row.without_guide for row in rows if row.without_guide} == {"led": "guide-of-led"}
    alone = health_warning(rows)
    assert alone is not None
    assert "1 of 5 teachers" in alone
    assert ": led (guide guide-of-led);" in alone
    add(bank, "bad", 2, 0, 1, (0.1,))
    warning = health_warning(health_rows(bank))
    assert warning is not None
    assert warning.startswith("1 of 5 teachers")
    assert warning.endswith(f". {alone}")
