import csv
import io
import json
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from cli_helpers import Outcome, Workshop, content, edit_json, edit_tensors

from metazoo.pipeline.layout import HEALTH, TRUST
from metazoo.storage.artefacts import sha256_of_file
from metazoo.storage.lock import exclusive
from metazoo.storage.run_folder import RunFolder
from metazoo.zoo import Zoo

Cli = Callable[..., Outcome]
Refused = Callable[..., str]
NAMES = ("seen-conv4-w4-s0-000", "seen-conv4-w4-s0-001")
SMALL = ("--ways", 3, "--width", 4, "--input-size", 16, "--epochs", 2, "--workers", 1)


def test_building_again_changes_nothing(cli: Cli, own: Workshop) -> None:
    before = content(own.zoo)
    outcome = cli("zoo", "build", own.zoo, "--data", own.seen, "--arch", "conv4", "--models", 2, "--seed", 0, *SMALL)
    assert (outcome.code, outcome.err) == (0, f"note: {own.zoo} already holds 2 such models; none was trained\n")
    assert content(own.zoo) == before


def test_another_architecture_and_domain_join_the_zoo(cli: Cli, own: Workshop) -> None:
    grey = ("--arch", "thin-resnet", "--models", 1, "--domain", "grey things", "--channels", 1, "--batch-size", 8)
    grey = (*grey, "--shift", 2)
    outcome = cli("zoo", "build", own.zoo, "--data", own.unseen, *grey, *SMALL)
    assert outcome.code == 0
    assert re.search(r"grey things +│ thin-resnet width 4 +│ +1 │", outcome.out)
    added = Zoo.open(own.zoo).contracts[0]
    assert (added.domain, added.spec.channels, added.spec.architecture) == ("grey things", 1, "thin-resnet")
    assert added.training is not None
    assert added.training.recipe.largest_shift == 2


def test_inspecting_lists_every_model(cli: Cli, workshop: Workshop) -> None:
    outcome = cli("zoo", "inspect", workshop.zoo)
    assert (outcome.code, outcome.err) == (0, "")
    for name in NAMES:
        assert re.search(rf"{name} +│ seen +│ conv4 width 4 +│ +3 │ +16 │ +3 │ +[\d.]+ % │", outcome.out)


def test_class_names_are_shortened_in_tables_and_complete_in_csv_and_json(cli: Cli, own: Workshop) -> None:
    zoo = Zoo.open(own.zoo)
    names = ("x" * 30, "🐱 cat", "[bold]")
    zoo.store("odd", zoo.teacher(NAMES[0]).classifier, class_names=names, domain="d")
    table = cli("zoo", "inspect", own.zoo).out
    assert f"{'x' * 19}…, 🐱 cat, [bold]" in table
    records = json.loads(cli("zoo", "inspect", own.zoo, "--format", "json").out)
    assert [record["class_names"] for record in records] == [list(contract.class_names) for contract in zoo]
    rows = list(csv.DictReader(io.StringIO(cli("zoo", "inspect", own.zoo, "--format", "csv").out)))
    assert [row["name"] for row in rows] == [contract.name for contract in zoo]
    assert rows[0]["class_names"].split("|") == list(names)


