import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from error_checks import raises
from training_helpers import OPTIONS, SIDE, build, coloured_images, content

from metazoo.adapt import FewShotClassifier, MetaModel
from metazoo.errors import ArtefactError, Interrupted, RunError, UsageError
from metazoo.learn.group_learning import GroupLearner
from metazoo.methods.tgr import TaskGroupingsRegularization
from metazoo.pipeline import audit_stage, embedding_stage, learning_stage, recovery_stage
from metazoo.recover import RecoveryConfig
from metazoo.runs.record import Run
from metazoo.runs.train import train
from metazoo.storage.lock import exclusive
from metazoo.storage.manifest import Manifest
from metazoo.storage.run_folder import RunFolder
from metazoo.zoo import Zoo


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return build(tmp_path_factory.mktemp("training") / "zoo")


@pytest.fixture(scope="module")
def whole(zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that nothing interrupted; not to be changed."""
    return train(zoo, out=tmp_path_factory.mktemp("whole") / "run", config=OPTIONS, workers=1)


@pytest.fixture
def copied(whole: Run, tmp_path: Path) -> Path:
    return shutil.copytree(whole.path, tmp_path / "run")


def again(zoo: Zoo | Path, out: Path, **values: Any) -> Run:
    return train(zoo, out=out, config=OPTIONS, workers=1, resume=True, **values)


def changed(section: str, **values: Any) -> dict[str, Any]:
    return {**OPTIONS, section: {**OPTIONS[section], **values}}


def as_interrupted(folder: Path, *forgotten: str) -> None:
    """The folder of a run that was killed before it committed these files and the meta-model."""
    Manifest(folder).discard("meta-model/bundle.json", *forgotten)


def test_a_run_holds_everything_it_made_with_its_hash(whole: Run, zoo: Zoo) -> None:
    assert whole.finished
    names = [contract.name for contract in zoo]
    expected = {"config.yaml", "run.json", "recovery.json", "metrics.jsonl", "manifest.json"}
    expected |= {f"recovered/{name}.png" for name in names}
    taskspace = ("fisher.safetensors", "distance.safetensors", "groups.json", "trust.json", "skill.safetensors")
    expected |= {f"taskspace/{name}" for name in taskspace}
    expected |= {f"meta-model/{name}" for name in ("model.safetensors", "bundle.json", "README.md")}
    held = set(content(whole.path))
    assert {name for name in held if not name.startswith("bank/")} == expected
    manifest = Manifest(whole.path)
    assert manifest.files.keys() == expected - {"manifest.json"}
    manifest.verify()


def test_a_finished_run_of_version_0_1_is_finished(whole: Run, zoo: Zoo, copied: Path) -> None:
    folder = copied
    bundle, manifest = json.loads((folder / "meta-model" / "bundle.json").read_text()), Manifest(folder)
    manifest.discard("meta-model/bundle.json", "meta-model/README.md")
    (folder / "meta-model" / "bundle.json").unlink()
    (folder / "meta-model" / "README.md").rename(folder / "meta-model" / "card.md")
    former = {name: bundle[name] for name in ("method", "seed", "weights_sha256")}
    former |= {"format": "metazoo-meta-model", "format_version": 1, "setting": "default", "spec": bundle["networks"][0]}
    (folder / "meta-model" / "meta-model.json").write_text(json.dumps(former))
    manifest.add("meta-model/meta-model.json", "meta-model/card.md")
    before = content(folder)
    run = again(zoo, folder)
    assert run.finished
    assert content(folder) == before
    assert run.meta_model.card == whole.meta_model.card
    state = whole.meta_model.module.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in run.meta_model.module.state_dict().items())


def test_a_run_describes_itself(whole: Run, zoo: Zoo) -> None:
    opened = Run.open(whole.path)
    assert opened.description == whole.description
    assert opened.description["zoo"] == {"path": str(zoo.folder), "sha256": zoo.sha256, "models": 4}
    assert opened.description["threads"] == 1
    record = opened.config.as_record()
    assert all(record[section][key] == value for section, values in OPTIONS.items() for key, value in values.items())
    rows = opened.metrics()
    assert [(row["stage"], row["step"]) for row in rows] == [("trust", 1), ("grouping", 1), ("learning", 7)]
    assert len(rows[0]["scores"]) == sum(rows[1]["sizes"]) == 4
    assert rows[2]["loss"] > 0


def test_the_meta_model_adapts_to_new_classes(whole: Run, tmp_path: Path) -> None:
    new = coloured_images(3, SIDE)
    for meta_model in (whole.meta_model, MetaModel.load(whole.path / "meta-model")):
        assert (meta_model.method, meta_model.preset, meta_model.seed) == ("tgr", "default", 0)
        assert not meta_model.networks[0].training
        classifier = meta_model.adapt(new.images[::2], new.labels[::2], new.class_names)
        assert isinstance(classifier, FewShotClassifier)
        right = classifier.predict(new.images[1::2]).labels == new.labels[1::2]
        assert float(right.double().mean()) > 0.6  # flat colours are easy
    state = whole.meta_model.networks[0].network.state_dict()
    assert all(bool(value.isfinite().all()) for value in state.values())
    variances = [value for name, value in state.items() if name.endswith("running_var")]
    assert not any(torch.equal(value, torch.ones_like(value)) for value in variances)  # as they were before learning


def test_the_seed_settles_the_meta_model(zoo: Zoo, whole: Run, tmp_path: Path) -> None:
    same = train(zoo.folder, out=tmp_path / "same", config=OPTIONS, workers=1)
    assert content(same.path) == content(whole.path)
    other = train(zoo, out=tmp_path / "other", config=OPTIONS, workers=1, seed=1)
    weights = [run.meta_model.networks[0].network.state_dict()["blocks.0.0.weight"] for run in (whole, other)]
    assert not torch.equal(*weights)


@pytest.mark.parametrize(("models", "groups"), [(1, [1]), (2, [2]), (3, [3])])
def test_a_zoo_may_have_fewer_models_than_groups_or_than_a_step_wants(
    zoo: Zoo, tmp_path: Path, models: int, groups: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    small = Zoo(zoo.folder, zoo.contracts[-models:])
    config = {**changed("learning", teachers_per_step=5, steps=2), "grouping": {"groups": 5}}
    run = train(small, out=tmp_path / "run", config=config, workers=1, progress=True)
    assert [len(members) for members in RunFolder(run.path).read_json("taskspace/groups.json")["groups"]] == groups
    assert run.meta_model.networks[0].network.feature_size == 4
    shown = capsys.readouterr().err
    assert all(f"{stage}: " in shown for stage in ("recovering", "task space", "learning"))


def test_a_finished_run_is_not_touched_again(
    zoo: Zoo, whole: Run, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TaskGroupingsRegularization, "train", pytest.fail)
    times = {path: path.stat().st_mtime_ns for path in copied.rglob("*") if path.is_file()}
    start = time.process_time()
    assert again(zoo, copied).finished
    assert time.process_time() - start < 1
    assert content(copied) == content(whole.path)
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_a_run_goes_on_after_an_option_was_added_that_does_what_was_done_before(
    zoo: Zoo, whole: Run, copied: Path
) -> None:
    folder = RunFolder(copied)
    stored = yaml.safe_load(folder.read_text("config.yaml"))
    assert stored["learning"].pop("mix") is True
    folder.write_text("config.yaml", yaml.safe_dump(stored))
    as_interrupted(copied)
    with pytest.raises(RunError, match=r"was begun with another learning\.mix"):
        train(zoo, out=copied, resume=True, config=changed("learning", mix=False))
    assert again(zoo, copied).finished
    weights = Path("meta-model", "model.safetensors")
    assert (copied / weights).read_bytes() == (whole.path / weights).read_bytes()
    stored["learning"]["mixture"] = 3
    folder.write_text("config.yaml", yaml.safe_dump(stored))
    with pytest.raises(RunError, match=r"begun by metazoo .*unknown option learning\.'?mixture.*with that version"):
        again(zoo, copied)


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ({"seed": 1}, "another seed"),
        ({"config": changed("learning", steps=8)}, r"another learning\.steps"),
        ({"config": {**OPTIONS, "learning": {}}}, r"another learning\.steps"),
        ({"config": changed("grouping", strategy="random")}, r"another grouping\.strategy"),
    ],
)
def test_a_run_goes_on_with_its_own_options_only(
    zoo: Zoo, whole: Run, copied: Path, values: dict[str, Any], what: str
) -> None:
    for finished in (True, False):
        with pytest.raises(RunError, match=f"was begun with {what}"):
            train(zoo, out=copied, resume=True, **{"config": OPTIONS, **values})
        if finished:
            as_interrupted(copied)
    assert content(copied).keys() == content(whole.path).keys()


def test_a_run_goes_on_with_its_own_zoo_only(zoo: Zoo, copied: Path) -> None:
    for other in (Zoo(zoo.folder, zoo.contracts[1:]), Zoo(zoo.folder, [])):
        with pytest.raises((RunError, UsageError), match=r"with another zoo|holds no model"):
            again(other, copied)


def test_a_run_is_not_begun_anew_by_mistake(zoo: Zoo, whole: Run, copied: Path) -> None:
    with pytest.raises(UsageError, match=r"holds a run already; .*--resume"):
        train(zoo, out=copied, config=OPTIONS)
    assert content(copied) == content(whole.path)


@pytest.mark.parametrize(
    "foreign",
    [
        {"photo.jpg": "x"},
        {"config.yaml": "mine: true\n"},
        {"config.yaml": "mine: true\n", "notes.txt": "x"},
        {"run.json": "{}"},
        {"config.yaml": "mine: true\n", "run.json": "{}"},
        {"run.json": "{}", "notes.txt": "x"},
        {"manifest.json": '{"name": "an app"}'},
    ],
)
@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_of_other_things_is_left_alone(
    zoo: Zoo, tmp_path: Path, foreign: dict[str, str], resume: bool
) -> None:
    for name, text in foreign.items():
        (tmp_path / name).write_text(text)
    before = content(tmp_path)
    with pytest.raises(UsageError, match=r"choose (a new or empty|another) folder"):
        train(zoo, out=tmp_path, config=OPTIONS, resume=resume)
    assert content(tmp_path) == before


def test_a_file_or_an_impossible_folder_is_refused(zoo: Zoo, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="file cannot be a run folder: Not a directory"):
        train(zoo, out=tmp_path / "file", config=OPTIONS)
    with pytest.raises((RunError, UsageError, ArtefactError), match="file"):
        train(zoo, out=tmp_path / "file" / "run", config=OPTIONS)


def test_a_run_in_use_is_refused(zoo: Zoo, whole: Run, copied: Path) -> None:
    as_interrupted(copied)
    before = content(copied)
    with exclusive(copied), pytest.raises(RunError, match="is in use by this process"):
        again(zoo, copied)
    assert content(copied) == before


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"workers": 0}, "workers: must be 1 or more, not 0"),
        ({"threads": 0}, "threads: must be 1 or more, not 0"),
        ({"threads": -1}, "threads: must be 1 or more, not -1"),
        ({"method": "maml"}, "unknown method 'maml'"),
        ({"config": {"learning": {"step": 1}}}, r"unknown option learning\.step"),
        ({"config": {"meta_model": {"architecture": "vgg"}}}, r"meta_model\.architecture"),
        ({"config": "missing.yaml"}, r"missing\.yaml: does not exist"),
    ],
)
def test_wrong_use_is_noticed_before_anything_is_made(
    zoo: Zoo, tmp_path: Path, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        train(zoo, out=tmp_path / "run", **values)
    assert not (tmp_path / "run").exists()


def test_a_zoo_without_models_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no model; add some"):
        train(Zoo.create(tmp_path / "zoo"), out=tmp_path / "run")
    with pytest.raises(UsageError, match="nowhere"):
        train(tmp_path / "nowhere", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_meta_model_learns_in_full_float32(zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, step = [], GroupLearner.step

    def watched(learner: GroupLearner) -> Any:
        seen.append(torch.backends.cudnn.conv.fp32_precision)  # pyright: ignore[reportAttributeAccessIssue]
        return step(learner)

    monkeypatch.setattr(GroupLearner, "step", watched)
    train(zoo, out=tmp_path / "run", config=OPTIONS, workers=1)
    assert seen == ["ieee"] * OPTIONS["learning"]["steps"]


def test_threads_are_those_that_the_run_began_with(zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def observed(*_: object) -> None:
        seen.append(torch.get_num_threads())
        raise Interrupted("enough")

    monkeypatch.setattr(TaskGroupingsRegularization, "train", observed)
    before = torch.get_num_threads()
    for threads in (3, 2, None):
        with pytest.raises(Interrupted):
            again(zoo, tmp_path, threads=threads)
    assert seen == [3, 3, 3]
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("name", ["config.yaml", "run.json", "taskspace/fisher.safetensors", "taskspace/groups.json"])
@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_a_damaged_file_stops_the_resumed_run(zoo: Zoo, copied: Path, name: str, damage: str) -> None:
    as_interrupted(copied, *(["taskspace/groups.json"] if name.endswith("fisher.safetensors") else []))
    if damage == "missing":
        (copied / name).unlink()
    else:
        data = bytearray((copied / name).read_bytes())
        data[-2] ^= 1
        (copied / name).write_bytes(data)
    refusal = UsageError if (name, damage) == ("run.json", "missing") else ArtefactError
    with pytest.raises(refusal, match=name.rpartition("/")[2] if refusal is ArtefactError else "is not a run"):
        again(zoo, copied)


def test_a_damaged_bank_stops_the_resumed_run(zoo: Zoo, copied: Path) -> None:
    as_interrupted(copied)
    shard = next((copied / "bank").rglob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"\x00\x00")
    with pytest.raises(ArtefactError, match=shard.name):
        again(zoo, copied)


def test_what_is_not_finished_or_damaged_has_no_meta_model(copied: Path) -> None:
    weights = copied / "meta-model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(ArtefactError, match=weights.name):
        _ = Run.open(copied).meta_model
    as_interrupted(copied)
    run = Run.open(copied)
    assert not run.finished
    with raises(RunError, problem="has not finished", remedy="--resume"):
        _ = run.meta_model


def test_only_a_run_folder_can_be_opened(tmp_path: Path, copied: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with raises(UsageError, problem="is not a run folder, without run.json"):
            Run.open(folder)
    (copied / "run.json").write_text("{}")
    with pytest.raises(ArtefactError, match=r"run\.json: has changed"):
        Run.open(copied)


@pytest.mark.parametrize(
    ("owner", "function", "calls"),
    [(recovery_stage, "recover_zoo", 0), (audit_stage, "partners_of", 0), (embedding_stage, "train_probe", 0),
     (embedding_stage, "dissimilarity_matrix", 0), (GroupLearner, "step", 5), (GroupLearner, "calibrate", 0)],
)  # fmt: skip
def test_a_stop_is_answered_where_the_run_can_go_on(
    zoo: Zoo, whole: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, function: str, calls: int
) -> None:
    real: Callable[..., Any] = getattr(owner, function)
    left = calls

    def asked_to_stop(*arguments: Any, **keywords: Any) -> Any:
        nonlocal left
        if left == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        left -= 1
        return real(*arguments, **keywords)

    monkeypatch.setattr(learning_stage, "_STEPS_BETWEEN_CHECKPOINTS", 3)
    with monkeypatch.context() as patch:
        patch.setattr(owner, function, asked_to_stop)
        with pytest.raises(Interrupted, match="finished work is kept; continue with --resume") as caught:
            again(zoo, tmp_path)
    assert caught.value.exit_code == 143
    assert again(zoo, tmp_path).finished
    assert content(tmp_path) == content(whole.path)


def test_what_is_finished_is_not_done_again(zoo: Zoo, copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []
    real = GroupLearner.step

    def stopping(learner: GroupLearner) -> object:
        steps.append(learner.steps_done)
        if len(steps) == 6:
            raise KeyboardInterrupt
        return real(learner)

    as_interrupted(copied)
    monkeypatch.setattr(learning_stage, "_STEPS_BETWEEN_CHECKPOINTS", 3)
    monkeypatch.setattr(GroupLearner, "step", stopping)
    for owner, function in (
        (recovery_stage, "health_rows"),
        (recovery_stage, "contact_sheet"),
        (embedding_stage, "train_probe"),
        (embedding_stage, "group"),
    ):
        monkeypatch.setattr(owner, function, pytest.fail)
    monkeypatch.setattr(audit_stage, "partners_of", pytest.fail)
    monkeypatch.setattr(RecoveryConfig, "inversions", pytest.fail)
    with pytest.raises(KeyboardInterrupt):
        again(zoo, copied)
    assert again(zoo, copied).finished
    assert steps == [0, 1, 2, 3, 4, 5, 3, 4, 5, 6]


@pytest.mark.slow
def test_two_workers_end_as_one(zoo: Zoo, whole: Run, tmp_path: Path) -> None:
    run = train(zoo, out=tmp_path, config=OPTIONS, workers=2)
    assert content(run.path) == content(whole.path)
