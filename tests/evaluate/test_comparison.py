import io
from pathlib import Path
from typing import Any

import pytest
import torch
from error_checks import raises
from evaluate_helpers import noise_images
from rich.console import Console
from test_results import result
from torch import Tensor

from metazoo.data import EpisodeList
from metazoo.errors import ArtefactError, UsageError
from metazoo.evaluate import compare, comparison_table, mean_interval, paired_difference, write_results

LUCK = torch.tensor([10.0, 40.0, 20.0, 70.0], dtype=torch.float64)
ABOVE = torch.tensor([1.0, 2.0, 3.0, 2.0], dtype=torch.float64)


def write(
    path: Path, values: dict[str, Tensor], *, shots: tuple[int, ...] = (1,), seed: int = 0, **more: object
) -> Path:
    """Write a result file of subjects with these accuracies, for every number of shots."""
    lists = [EpisodeList.draw(noise_images(), 3, count, 5, 4, seed) for count in shots]
    results = [
        result(
            subject=name,
            shots=drawn.shots,
            episode_list_sha256=drawn.sha256,
            accuracy=float(accuracies.mean()),
            **more,
        )
        for name, accuracies in values.items()
        for drawn in lists
    ]
    write_results(path, results, lists, [values for _ in lists])
    return path


def test_differences_are_paired_on_the_episodes(tmp_path: Path) -> None:
    one, two = write(tmp_path / "one.json", {"a": LUCK}), write(tmp_path / "two.json", {"a": LUCK + ABOVE})
    base, other = compare({"one": [one], "two": [two]})
    assert (base.name, base.task, base.difference) == ("one", (3, 1), None)
    assert other.accuracy == mean_interval(LUCK + ABOVE)
    assert other.difference is not None
    assert other.difference == paired_difference(LUCK + ABOVE, LUCK)
    assert (other.difference.mean, other.difference.excludes_zero) == (2.0, True)
    assert other.accuracy.half_width > 10 * other.difference.half_width
    (back,) = (row.difference for row in compare({"one": [one], "two": [two]}, against="two") if row.difference)
    assert back.mean == -2.0


def test_files_of_several_training_seeds_are_averaged_by_episode(tmp_path: Path) -> None:
    seeds = [write(tmp_path / f"{index}.json", {"a": LUCK + index * ABOVE}, shots=(1, 2)) for index in range(3)]
    other = write(tmp_path / "other.json", {"b": LUCK}, shots=(1, 2))
    rows = compare({"tgr": seeds, "other": [other]}, against="other")
    assert [(row.name, row.task) for row in rows] == [
        ("tgr", (3, 1)),
        ("tgr", (3, 2)),
        ("other", (3, 1)),
        ("other", (3, 2)),
    ]
    values = torch.stack([LUCK + index * ABOVE for index in range(3)])
    for row in rows[:2]:
        assert len(row.results) == 3
        assert row.accuracy == mean_interval(values)
        assert row.difference == paired_difference(values, LUCK)
    console = Console(width=200, file=io.StringIO(), color_system=None)
    with console.capture() as shown:
        console.print(comparison_table(rows))
    text = shown.get()
    assert f"37.0 ± {mean_interval(values).half_width:.1f} (35.0, 39.0)" in text
    assert f"+2.0 ± {paired_difference(values, LUCK).half_width:.1f}" in text
    for words in (
        "difference from other, paired on the episodes",
        "interval over training seeds and episodes",
        "does not cover the training seed",
    ):
        assert words in " ".join(text.split())
    single = console.render_str(str(comparison_table(compare({"tgr": seeds[:1], "other": [other]})).caption))
    assert "lowest and highest" not in single.plain


