import io
from pathlib import Path

import pytest
import torch
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
    """A result file of subjects with these accuracies, the same for every number of shots."""
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
    for row in rows[:2]:
        assert len(row.results) == 3
        assert row.accuracy == mean_interval(LUCK + ABOVE)
        assert row.difference == paired_difference(LUCK + ABOVE, LUCK)
    console = Console(width=200, file=io.StringIO(), color_system=None)
    with console.capture() as shown:
        console.print(comparison_table(rows))
    text = shown.get()
    assert "37.0 ± 42.3 (35.0, 39.0)" in text
    assert "+2.0 ± 1.3 *" in text
    assert "difference to other, paired on the episodes" in text


def test_a_file_of_several_subjects_gives_a_row_for_each(tmp_path: Path) -> None:
    table = write(tmp_path / "table.json", {"random": LUCK, "meta-model": LUCK + ABOVE})
    rows = compare({"run": [table]})
    assert [row.name for row in rows] == ["run: random", "run: meta-model"]
    assert rows[1].difference is None  # the last subject is what was measured, the others are its baselines
    assert rows[0].difference == paired_difference(LUCK, LUCK + ABOVE)
    alone = write(tmp_path / "alone.json", {"meta-model": LUCK})
    assert [row.name for row in compare({"both": [table, alone]})] == ["both"]


def test_what_cannot_be_compared_is_named(tmp_path: Path) -> None:
    one = write(tmp_path / "one.json", {"a": LUCK})
    elsewhere = write(tmp_path / "elsewhere.json", {"a": LUCK}, seed=1)
    ridge = write(tmp_path / "ridge.json", {"a": LUCK}, head="ridge")
    other = write(tmp_path / "other.json", {"b": LUCK})
    more = write(tmp_path / "more.json", {"a": LUCK}, shots=(1, 2))
    with pytest.raises(UsageError, match="b and a were not measured on the same 3-way 1-shot episodes; evaluate both"):
        compare({"a": [one], "b": [elsewhere]})
    with pytest.raises(UsageError, match="more and a were not measured on the same 3-way 2-shot episodes"):
        compare({"a": [one], "more": [more]})
    for odd in (ridge, elsewhere):
        with pytest.raises(UsageError, match="the files of a were not measured in one way on the same 3-way 1-shot"):
            compare({"a": [one, odd]})
    with pytest.raises(UsageError, match="the files of a were not measured in one way on the same 3-way 2-shot"):
        compare({"a": [more, one]})
    with pytest.raises(UsageError, match="the files of a have no subject in common"):
        compare({"a": [one, other]})
    with pytest.raises(UsageError, match="there is no row 'c' to compare with; choose one of a"):
        compare({"a": [one]}, against="c")
    both = write(tmp_path / "both.json", {"a": LUCK, "b": LUCK})
    with pytest.raises(UsageError, match="two rows are called 'x: a'; give one of them another name"):
        compare({"x": [both], "x: a": [one]})
    with pytest.raises(UsageError, match="nothing to compare"):
        compare({})
    with pytest.raises(UsageError, match="a has no result file"):
        compare({"a": []})
    with pytest.raises(ArtefactError, match=r"none\.json is missing"):
        compare({"a": [tmp_path / "none.json"]})
    assert compare({"a": [one], "r": [ridge]})[1].results[0].head == "ridge"  # other heads on the same episodes
