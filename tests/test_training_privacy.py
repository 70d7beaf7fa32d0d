"""What becomes of recovered images: contracts and `images=False` are obeyed, and a run still goes on bit-equal."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from training_helpers import OPTIONS, build, content

from metazoo.bank import Bank
from metazoo.errors import RunError, UsageError
from metazoo.learn.group_learning import GroupLearner
from metazoo.pipeline import recovery_stage
from metazoo.runs.record import Run
from metazoo.runs.train import train
from metazoo.storage.manifest import Manifest
from metazoo.storage.run_folder import RunFolder
from metazoo.zoo import Zoo


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return build(tmp_path_factory.mktemp("privacy") / "zoo")


@pytest.fixture
def zoo(template: Zoo, tmp_path: Path) -> Zoo:
    """Four models: the first two may be shown, the third is to keep, the last to discard."""
    zoo = Zoo.open(shutil.copytree(template.folder, tmp_path / "zoo"))
    names = [contract.name for contract in zoo]
    zoo.permit([names[2]], "keep")
    zoo.permit([names[3]], "discard")
    return zoo


@pytest.fixture(scope="module")
def open_run(template: Zoo, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Of the same zoo with nothing forbidden; not to be changed."""
    return train(template, out=tmp_path_factory.mktemp("open") / "run", config=OPTIONS, workers=1)


def again(zoo: Zoo, out: Path, **values: Any) -> Run:
    return train(zoo, out=out, config=OPTIONS, workers=1, resume=True, **values)


def sheets(run: Path) -> list[str]:
    return sorted(path.stem for path in (run / "recovered").glob("*"))


def stored(run: Path) -> set[str]:
    return {path.parent.name for path in (run / "bank").rglob("*.safetensors")}


def weights(run: Path) -> bytes:
    return (run / "meta-model" / "model.safetensors").read_bytes()


def test_a_run_obeys_the_contracts_and_learns_the_same(zoo: Zoo, open_run: Run, tmp_path: Path) -> None:
    names = [contract.name for contract in zoo]
    run = again(zoo, tmp_path / "run")
    assert sheets(run.path) == names[:2]
    assert stored(run.path) == set(names[:3])
    Manifest(run.path).verify()
    Bank.open(run.path / "bank").verify()
    assert weights(run.path) == weights(open_run.path)
    assert [row.get("loss") for row in run.metrics()] == [row.get("loss") for row in open_run.metrics()]
    card = (run.path / "meta-model" / "README.md").read_text()
    assert "Those of 2 models are kept in the run folder (`bank`) and shown as contact sheets there" in card
    assert "Those of 1 model are kept in the run folder (`bank`) and shown nowhere." in card
    assert "Those of 1 model were deleted once the run had finished." in card


def test_a_finished_run_whose_images_are_gone_is_not_touched_again(
    zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = again(zoo, tmp_path / "run")
    monkeypatch.setattr(recovery_stage, "recover_zoo", pytest.fail)
    times = {path: path.stat().st_mtime_ns for path in run.path.rglob("*") if path.is_file()}
    assert again(zoo, run.path).finished
    now = {path: path.stat().st_mtime_ns for path in run.path.rglob("*") if path.is_file()}
    assert {path: now[path] for path in times if not path.name.startswith(".lock")} == {
        path: time for path, time in times.items() if not path.name.startswith(".lock")
    }
    assert run.meta_model.networks[0].network.feature_size == 4


def test_whoever_needs_discarded_images_is_told_so(zoo: Zoo, tmp_path: Path) -> None:
    run = again(zoo, tmp_path / "run")
    last = zoo.contracts[-1].name
    with pytest.raises(
        UsageError, match=f"the images of '{last}' in .* were deleted after the run, as its contract asks"
    ):
        Bank.open(run.path / "bank").images_of(last)
    Manifest(run.path).discard("meta-model/bundle.json")  # as if it had been killed before its last commit
    with pytest.raises(UsageError, match="make another run for what needs them"):
        again(zoo, run.path)


@pytest.mark.parametrize("stop", ["learning", "finished", "discarding"])
def test_a_run_that_was_stopped_ends_bit_equal(
    zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: str
) -> None:
    whole = again(zoo, tmp_path / "whole")

    def stopping(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    owner, function = {
        "learning": (GroupLearner, "step"),
        "finished": (RunFolder, "drop_checkpoints"),
        "discarding": (Bank, "discard"),
    }[stop]
    with monkeypatch.context() as patch:
        patch.setattr(owner, function, stopping)
        with pytest.raises(KeyboardInterrupt):
            again(zoo, tmp_path / "run")
    assert stored(tmp_path / "run") == {contract.name for contract in zoo}
    assert Run.open(tmp_path / "run").finished == (stop != "learning")
    assert content(again(zoo, tmp_path / "run").path) == content(whole.path)


def test_a_contract_that_is_changed_later_is_obeyed_by_the_next_call(
    template: Zoo, open_run: Run, tmp_path: Path
) -> None:
    run = shutil.copytree(open_run.path, tmp_path / "run")
    zoo = Zoo.open(shutil.copytree(template.folder, tmp_path / "zoo"))
    names = [contract.name for contract in zoo]
    zoo.permit([names[0]], "discard")
    zoo.permit([names[1]], "keep")
    again(zoo, run)
    assert sheets(run) == names[2:]
    assert stored(run) == set(names[1:])
    Manifest(run).verify()


def test_a_sheet_that_a_kill_left_uncommitted_is_deleted_too(zoo: Zoo, tmp_path: Path) -> None:
    run = again(zoo, tmp_path / "run")
    (run.path / "recovered" / f"{zoo.contracts[2].name}.png").write_bytes(b"x")
    again(zoo, run.path)
    assert sheets(run.path) == [contract.name for contract in zoo][:2]


def test_no_images_are_shown_where_none_are_wanted(
    template: Zoo, open_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopping(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(recovery_stage, "health_rows", stopping)
        with pytest.raises(KeyboardInterrupt):
            again(template, tmp_path, images=False)
    run = again(template, tmp_path)  # it is recorded
    assert run.description["images"] is False
    assert sheets(tmp_path) == []
    assert stored(tmp_path) == {contract.name for contract in template}
    assert weights(tmp_path) == weights(open_run.path)
    card = (tmp_path / "meta-model" / "README.md").read_text()
    assert "Those of 4 models are kept in the run folder (`bank`) and shown nowhere. No image lies beside" in card
    assert not list(tmp_path.rglob("*.png"))
    assert again(template, tmp_path, images=False).finished


def test_a_run_that_was_begun_with_images_says_how_to_forbid_them(template: Zoo, open_run: Run) -> None:
    before = content(open_run.path)
    with pytest.raises(
        RunError, match=r"was begun without --no-images; omit --no-images and .*`metazoo zoo set .*keep`"
    ):
        again(template, open_run.path, images=False)
    assert content(open_run.path) == before