def test_seeds_that_differ_more_than_the_difference_draw_no_star(tmp_path: Path) -> None:
    luck = 20 * torch.randn(500, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noise = torch.randn(7, 500, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    of_seeds = torch.tensor([0.0, 4.0, -1.0, 1.0, 0.0, 0.0, -1.0], dtype=torch.float64)
    values = 50 + luck + of_seeds[:, None] + noise
    one, other = values[:3].clamp(0, 100), values[3:6].clamp(0, 100)
    # Over the episodes alone, the mean over seeds seems certain.
    assert paired_difference(one.mean(0), other.mean(0)).excludes_zero
    assert not paired_difference(one, other).excludes_zero
    assert paired_difference(one + 20, other).excludes_zero


def test_a_file_of_several_subjects_gives_a_row_for_each(tmp_path: Path) -> None:
    table = write(tmp_path / "table.json", {"random": LUCK, "meta-model": LUCK + ABOVE})
    rows = compare({"run": [table]})
    assert [row.name for row in rows] == ["run: random", "run: meta-model"]
    assert rows[1].difference is None  # the last subject is what was measured, the others are its baselines
    assert rows[0].difference == paired_difference(LUCK, LUCK + ABOVE)
    alone = write(tmp_path / "alone.json", {"meta-model": LUCK})
    assert [row.name for row in compare({"both": [table, alone]})] == ["both"]


def test_rows_that_cannot_be_compared_are_named(tmp_path: Path) -> None:
    one = write(tmp_path / "one.json", {"a": LUCK})
    elsewhere = write(tmp_path / "elsewhere.json", {"a": LUCK}, seed=1)
    ridge = write(tmp_path / "ridge.json", {"a": LUCK}, head="ridge")
    other = write(tmp_path / "other.json", {"b": LUCK})
    more = write(tmp_path / "more.json", {"a": LUCK}, shots=(1, 2))
    with raises(UsageError, subject="b and a", problem="the same 3-way 1-shot episodes", remedy="--data"):
        compare({"a": [one], "b": [elsewhere]})
    with raises(UsageError, subject="more and a", problem="the same 3-way 2-shot episodes"):
        compare({"a": [one], "more": [more]})
    for odd in (ridge, elsewhere):
        with raises(UsageError, subject="'a'", problem="in the same way on the same 3-way 1-shot"):
            compare({"a": [one, odd]})
    with raises(UsageError, subject="'a'", problem="in the same way on the same 3-way 2-shot"):
        compare({"a": [more, one]})
    with raises(UsageError, subject="'a'", problem="no subject in common"):
        compare({"a": [one, other]})
    with raises(UsageError, subject="--against", problem="'c'", remedy="choose one of a"):
        compare({"a": [one]}, against="c")
    both = write(tmp_path / "both.json", {"a": LUCK, "b": LUCK})
    with raises(UsageError, subject="'x: a'", problem="two rows"):
        compare({"x": [both], "x: a": [one]})
    with raises(UsageError, problem="nothing to compare"):
        compare({})
    with raises(UsageError, subject="'a'", problem="no result file"):
        compare({"a": []})
    with raises(ArtefactError, subject="none.json"):
        compare({"a": [tmp_path / "none.json"]})
    assert compare({"a": [one], "r": [ridge]})[1].results[0].head == "ridge"  # other heads on the same episodes


def test_one_meta_model_measured_twice_gives_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def written(name: str, sha256: str | None, **more: Any) -> Path:
        return write(tmp_path / f"{name}.json", {"a": LUCK}, subject_sha256=sha256, **more)

    one, copy, two = written("one", "1" * 64), written("copy", "1" * 64), written("two", "2" * 64)
    for rows in ({"a": [one, copy]}, {"a": [one], "b": [copy]}):
        compare(rows)
        warning = capsys.readouterr().err
        assert f"{one} and {copy} measure the same meta-model" in warning
        assert warning.count("\n") == 1
    ridge = written("ridge", "1" * 64, head="ridge")
    zoo = [written(f"zoo-{index}", "3" * 64, method="zoo-ensemble") for index in range(2)]
    unknown = [written(f"old-{index}", None) for index in range(2)]
    compare({"seeds": [one, two], "ridge": [ridge], "zoo": zoo, "old": unknown})
    assert capsys.readouterr().err == ""
