import json
from collections.abc import Callable

import pytest
import torch
import yaml
from cli_helpers import Outcome, Workshop, content, edit_json

from metazoo.adapt import MetaModel
from metazoo.methods import METHODS
from metazoo.pipeline.layout import GROUPING
from metazoo.runs.record import Run
from metazoo.storage.lock import exclusive
from metazoo.storage.run_folder import RunFolder

Cli = Callable[..., Outcome]
Refused = Callable[..., str]


def train(workshop: Workshop, *more: object) -> tuple[object, ...]:
    options = ("--zoo", workshop.zoo, "--method", "tgr", "--config", workshop.config, "--workers", 1, "--threads", 1)
    return ("train", *options, *more)


def test_all_options_are_listed_as_a_file_to_begin_from(cli: Cli, refused: Refused, own: Workshop) -> None:
    listed = cli("methods", "tgr", "--preset", "published")
    assert (listed.code, listed.err) == (0, "")
    assert "iterations: 1200  # meta-iterations" in listed.out
    assert cli("methods", "--preset", "default").out == cli("methods", "tgr").out
    assert "tgr: unknown preset none; choose one of default" in refused(2, "methods", "--preset", "none")
    assert "unknown method 'none'; choose one of tgr" in refused(2, "methods", "none")


def test_methods_are_listed_with_what_they_need(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    outcome = cli("methods")
    assert (outcome.code, outcome.err) == (0, "")
    for method in METHODS:
        (row,) = (line for line in outcome.out.splitlines() if line.startswith(f"│ {method.name} "))
        assert ", ".join(method.presets) in row
        assert method.reference in row
    records = {record["name"]: record for record in json.loads(cli("methods", "--format", "json").out)}
    assert list(records) == [method.name for method in METHODS]
    assert (records["average"]["needs"], records["average"]["one_architecture"]) == ("weights", True)
    assert cli("methods", "--format", "markdown").out.count("\n") == len(records) + 2


def test_the_files_of_a_run(workshop: Workshop) -> None:
    assert (workshop.run / "meta-model" / "model.safetensors").is_file()
    config = yaml.safe_load((workshop.run / "config.yaml").read_text())
    assert (config["method"], config["preset"], config["seed"]) == ("tgr", "default", 0)
    assert (config["recovery"]["iterations"], config["learning"]["steps"]) == (4, 6)
    assert json.loads((workshop.run / "run.json").read_text())["zoo"]["models"] == 2
    assert MetaModel.load(workshop.run / "meta-model").spec.input_size == 16


def test_the_same_call_gives_the_same_meta_model(cli: Cli, workshop: Workshop, own: Workshop) -> None:
    outcome = cli(*train(workshop, "--preset", "default", "--seed", 0, "--out", own.new))
    assert outcome.code == 0
    assert outcome.out.endswith(f"{own.new}: meta-model in {own.new / 'meta-model'}\n")
    weights = "meta-model/model.safetensors"
    assert (own.new / weights).read_bytes() == (workshop.run / weights).read_bytes()


def test_resuming_a_finished_run_changes_nothing(cli: Cli, own: Workshop) -> None:
    before = content(own.run)
    outcome = cli(*train(own, "--out", own.run, "--resume"))
    assert outcome.code == 0
    assert content(own.run) == before


@pytest.mark.parametrize("words", [("--setting", "default"), ("--preset", "default", "--setting", "default")])
def test_the_former_name_of_an_option_works_and_names_the_new_one(
    cli: Cli, refused: Refused, own: Workshop, words: tuple[str, ...]
) -> None:
    outcome = cli(*train(own, "--out", own.run, "--resume", *words))
    assert outcome.code == 0
    assert outcome.err == "warning: --setting is now called --preset; the former name will be removed\n"
    listed = cli("methods", "tgr", "--setting", "published")
    assert (listed.out, listed.err) == (cli("methods", "tgr", "--preset", "published").out, outcome.err)


def test_a_run_without_groups_ends_well(cli: Cli, own: Workshop) -> None:
    folder = RunFolder(own.run)
    assert "mean dissimilarity" in cli(*train(own, "--out", own.run, "--resume")).out
    folder.delete(GROUPING)
    outcome = cli(*train(own, "--out", own.run, "--resume"))
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out == f"{own.run}: meta-model in {own.run / 'meta-model'}\n"


def test_a_plan_makes_no_run(cli: Cli, workshop: Workshop, own: Workshop) -> None:
    outcome = cli(*train(workshop, "--out", own.new, "--plan"))
    assert outcome.code == 0
    for word in ("time", "memory", "disk"):
        assert word in outcome.out
    assert not own.new.exists()


def test_a_plan_refuses_a_folder_that_a_run_refuses(cli: Cli, refused: Refused, own: Workshop) -> None:
    assert "holds a run already" in refused(2, *train(own, "--out", own.run, "--plan"))
    assert "is not a run" in refused(2, *train(own, "--out", own.seen, "--plan"))
    assert "cannot be a run folder" in refused(2, *train(own, "--out", own.config, "--plan"))
    assert cli(*train(own, "--out", own.run, "--plan", "--resume")).code == 0


def test_set_overrides_the_file(refused: Refused, own: Workshop) -> None:
    error = refused(1, *train(own, "--out", own.run, "--resume", "--set", "recovery.iterations=5"))
    assert "run: was begun with another recovery.iterations" in error


def test_an_existing_run_is_not_overwritten(refused: Refused, own: Workshop) -> None:
    before = content(own.run)
    error = refused(2, *train(own, "--out", own.run))
    assert "run: holds a run already" in error
    assert "--resume" in error
    assert content(own.run) == before


@pytest.mark.parametrize(
    ("change", "name"),
    [(("--seed", 1), "seed"), (("--config", "{folder}/other"), "recovery.iterations")],
)
def test_a_run_resumes_only_with_its_config(
    refused: Refused, own: Workshop, change: tuple[str, object], name: str
) -> None:
    (own.folder / "other").write_text((own.config).read_text())
    edit_json(own.folder / "other", lambda config: config["recovery"].update(iterations=5))
    words = [str(word).format(folder=own.folder) for word in change]
    error = refused(1, *train(own, "--out", own.run, "--resume", *words))
    assert f"run: was begun with another {name}" in error


@pytest.mark.parametrize("change", [(), ("--method", "tgr", "--preset", "default", "--seed", 0)])
def test_a_run_resumes_without_its_config(cli: Cli, own: Workshop, change: tuple[str, ...]) -> None:
    before = content(own.run)
    assert cli("train", "--zoo", own.zoo, "--out", own.run, "--resume", *change).code == 0
    assert content(own.run) == before


@pytest.mark.parametrize(("option", "value"), [("--seed", "1"), ("--preset", "published")])
def test_a_run_does_not_resume_with_another_config(refused: Refused, own: Workshop, option: str, value: str) -> None:
    error = refused(1, "train", "--zoo", own.zoo, "--out", own.run, "--resume", option, value)
    assert f"run: was begun with another {option[2:]}" in error


def test_a_run_does_not_resume_with_another_zoo(cli: Cli, refused: Refused, own: Workshop) -> None:
    assert cli("zoo", "remove", own.zoo, "seen-conv4-w4-s0-000").code == 0
    assert "run: was begun with another zoo" in refused(1, *train(own, "--out", own.run, "--resume"))


def test_a_run_in_use_is_left_alone(refused: Refused, own: Workshop) -> None:
    with exclusive(own.run):
        error = refused(1, *train(own, "--out", own.run, "--resume"))
    assert f"{own.run}: is in use by this process" in error


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lerning: {steps: 3}", "unknown option lerning; did you mean learning?"),
        ("learning: {stpes: 3}", "unknown option learning.stpes; did you mean learning.steps?"),
        ("learning: {steps: many}", "learning.steps: Input should be a valid integer"),
        ("learning: {steps: 0}", "learning.steps: Input should be greater than or equal to 1"),
        ("method: maml", "unknown method 'maml'; choose one of tgr"),
        ("preset: secret", "tgr: unknown preset secret; choose one of default"),
        ("seed: -1", "seed: must be a whole number of at least 0"),
        ("meta_model: {architecture: resnet-1000}", "unknown architecture 'resnet-1000'; choose one of conv4"),
        ("format_version: 9", "has format version 9, this metazoo reads 1; update metazoo"),
        ("- a\n- b", "must hold options by name"),
        ("a: [", "is not valid YAML"),
        ("!!python/object/apply:os.system ['true']", "is not valid YAML"),
    ],
)
def test_a_wrong_description_of_a_run_names_its_file(refused: Refused, own: Workshop, text: str, message: str) -> None:
    path = own.folder / "wrong.yaml"
    path.write_text(text)
    error = refused(2, "train", "--zoo", own.zoo, "--out", own.new, "--config", path)
    assert message in error
    if not text.startswith(("method", "preset")):
        assert str(path) in error
    assert not own.new.exists()


