import dataclasses
import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from error_checks import raises
from evaluate_helpers import classifier, noise_images, of_two_domains, plain_table
from torch import Tensor, nn

from metazoo.data import ImageSet
from metazoo.errors import Interrupted, UsageError
from metazoo.evaluate import (
    Result,
    Subject,
    evaluate,
    mean_interval,
    paired_difference,
    raw_pixels,
    read_accuracies,
    read_results,
)
from metazoo.features.embedders import Embedder
from metazoo.features.heads import DEFAULT_HEAD, HEADS, Head


class Oracle(nn.Module):
    """Embedder with the classes of `labelled_images` as features."""

    def features(self, images: Tensor) -> Tensor:
        return nn.functional.one_hot(images[:, 0, 0, 0].mul(255).round().long(), 10).float()


def labelled_images(classes: int = 10, each: int = 60) -> ImageSet:
    """Noise images whose first value is the label."""
    images = noise_images(classes, each, side=4, name="labelled")
    images.images[:, 0, 0, 0] = images.labels.to(torch.uint8)
    return images


def subject(module: Embedder, name: str = "oracle") -> Subject:
    return Subject.of(name, "some", module)


def run(*subjects: Subject, images: ImageSet | None = None, **more: Any) -> list[Result]:
    given = {"ways": 3, "shots": (1, 2), "episodes": 20, "queries": 4}
    return evaluate(subjects or (raw_pixels(4),), images or labelled_images(), **given | more)


def test_a_perfect_embedder_has_full_accuracy() -> None:
    for row in run(subject(Oracle()), ways=5, shots=(1, 5)):
        assert (row.accuracy, row.interval) == (100.0, 0.0)


@pytest.mark.parametrize("ways", [2, 5])
def test_noise_is_classified_at_chance(ways: int) -> None:
    for row in run(raw_pixels(4), ways=ways, episodes=400, queries=15):
        # An interval covers other episodes of these images, not other images, hence the factor.
        assert abs(row.accuracy - 100 / ways) < 2 * row.interval
        assert 0 < row.interval < 1.5


def test_rows_are_ordered_by_subject_and_hold_the_protocol() -> None:
    rows = run(subject(Oracle()), raw_pixels(4), shots=(2, 1), seed=3)
    assert [(row.subject, row.method, row.shots) for row in rows] == [
        ("oracle", "some", 2),
        ("oracle", "some", 1),
        ("raw pixels", "raw-pixels", 2),
        ("raw pixels", "raw-pixels", 1),
    ]
    for row in rows:
        assert (row.head, row.batch_norm, row.ways, row.queries) == (DEFAULT_HEAD, "running", 3, 4)
        assert (row.episodes, row.seed, row.image_set, row.parameters) == (20, 3, "labelled", 0)
    assert len({row.episode_list_sha256 for row in rows}) == 2
    assert rows[0].episode_list_sha256 == rows[2].episode_list_sha256


def test_the_defaults_are_those_of_the_command_line() -> None:
    defaults = {name: parameter.default for name, parameter in inspect.signature(evaluate).parameters.items()}
    expected = {"ways": 5, "shots": (1, 5), "episodes": 1000, "queries": 15, "head": DEFAULT_HEAD}
    assert {name: defaults[name] for name in expected} == expected
    assert (defaults["batch_norm"], defaults["seed"]) == ("running", 0)


def test_the_same_call_gives_the_same_numbers_and_another_seed_other_episodes() -> None:
    assert run(seed=1) == run(seed=1)
    assert run(seed=1)[0].episode_list_sha256 != run(seed=2)[0].episode_list_sha256


