import dataclasses
import hashlib
import json
import re
import shutil
import signal
from collections.abc import Callable

import numpy as np
import pytest
import torch
from cli_helpers import SIDE, Outcome, Workshop, edit_json, edit_tensors

from metazoo.adapt import MetaModel
from metazoo.cli.feature_source import open_source
from metazoo.data import EpisodeList, load_images
from metazoo.errors import ArtefactError, UsageError
from metazoo.evaluate import Contamination, read_accuracies, read_contamination, read_results
from metazoo.models import build_classifier
from metazoo.zoo import Zoo

Cli = Callable[..., Outcome]
Refused = Callable[..., str]
KEYS = "subject method head batch_norm ways shots episodes seed episode_list_sha256 accuracy interval"
SMALL = ("--ways", 3, "--shots", "1,2", "--episodes", 10, "--queries", 3)


def test_a_run_is_measured_and_its_result_written(cli: Cli, workshop: Workshop, own: Workshop) -> None:
    words = ("--head", "nearest-mean", "--batch-norm", "running", "--seed", 0, "--out", own.folder / "result.json")
    outcome = cli("evaluate", workshop.run, "--data", workshop.unseen, *SMALL, *words)
    assert outcome.code == 0
    assert re.search(r"tgr meta-model │ +[\d.]+ ± [\d.]+ │ +[\d.]+ ± [\d.]+ │ +[\d,]+ │", outcome.out)
    assert "warning" not in outcome.err
    assert f"\n{own.folder / 'result.json'}: 2 results" in outcome.out
    content = json.loads((own.folder / "result.json").read_text())
    assert content["format_version"] == 1
    assert [row["shots"] for row in content["results"]] == [1, 2]
    for row in content["results"]:
        assert set(KEYS.split()) <= set(row)
        expected = {"subject": "tgr meta-model", "method": "tgr", "head": "nearest-mean", "batch_norm": "running"}
        expected |= {"ways": 3, "episodes": 10, "seed": 0}
        assert {key: row[key] for key in expected} == expected
        assert 0 <= row["accuracy"] <= 100
        assert re.fullmatch("[0-9a-f]{64}", row["episode_list_sha256"])
    for result in read_results(own.folder / "result.json"):
        accuracies = read_accuracies(own.folder / "result.json", result)
        assert float(accuracies.mean()) == pytest.approx(result.accuracy)


def test_a_zoo_is_measured_as_its_untrained_ensemble(cli: Cli, workshop: Workshop, own: Workshop) -> None:
    out = own.folder / "result.json"
    assert cli("evaluate", workshop.zoo, "--data", workshop.unseen, *SMALL, "--out", out).code == 0
    assert {(row.subject, row.method) for row in read_results(out)} == {("zoo ensemble", "zoo-ensemble")}


def test_mirrored_features_serve_every_row(cli: Cli, workshop: Workshop, own: Workshop) -> None:
    out = own.folder / "result.json"
    words = ("--baselines", "--mirror", "--out", out)
    assert cli("evaluate", workshop.run, "--data", workshop.unseen, *SMALL, *words).code == 0
    assert len(read_results(out)) == 12
    assert all(row.mirrored for row in read_results(out))


@pytest.mark.parametrize(("subject", "last"), [("run", "tgr meta-model"), ("zoo", "zoo ensemble")])
def test_baselines_stand_above_the_subject(
    cli: Cli, workshop: Workshop, own: Workshop, subject: str, last: str
) -> None:
    out = own.folder / "result.json"
    words = ("--baselines", "--out", out)
    outcome = cli("evaluate", workshop.folder / subject, "--data", workshop.unseen, *SMALL, *words)
    assert outcome.code == 0
    names = list(dict.fromkeys(row.subject for row in read_results(out)))
    baselines = ["raw pixels", "random initialisation", "parameter average", "best single teacher", "zoo ensemble"]
    assert names == [*baselines, last] if last not in baselines else names == baselines
    assert len({row.episode_list_sha256 for row in read_results(out)}) == 2
    assert all(name in outcome.out for name in names)