def test_wrong_use_is_refused(refused: Refused, own: Workshop) -> None:
    new = ("--out", own.new)
    assert "unknown method 'maml'" in refused(2, *train(own, *new, "--method", "maml"))
    assert "unknown preset secret" in refused(2, *train(own, *new, "--preset", "secret"))
    assert "none: not a folder; give a" in refused(2, *train(own, *new, "--zoo", own.none))
    assert "none.yaml: does not exist; give a YAML file" in refused(
        2, *train(own, *new, "--config", own.folder / "none.yaml")
    )
    assert "seen: holds 'colour-0' and is not a run" in refused(2, *train(own, "--out", own.seen))
    assert "cannot be a run folder" in refused(2, *train(own, "--out", own.config))
    assert not own.new.exists()


def test_an_empty_zoo_is_refused(cli: Cli, refused: Refused, own: Workshop) -> None:
    assert cli("zoo", "remove", own.zoo, "seen-conv4-w4-s0-000", "seen-conv4-w4-s0-001").code == 0
    for words in (
        train(own, "--out", own.new),
        train(own, "--out", own.new, "--plan"),
        ("evaluate", own.zoo, "--data", own.unseen),
        ("adapt", own.zoo, "--support", own.support, "--out", own.new),
    ):
        assert "holds no model; add some with `metazoo zoo build`" in refused(2, *words)
    assert cli("zoo", "verify", own.zoo).code == 0


def test_the_threads_of_the_caller_stay(cli: Cli, own: Workshop) -> None:
    before = torch.get_num_threads()
    assert cli(*train(own, "--out", own.run, "--resume")).code == 0
    assert torch.get_num_threads() == before


def test_a_card_is_stored_with_the_weights(workshop: Workshop) -> None:
    card = (workshop.run / "meta-model" / "README.md").read_text()
    for contract_name in ("seen-conv4-w4-s0-000", "seen-conv4-w4-s0-001"):
        assert contract_name in card
    assert card.split("```yaml\n")[1].split("```")[0] == (workshop.run / "config.yaml").read_text()
    assert Run.open(workshop.run).finished