def test_a_table_in_a_pipe_has_at_most_100_columns(
    cli: Cli, workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS")
    lines = cli("zoo", "inspect", workshop.zoo).out.splitlines()
    assert 60 < max(map(len, lines)) <= 100


def test_copies_of_a_model_and_stray_files_are_noted(cli: Cli, own: Workshop) -> None:
    zoo = Zoo.open(own.zoo)
    classes = zoo.contract(NAMES[0]).class_names
    zoo.store("copy", zoo.teacher(NAMES[0]).classifier, class_names=classes, domain="d")
    (own.zoo / "models" / "old.pt").write_bytes(b"x")
    outcome = cli("zoo", "verify", own.zoo)
    assert outcome.code == 0
    assert re.search(rf"copy, {NAMES[0]} +│ note .*2 models with the same weights", outcome.out)
    assert re.search(r"models/old.pt +│ note +│ +│ +│ belongs to no model of the zoo", outcome.out)
    build = ("zoo", "build", own.zoo, "--data", own.seen, "--models", 1, *SMALL)
    assert f"note: copy, {NAMES[0]}: 2 models with the same weights" in cli(*build).err


def test_a_build_that_has_nothing_to_do_and_equal_classes_are_noted(cli: Cli, own: Workshop) -> None:
    shutil.rmtree(own.seen / "colour-3")
    shutil.copytree(own.seen / "colour-2", own.seen / "colour-3")
    build = ("zoo", "build", own.new, "--data", own.seen, "--models", 1, *SMALL)
    assert "note: classes colour-2, colour-3 of seen have the same images\n" in cli(*build).err
    outcome = cli(*build)
    assert outcome.code == 0
    assert f"note: {own.new} already holds 1 such models; none was trained\n" in outcome.err


def test_a_control_zoo_is_shown_as_such(cli: Cli, own: Workshop) -> None:
    build = ("zoo", "build", own.new, "--data", own.seen, "--models", 1, *SMALL, "--control", "untrained")
    assert "(untrained control)" in cli(*build).out
    assert "seen-conv4-w4-untrained-s0-000" in cli("zoo", "inspect", own.new).out


def test_inspecting_shows_how_far_a_run_trusts_the_models(
    cli: Cli, refused: Refused, own: Workshop, tmp_path: Path
) -> None:
    folder = RunFolder(own.run)
    recovered = f"warning: {folder.read_json(HEALTH)['warning']}\n"
    outcome = cli("zoo", "inspect", own.zoo, "--run", own.run)
    assert (outcome.code, outcome.err) == (0, recovered)
    for name in NAMES:  # two models can only agree
        assert re.search(rf"{name} +│ +1\.00 │ +(0\.\d\d|1\.00) │ +(0\.\d\d|1\.00) │", outcome.out)
    record = folder.read_json(TRUST)
    record["models"][1]["score"] = 0.25
    folder.write_json(TRUST, {**record, "doubtful": [NAMES[1]], "warning": "1 of 2 models"})
    outcome = cli("zoo", "inspect", own.zoo, "--run", own.run)
    assert outcome.err == f"{recovered}warning: 1 of 2 models\n"
    assert outcome.out.index(f"{NAMES[1]} │ 0.25 ! │") < outcome.out.index(f"{NAMES[0]} │   1.00 │")
    folder.delete(TRUST)
    outcome = cli("zoo", "inspect", own.zoo, "--run", own.run)
    assert (outcome.code, outcome.err) == (0, recovered)
    assert "Recovery" in outcome.out
    assert "Trust" not in outcome.out
    folder.delete(HEALTH)
    assert "run: has no records" in refused(2, "zoo", "inspect", own.zoo, "--run", own.run)
    assert "is not a run folder" in refused(2, "zoo", "inspect", own.zoo, "--run", tmp_path)


def test_models_without_scores_are_shown_with_dashes(cli: Cli, own: Workshop) -> None:
    folder = RunFolder(own.run)
    record = folder.read_json(TRUST)
    record["models"][0].update(claims=None, service=None)
    folder.write_json(TRUST, record)
    assert re.search(rf"{NAMES[0]} +│ +- │ +- │ +- │", cli("zoo", "inspect", own.zoo, "--run", own.run).out)


def test_a_run_of_another_zoo_is_refused_and_one_of_a_changed_zoo_noted(
    cli: Cli, refused: Refused, own: Workshop
) -> None:
    build = ("--data", own.seen, "--models", 1, *SMALL, "--domain", "elsewhere")
    assert cli("zoo", "build", own.new, *build).code == 0
    error = refused(2, "zoo", "inspect", own.new, "--run", own.run)
    assert f"{own.new}: has no model '{NAMES[0]}' of {own.run}; give the zoo of the run, " in error
    assert cli("zoo", "build", own.zoo, *build).code == 0
    outcome = cli("zoo", "inspect", own.zoo, "--run", own.run)
    assert outcome.code == 0
    assert f"zoo has changed since {own.run} began; its records of models may no longer hold" in outcome.err


def test_names_are_whole_where_no_terminal_limits_the_width(cli: Cli, own: Workshop) -> None:
    zoo, name, domain = Zoo.open(own.zoo), "n" * 100, "d" * 60
    classifier = zoo.teacher(NAMES[0]).classifier
    zoo.store(name, classifier, class_names=zoo.contract(NAMES[0]).class_names, domain=domain)
    assert f"│ {name} │ {domain} │ conv4 width 4 │" in cli("zoo", "inspect", own.zoo).out


def test_a_sound_zoo_is_verified(cli: Cli, workshop: Workshop) -> None:
    outcome = cli("zoo", "verify", workshop.zoo)
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.count("sound") == 3
    assert outcome.out.endswith(f"{workshop.zoo}: all 2 models are sound\n")


def _pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"weights": 1}))