def test_models_of_another_width_than_the_meta_models_are_averaged_too(workshop: Workshop) -> None:
    source = open_source(str(workshop.run))
    assert source.meta_model is not None
    spec = source.meta_model.spec.model_copy(update={"arguments": {"width": 6}})
    wide = MetaModel(build_classifier(spec).eval(), method="tgr", preset="default", seed=0)
    tables = [dataclasses.replace(source, meta_model=own).table() for own in (source.meta_model, wide)]
    averages = [next(row.module for row in table if row.name == "parameter average") for table in tables]
    for one, other in zip(*(average.parameters() for average in averages), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("head", ["nearest-mean", "soft-k-means-free", "fine-tune"])
@pytest.mark.parametrize("mode", ["support", "query"])
def test_every_head_and_mode_can_be_asked_for(cli: Cli, workshop: Workshop, head: str, mode: str) -> None:
    words = ("--ways", 2, "--shots", 2, "--episodes", 2, "--queries", 2, "--head", head, "--batch-norm", mode)
    outcome = cli("evaluate", workshop.run, "--data", workshop.unseen, *words)
    assert outcome.code == 0
    assert f"{head}, batch norm {mode}, 2 episodes of" in " ".join(outcome.out.split())
    assert ("transductive" in outcome.out) == (mode == "query" or head == "soft-k-means-free")


def test_glyphs_are_data_too(cli: Cli, workshop: Workshop) -> None:
    words = ("--images-per-class", 4, "--ways", 2, "--shots", 1, "--episodes", 2, "--queries", 2)
    assert cli("evaluate", workshop.run, "--data", "glyphs:lao", *words).code == 0


def test_classes_that_a_model_was_trained_on_are_warned_of(cli: Cli, workshop: Workshop) -> None:
    for subject in (workshop.run, workshop.zoo):
        outcome = cli("evaluate", subject, "--data", workshop.seen, *SMALL)
        assert outcome.code == 0
        assert re.search(r"^warning: [34] of 4 classes of seen have the name of a class", outcome.err)
        assert re.search(r"such as colour-\d \(seen-conv4-w4-s0-00\d( and 1 more)?\).* --exclude-known", outcome.err)


def test_known_classes_are_recorded_and_can_be_excluded(cli: Cli, refused: Refused, own: Workshop) -> None:
    out = own.folder / "result.json"
    words = ("evaluate", own.run, "--data", own.seen, "--ways", 2, "--shots", 1, "--episodes", 4, "--queries", 2)
    assert cli(*words, "--out", out, "--overwrite").code == 0
    found = read_contamination(out)
    assert found is not None
    expected: dict[str, tuple[str, ...]] = {}
    for contract in Zoo.open(own.zoo):
        for name in contract.class_names:
            expected[name] = (*expected.get(name, ()), contract.name)
    assert found == Contamination(models=2, classes=4, known=expected)
    error = refused(2, *words, "--exclude-known", "--out", out, "--overwrite")
    assert f"seen: only {4 - len(expected)} of 4 classes are unseen, too few for 2-way" in error
    for name in ("colour-10", "colour-11", "colour-12"):
        shutil.copytree(own.unseen / name, own.seen / name)
    outcome = cli(*words, "--exclude-known", "--out", out, "--overwrite")
    assert outcome.code == 0
    assert "warning" not in outcome.err
    assert read_contamination(out) == Contamination(models=2, classes=7, known=expected, excluded=True)
    left = load_images(own.seen, side=SIDE)
    left = left.select_classes([index for index, name in enumerate(left.class_names) if name not in expected])
    assert read_results(out)[0].episode_list_sha256 == EpisodeList.draw(left, 2, 1, 2, 4).sha256
    assert read_results(out)[0].image_set == f"seen without {len(expected)} known classes"


def test_too_few_classes_or_images_are_named(refused: Refused, own: Workshop) -> None:
    def evaluate(*words: object) -> str:
        out = own.folder / "result.json"
        return refused(2, "evaluate", own.run, "--data", own.unseen, "--out", out, *words)

    assert "unseen: has 6 classes, too few for 7-way" in evaluate("--ways", 7)
    few = evaluate("--ways", 5, "--shots", "1,5", "--queries", 4)
    assert "class 'colour-10' of unseen: has 8 images, but 5 support and 4 query images are needed" in few
    assert "at least 2 ways" in evaluate("--ways", 1)
    assert "episodes: must be at least 2" in evaluate("--episodes", 1)
    assert not (own.folder / "result.json").exists()


def test_a_result_that_cannot_be_written_is_refused_at_once(refused: Refused, own: Workshop) -> None:
    for name, message in (("result.csv", "ends in .json"), ("config/result.json", "is not a writable folder")):
        words = ("evaluate", own.run, "--data", own.unseen, *SMALL, "--out", own.folder / name)
        assert message in refused(2, *words)


def test_other_folders_are_named(refused: Refused, workshop: Workshop) -> None:
    for command in (("evaluate", "--data", workshop.unseen), ("adapt", "--support", workshop.support, "--out", "x")):
        name, *options = command
        missing = refused(2, name, workshop.none, *options)
        assert "none: does not exist; give a run folder, a zoo folder, a meta-model folder or hf:OWNER/NAME" in missing
        error = refused(2, name, workshop.seen, *options)
        assert "seen: holds no run (run.json), zoo (zoo.json) or meta-model" in error


def test_a_meta_model_is_measured_without_its_run_as_with_it(cli: Cli, refused: Refused, own: Workshop) -> None:
    alone, out = own.folder / "alone", own.folder / "result.json"
    shutil.copytree(own.run / "meta-model", alone)
    words = ("--data", own.unseen, *SMALL, "--out", out, "--overwrite")
    assert cli("evaluate", own.run, *words).code == 0
    with_run = read_results(out)
    outcome = cli("evaluate", alone, *words)
    assert outcome.code == 0
    assert "warning: its zoo is not available" in outcome.err
    assert read_results(out) == with_run
    error = refused(2, "evaluate", alone, "--data", own.unseen, *SMALL, "--baselines")
    assert "alone: is a meta-model without its zoo" in error
    assert "--zoo" in error
    (alone / "model.safetensors").unlink()
    assert "model.safetensors: is missing" in refused(1, "evaluate", alone, "--data", own.unseen, *SMALL)


@pytest.mark.parametrize(("words", "threads"), [((), 1), (("--threads", 2), 2)])
def test_threads_are_those_asked_for(
    cli: Cli,
    workshop: Workshop,
    own: Workshop,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[object, ...],
    threads: int,
) -> None:
    seen: list[int] = []

    def observed(*_: object, **__: object) -> None:
        seen.append(torch.get_num_threads())
        raise UsageError("enough")

    for function in (
        "measure_commands.evaluate_subjects",
        "classifier_commands.adapt_module",
        "classifier_commands.FewShotClassifier.predict",
    ):
        monkeypatch.setattr(f"metazoo.cli.{function}", observed)
    before = torch.get_num_threads()
    cli("evaluate", workshop.run, "--data", workshop.unseen, *words)
    cli("adapt", workshop.run, "--support", workshop.support, "--out", own.new, *words)
    cli("predict", workshop.classifier, workshop.unseen, *words)
    assert seen == [threads] * 3
    assert torch.get_num_threads() == before


def test_a_stop_is_reported_in_one_line(cli: Cli, workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object, advance: Callable[[int], None], **__: object) -> None:
        signal.raise_signal(signal.SIGTERM)
        advance(1)

    monkeypatch.setattr("metazoo.cli.measure_commands.evaluate_subjects", stopped)
    outcome = cli("evaluate", workshop.run, "--data", workshop.unseen)
    assert (outcome.code, outcome.out) == (143, "")
    assert outcome.err.startswith("metazoo: stopped by SIGTERM")


def test_a_run_that_has_not_finished_is_named(refused: Refused, own: Workshop) -> None:
    edit_json(own.run / "manifest.json", lambda manifest: manifest["files"].pop("meta-model/bundle.json"))
    error = refused(1, "evaluate", own.run, "--data", own.unseen)
    assert "run: has not finished" in error
    assert "--resume" in error


def test_a_damaged_run_is_named(refused: Refused, own: Workshop) -> None:
    weights = own.run / "meta-model" / "model.safetensors"
    words = ("evaluate", own.run, "--data", own.unseen, *SMALL)
    edit_tensors(weights, lambda tensors: tensors["blocks.0.0.bias"].add_(1))
    assert f"{weights}: has changed" in refused(1, *words)
    weights.unlink()
    assert f"{weights}: is missing" in refused(1, *words)
    (own.run / "run.json").write_text("{}")
    assert "run.json: has changed" in refused(1, *words)


def test_a_run_outlives_its_zoo(cli: Cli, refused: Refused, own: Workshop) -> None:
    edit_json(own.run / "run.json", lambda description: description["zoo"].update(path=str(own.none)))
    data = (own.run / "run.json").read_bytes()
    entry = {"run.json": {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}}
    edit_json(own.run / "manifest.json", lambda manifest: manifest["files"].update(entry))
    outcome = cli("evaluate", own.run, "--data", own.unseen, *SMALL)
    assert outcome.code == 0
    assert "warning: its zoo is not available" in outcome.err
    error = refused(2, "evaluate", own.run, "--data", own.unseen, *SMALL, "--exclude-known")
    assert "--exclude-known: the classes of no model are known" in error
    error = refused(2, "evaluate", own.run, "--data", own.unseen, *SMALL, "--baselines")
    assert f"{own.run}: its zoo {own.none} is missing" in error
    assert "--zoo" in error
    outcome = cli("evaluate", own.run, "--data", own.unseen, *SMALL, "--baselines", "--zoo", own.zoo)
    assert outcome.code == 0
    assert "warning" not in outcome.err
    assert "zoo ensemble" in outcome.out
    empty = Zoo.create(own.none)
    assert "has no model" in refused(2, "evaluate", own.run, "--data", own.unseen, *SMALL, "--zoo", empty.folder)
    error = refused(2, "evaluate", own.zoo, "--data", own.unseen, *SMALL, "--zoo", own.zoo)
    assert "--zoo" in error


def test_every_row_records_what_it_measured(cli: Cli, workshop: Workshop, own: Workshop) -> None:
    out = own.folder / "result.json"
    words = ("--data", workshop.unseen, *SMALL, "--out", out, "--baselines")
    assert cli("evaluate", workshop.run, *words).code == 0
    weights = hashlib.sha256((workshop.run / "meta-model" / "model.safetensors").read_bytes()).hexdigest()
    zoo = Zoo.open(workshop.zoo).sha256
    found = {row.method: row.subject_sha256 for row in read_results(out)}
    assert found == {
        "raw-pixels": None,
        "random-initialisation": None,
        "parameter-average": zoo,
        "best-teacher": zoo,
        "zoo-ensemble": zoo,
        "tgr": weights,
    }
    assert cli("evaluate", workshop.zoo, "--data", workshop.unseen, *SMALL, "--out", out, "--overwrite").code == 0
    assert {row.subject_sha256 for row in read_results(out)} == {zoo}


def test_a_result_that_cannot_be_written_does_not_end_the_episodes_early(
    cli: Cli, own: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise ArtefactError("result.json", "no space left")

    monkeypatch.setattr("metazoo.evaluate.evaluation.write_results", full)
    outcome = cli("evaluate", own.run, "--data", own.unseen, *SMALL, "--out", own.folder / "result.json")
    assert outcome.code == 1
    assert "evaluating: 20/20, done in" in outcome.err


def test_images_are_read_at_the_largest_input_of_the_models(cli: Cli, workshop: Workshop, own: Workshop) -> None:
    pack = own.folder / "unseen.npz"
    whole = load_images(workshop.unseen, side=20)
    names = np.array(whole.class_names)
    np.savez(pack, images=whole.images.permute(0, 2, 3, 1).numpy(), labels=whole.labels.numpy(), class_names=names)
    for data, words, expected in (
        (workshop.unseen, (), load_images(workshop.unseen, side=16)),
        (workshop.unseen, ("--image-size", 24), load_images(workshop.unseen, side=24)),
        (pack, (), load_images(pack)),
        (pack, ("--image-size", 24), load_images(pack, side=24)),
    ):
        for subject in (workshop.run, workshop.zoo):
            out = own.folder / "result.json"
            assert cli("evaluate", subject, "--data", data, *SMALL, *words, "--out", out, "--overwrite").code == 0
            drawn = EpisodeList.draw(expected, 3, 1, 3, 10)
            assert read_results(out)[0].episode_list_sha256 == drawn.sha256