def test_files_hold_the_accuracies_behind_the_results(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "er" / "RESULT.JSON"
    rows = run(subject(Oracle()), raw_pixels(4), out=out)
    assert read_results(out) == rows
    for row in rows:
        estimate = mean_interval(read_accuracies(out, row))
        assert (estimate.mean, estimate.half_width) == (row.accuracy, row.interval)
    difference = paired_difference(read_accuracies(out, rows[0]), read_accuracies(out, rows[2]))
    assert difference.mean == pytest.approx(rows[0].accuracy - rows[2].accuracy)
    assert difference.excludes_zero


def test_transductive_results_are_marked() -> None:
    images = noise_images()
    subjects = (subject(classifier()), raw_pixels(4))
    for mode, expected in (("running", [False, False]), ("support", [False, False]), ("query", [True, False])):
        rows = run(*subjects, images=images, shots=(2,), episodes=2, batch_norm=mode)
        assert [row.transductive for row in rows] == expected
        assert {row.batch_norm for row in rows} == {mode}


@pytest.mark.parametrize("head", [*HEADS], ids=lambda head: head.name)
def test_transductive_heads_are_marked_in_file_and_table(head: Head, tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    run(subject(classifier()), images=noise_images(), shots=(2,), episodes=2, head=head.name, out=out)
    (row,) = read_results(out)
    assert (row.head, row.transductive) == (head.name, head.transductive)
    table = " ".join(plain_table([row], width=200).split())
    assert f"{head.name}, batch norm running" in table
    assert ("(transductive)" in table) == head.transductive


def test_results_of_mirrored_features_are_marked(tmp_path: Path) -> None:
    out, images = tmp_path / "result.json", noise_images(colour=0.05)
    symmetric = dataclasses.replace(images, images=torch.maximum(images.images, images.images.flip(3)))
    for image_set, same in ((images, False), (symmetric, True)):
        rows = run(subject(classifier()), images=image_set, shots=(1,), mirrored=True, out=out, overwrite=True)
        assert read_results(out) == rows
        assert (rows[0].mirrored, rows[0].transductive) == (True, False)
        assert (rows[0].accuracy == run(subject(classifier()), images=image_set, shots=(1,))[0].accuracy) is same
    assert "batch norm running, mirrored, 20 episodes" in " ".join(plain_table(rows, width=200).split())


def test_the_domains_of_a_meta_model_are_stored(tmp_path: Path) -> None:
    out, subjects = tmp_path / "result.json", (subject(of_two_domains()), raw_pixels(4))
    results = run(*subjects, images=noise_images(), mirrored=True, out=out)
    assert [result.domains for result in results] == [("a", "b"), ("a", "b"), None, None]
    assert read_results(out) == results
    assert ["domains" in row for row in json.loads(out.read_text())["results"]] == [True, True, False, False]


def test_a_known_domain_selects_networks_of_subjects_that_have_several(tmp_path: Path) -> None:
    out, several = tmp_path / "result.json", of_two_domains()
    subjects = (subject(several), raw_pixels(4))
    known = run(*subjects, images=noise_images(), domain="b", out=out)
    assert [result.domain for result in known] == ["b", "b", None, None]
    assert read_results(out) == known
    assert "known domain b" in " ".join(plain_table(known, width=200).split())
    expected = run(subject(several.networks[1]), images=noise_images())
    assert [result.accuracy for result in known[:2]] == [result.accuracy for result in expected]
    assert [result.parameters for result in known[:2]] == [result.parameters for result in expected]
    recognised = run(*subjects, images=noise_images())
    assert [result.accuracy for result in recognised[2:]] == [result.accuracy for result in known[2:]]
    assert [result.accuracy for result in recognised[:2]] != [result.accuracy for result in known[:2]]


def test_unknown_and_useless_domains_are_refused() -> None:
    with raises(UsageError, problem="one domain"):
        run(raw_pixels(4), images=noise_images(), domain="a")
    with raises(UsageError, subject="'c'", remedy="choose one of a, b"):
        run(subject(of_two_domains()), images=noise_images(), domain="c")


def test_progress_is_counted_over_subjects_and_lists() -> None:
    calls: list[int] = []
    run(subject(Oracle()), raw_pixels(4), advance=calls.append)
    assert sum(calls) == 2 * 2 * 20


def test_the_given_head_is_used() -> None:
    images, module = noise_images(colour=0.05), classifier()
    rows = [run(subject(module), images=images, shots=(1,), head=head)[0] for head in ("nearest-mean", "fine-tune")]
    assert [row.head for row in rows] == ["nearest-mean", "fine-tune"]
    assert rows[0].accuracy != rows[1].accuracy


def test_too_few_classes_or_images_are_named(tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    with raises(UsageError, subject="labelled") as caught:
        run(ways=11, out=out)
    assert "11-way" in str(caught.value)
    whole = labelled_images()
    poor = whole.take(torch.arange(len(whole) - 57))
    cases: tuple[tuple[dict[str, Any], tuple[str, str]], ...] = (
        ({"images": poor}, ("'class 9'", "3 ")),
        ({"shots": (1, 60)}, ("'class 0'", "60 support and 4 query")),
    )
    for more, texts in cases:
        with raises(UsageError) as caught:
            run(**more, out=out)
        assert all(text in str(caught.value) for text in texts)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"head": "svm"}, "'svm'"),
        ({"batch_norm": "none"}, "'none'"),
        ({"shots": ()}, "shots"),
        ({"shots": (1, 1)}, "[1, 1]"),
        ({"shots": (0,)}, "shot"),
        ({"ways": 1}, "ways"),
        ({"queries": 0}, "quer"),
        ({"episodes": 1}, "episodes"),
    ],
)
def test_wrong_use_is_refused(change: dict[str, Any], text: str) -> None:
    with raises(UsageError) as caught:
        run(**change)
    assert text in str(caught.value)


def test_subjects_need_different_names() -> None:
    with raises(UsageError, subject="subjects", problem="['raw pixels', 'raw pixels']"):
        run(raw_pixels(4), raw_pixels(8))
    with raises(UsageError, subject="subjects", remedy="at least one"):
        evaluate([], labelled_images())


def test_a_result_that_cannot_be_written_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "there.json").write_text("mine")
    for name, problem, remedy in (
        ("there.json", "exists", "--overwrite"),
        ("result.txt", "result file", ".json"),
        ("folder.json", "result file", ".json"),
        ("file/result.json", str(tmp_path / "file"), "another path"),
    ):
        with raises(UsageError, subject=str(tmp_path / name), problem=problem, remedy=remedy):
            run(out=tmp_path / name, advance=lambda _: pytest.fail("the work was begun"))
    assert (tmp_path / "there.json").read_text() == "mine"


def test_a_stopped_evaluation_leaves_the_former_result(tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    former = run(out=out)

    def stop(_episodes: int) -> None:
        raise Interrupted("stopped")

    with pytest.raises(Interrupted):
        run(out=out, overwrite=True, seed=9, advance=stop)
    assert read_results(out) == former
    assert read_accuracies(out, former[0]).shape == (20,)