def _change(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], object]:
    return lambda path: edit_tensors(path, change)


UNSOUND = {
    "missing": (lambda path: path.unlink(), "missing"),
    "changed": (lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\x01"), "has changed since it was written"),
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:500]), "has changed since it was written"),
    "shapes": (_change(lambda t: t.update({"head.bias": torch.zeros(7)})), r"float32 \[7\] instead of float32 \[3\]"),
    "nan": (_change(lambda t: t["head.bias"].fill_(torch.nan)), "not finite in tensor head.bias"),
    "pickle": (_pickle, "is a pickle or zip archive, which is never read"),
}


def damaged(zoo: Path, name: str, damage: str) -> str:
    """Damage a model, and return a pattern of the message on it."""
    change, message = UNSOUND[damage]
    path = zoo / "models" / f"{name}.safetensors"
    change(path)
    if damage in ("shapes", "nan", "pickle"):
        sha256 = sha256_of_file(path)
        edit_json(zoo / "models" / f"{name}.json", lambda contract: contract.update(weights_sha256=sha256))
    return message


def test_verifying_names_every_unsound_model(cli: Cli, own: Workshop) -> None:
    zoo, messages = Zoo.open(own.zoo), {}
    for damage in UNSOUND:
        name = f"{damage}-".ljust(100, "n")
        classes = zoo.contract(NAMES[0]).class_names
        zoo.store(name, zoo.teacher(NAMES[0]).classifier, class_names=classes, domain="d")
        messages[name] = damaged(own.zoo, name, damage)
    outcome = cli("zoo", "verify", own.zoo)
    assert outcome.code == 1
    assert outcome.err.startswith(f"metazoo: {own.zoo}: {len(UNSOUND)} of {len(UNSOUND) + 2} ")
    rows = outcome.out.splitlines()
    for name, message in messages.items():
        row = next(line for line in rows if f"│ {name} " in line)
        assert "problem" in row
        assert re.search(message, row)
    for name in NAMES:
        assert any(name in line and "sound" in line for line in rows)


@pytest.mark.parametrize("damage", UNSOUND)
def test_an_unsound_model_is_named_where_it_is_used(cli: Cli, own: Workshop, damage: str) -> None:
    message = damaged(own.zoo, NAMES[1], damage)
    for words in (
        ("evaluate", own.zoo, "--data", own.unseen),
        ("adapt", own.zoo, "--support", own.support, "--out", own.new),
        ("train", "--zoo", own.zoo, "--out", own.new, "--config", own.config, "--workers", 1),
    ):
        error = cli(*words)
        assert (error.code, error.out) == (1, "")
        last = error.err.splitlines()[-1]
        assert last.startswith(f"metazoo: model '{NAMES[1]}'")
        assert re.search(message, last)
        assert "Traceback" not in error.err


def test_models_are_removed(cli: Cli, own: Workshop) -> None:
    outcome = cli("zoo", "remove", own.zoo, NAMES[0])
    assert outcome == Outcome(0, f"{own.zoo}: removed {NAMES[0]}\n", "")
    assert [contract.name for contract in Zoo.open(own.zoo)] == [NAMES[1]]


@pytest.mark.parametrize("act", ["inspect", "verify"])
def test_a_folder_that_is_not_a_zoo_is_named(refused: Refused, workshop: Workshop, act: str) -> None:
    assert "none: not a folder; give a" in refused(2, "zoo", act, workshop.none)
    assert "seen: not a zoo: no zoo.json" in refused(2, "zoo", act, workshop.seen)


def test_a_damaged_list_is_named(refused: Refused, own: Workshop) -> None:
    (own.zoo / "zoo.json").write_text("{")
    for words in (
        ("zoo", "inspect", own.zoo),
        ("zoo", "verify", own.zoo),
        ("zoo", "remove", own.zoo, "x"),
        ("zoo", "build", own.zoo, "--data", own.seen, "--models", 2, *SMALL),
        ("train", "--zoo", own.zoo, "--out", own.new),
        ("evaluate", own.zoo, "--data", own.unseen),
    ):
        assert "zoo.json: is not valid JSON" in refused(1, *words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("--arch", "resnet-1000", "--models", 1),
            "architecture 'resnet-1000': is not registered (did you mean resnet10?)",
        ),
        (("--models", 1, "--ways", 9), "--ways: must be from 2 to the 4 classes of seen, not 9"),
        (("--models", 1, "--ways", 1), "4 classes of seen, not 1"),
        (("--models", 1, "--input-size", 9), "16 pixels, not 9"),
        (("--models", 1, "--input-size", 5), "8 to 1024 pixels, not 5"),
        (("--models", 1, "--width", 5000), "from 1 to 4096, not 5000"),
        (("--models", 1, "--ways", 3, "--epochs", 3), "made with another"),
    ],
)
def test_impossible_builds_are_refused(
    refused: Refused, own: Workshop, words: tuple[object, ...], message: str
) -> None:
    before = content(own.zoo)
    given = ("--ways", 3, "--width", 4, "--input-size", 16, "--epochs", 2, *words)
    assert message in refused(2, "zoo", "build", own.zoo, "--data", own.seen, *given)
    assert content(own.zoo) == before


def test_data_that_cannot_be_used_is_named(refused: Refused, own: Workshop) -> None:
    def build(code: int, data: object) -> str:
        return refused(code, "zoo", "build", own.new, "--data", data, "--models", 1, *SMALL)

    assert "none: does not exist; give an .npz pack, a folder" in build(2, own.none)
    assert "config: neither an .npz pack nor a folder" in build(2, own.config)
    assert "martian" in build(2, "glyphs:martian")
    assert "colour-0: no class folders" in build(2, own.seen / "colour-0")
    (own.folder / "bad.npz").write_bytes(b"PK")
    assert "bad.npz" in build(1, own.folder / "bad.npz")
    corrupt = own.seen / "colour-2" / "3.png"
    corrupt.write_bytes(b"\x89PNG")
    assert str(corrupt) in build(1, own.seen)
    assert not own.new.exists()


def test_a_zoo_in_use_is_left_alone(refused: Refused, own: Workshop) -> None:
    with exclusive(own.zoo):
        for words in (
            ("zoo", "build", own.zoo, "--data", own.seen, "--models", 3, *SMALL),
            ("zoo", "remove", own.zoo, NAMES[0]),
        ):
            assert "zoo: is in use by this process" in refused(1, *words)


def test_a_model_that_is_not_there_cannot_be_removed(refused: Refused, workshop: Workshop) -> None:
    assert f"no model 'cat'; choose one of {', '.join(NAMES)}" in refused(2, "zoo", "remove", workshop.zoo, "cat")


def test_a_zoo_is_not_made_in_a_folder_with_other_things(refused: Refused, own: Workshop) -> None:
    error = refused(2, "zoo", "build", own.seen, "--data", own.seen, "--models", 1, *SMALL)
    assert "holds 'colour-0' and is not a zoo; choose a new or empty folder" in error
