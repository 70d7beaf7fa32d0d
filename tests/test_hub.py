"""Bundles that are pushed come back bit-equal, and nothing else is uploaded."""

import builtins
import hashlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from error_checks import raises
from hub_server import READER, TOKEN, HubServer, Repository, serve_hub
from huggingface_hub import ModelCard, constants
from image_folders import write_images
from safetensors.torch import load_file, save_file
from training_helpers import OPTIONS, SIDE, coloured_images, content, untrained

from metazoo import push_bundle
from metazoo.adapt import FewShotClassifier, MetaModel
from metazoo.cli.feature_source import open_source
from metazoo.cli.main import main
from metazoo.errors import ArtefactError, MetazooError, RunError, UsageError
from metazoo.evaluate import evaluate, find_contamination
from metazoo.models import ClassifierSpec, build_classifier
from metazoo.runs.train import train
from metazoo.storage.artefacts import read_json, write_json
from metazoo.zoo import Zoo
from metazoo.zoo.contract import Provenance

# The library of the hub uploads large files in a way that the library below it deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
FILES = ["bundle.json", "README.md", "model.safetensors"]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    with serve_hub(tmp_path) as hub:
        yield hub


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with recovered images, `run`, and a classifier made of it, `classifier`."""
    folder = tmp_path_factory.mktemp("first")
    zoo = untrained(folder / "zoo")
    run = train(zoo, "tgr", out=folder / "run", config=OPTIONS, workers=1)
    images = coloured_images(2, SIDE)
    run.meta_model.adapt(images.images, images.labels, images.class_names).save(folder / "classifier")
    return folder


@pytest.fixture
def run(first: Path, tmp_path: Path) -> Path:
    return shutil.copytree(first / "run", tmp_path / "run")


@pytest.fixture
def classifier(first: Path, tmp_path: Path) -> Path:
    return shutil.copytree(first / "classifier", tmp_path / "classifier")


def licensed(folder: Path, *licences: str | None) -> Path:
    """A run of the ensemble of models with these licences."""
    zoo = Zoo.create(folder / "licensed")
    for number, licence in enumerate(licences):
        spec = ClassifierSpec(
            architecture="conv4",
            arguments={"width": 4},
            classes=3,
            input_size=SIDE,
            mean=(0.5,) * 3,
            std=(0.25,) * 3,
        )
        provenance = Provenance(source="hf:a/b", source_sha256="0" * 64, revision="1" * 40, licence=licence)
        zoo.store(f"m{number}", build_classifier(spec), class_names=tuple("abc"), domain="d", provenance=provenance)
    train(zoo, "zoo-ensemble", out=folder / "ensemble", workers=1)
    return folder / "ensemble"


def test_a_pushed_run_comes_back_bit_equal(hub: HubServer, run: Path, tmp_path: Path) -> None:
    before = content(run)
    pushed = push_bundle(run, "owner/meta")
    assert content(run) == before
    repository = hub.repositories["owner/meta"]
    assert not repository.private
    local = {file: (run / "meta-model" / file).read_bytes() for file in FILES}
    assert repository.files() == local | {".gitattributes": b"*.safetensors filter=lfs"}
    assert pushed.origin == f"hf:owner/meta@{repository.branches['main']}"
    assert [file.name for file in pushed.files] == FILES
    assert all(hashlib.sha256(local[file.name]).hexdigest() == file.sha256 for file in pushed.files)
    assert "PUT /lfs/" in " ".join(hub.requests)
    assert "token sent to the store" not in hub.requests
    loaded = MetaModel.from_pretrained(str(pushed.origin))
    loaded.save(tmp_path / "again")
    assert content(tmp_path / "again") == content(run / "meta-model")


def test_a_pushed_classifier_comes_back_and_replaces_only_a_bundle(
    hub: HubServer, classifier: Path, first: Path
) -> None:
    pushed = push_bundle(classifier, "owner/c", private=True)
    assert hub.repositories["owner/c"].private
    assert push_bundle(classifier, "owner/c").origin == pushed.origin  # nothing has changed
    images = coloured_images(2, SIDE).images
    came, went = FewShotClassifier.from_pretrained("hf:owner/c"), FewShotClassifier.load(classifier)
    assert came.predict(images).probabilities.equal(went.predict(images).probabilities)
    assert push_bundle(first / "run", "owner/c").origin != pushed.origin
    assert MetaModel.from_pretrained("hf:owner/c").method == "tgr"


def test_branches(hub: HubServer, classifier: Path, first: Path) -> None:
    push_bundle(classifier, "owner/c", revision="first/try")
    assert set(hub.repositories["owner/c"].files()) == {".gitattributes"}
    assert FewShotClassifier.from_pretrained("hf:owner/c@first/try")
    push_bundle(classifier, "owner/c", revision="first/try")
    for impossible in ("a b", "..", "0" * 40):
        with pytest.raises(UsageError):
            push_bundle(classifier, "owner/c", revision=impossible)


def test_a_dry_run_makes_no_connection_and_needs_no_library(
    hub: HubServer, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = builtins.__import__

    def refused(name: str, *arguments: Any, **keywords: Any) -> Any:
        if name.partition(".")[0] == "huggingface_hub":
            raise ImportError(name)
        return original(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", refused)
    monkeypatch.setattr("importlib.import_module", lambda name: refused(name))
    monkeypatch.setenv("COLUMNS", "200")
    (run / "meta-model" / ".DS_Store").touch()
    pushed = push_bundle(run, "owner/meta", dry_run=True)
    assert (pushed.repository, pushed.origin) == ("owner/meta", None)
    assert {"bank", "recovered"} <= {name for name, why in pushed.left_out.items() if "recovered images" in why}
    assert pushed.left_out["meta-model/.DS_Store"] == "hidden"
    assert set(pushed.left_out) == {path.name for path in run.iterdir()} - {"meta-model"} | {"meta-model/.DS_Store"}
    assert hub.requests == []
    monkeypatch.undo()
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["push", str(run), "owner/meta", "--dry-run"]) == 0
    out, err = capsys.readouterr()
    for file in pushed.files:
        assert file.sha256 in out
        assert f"{file.size:,}" in out
    assert "not uploaded: bank (recovered images)" in out
    assert "owner/meta: nothing was uploaded" in out
    assert "no licence is known of 3 source models: model-0, model-1, model-2" in err
    assert "may not be shown (model-2)" in err


def test_the_extra_is_named(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with raises(UsageError, subject="huggingface_hub", remedy='pip install "metazoo[hub]"'):
        push_bundle(run, "owner/meta")
    with raises(UsageError, subject="huggingface_hub", remedy='pip install "metazoo[hub]"'):
        MetaModel.from_pretrained("hf:owner/meta")


def add(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(b"x")


def replace_by_link(folder: Path) -> None:
    (folder / "README.md").rename(folder.parent / "elsewhere.md")
    (folder / "README.md").symlink_to(folder.parent / "elsewhere.md")


def add_metadata(folder: Path) -> None:
    save_file(load_file(folder / "model.safetensors"), folder / "model.safetensors", {"image": "x"})
    sha256 = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    write_json(folder / "bundle.json", read_json(folder / "bundle.json") | {"weights_sha256": sha256})


def append(text: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / "README.md").write_bytes((folder / "README.md").read_bytes() + text)


UNSHARED: dict[str, tuple[Callable[[Path], object], type[MetazooError], str]] = {
    "image": (add("recovered.png"), UsageError, "holds recovered.png"),
    "folder": (lambda folder: (folder / "support").mkdir(), UsageError, "holds support"),
    "link": (replace_by_link, UsageError, "is a link"),
    "image in the card": (append(b"![](data:image/png;base64,AAAA)"), UsageError, "holds an image"),
    "other text": (append(b"\xff"), ArtefactError, "UTF-8"),
    "metadata": (add_metadata, UsageError, "metadata"),
    "changed": (lambda folder: (folder / "model.safetensors").write_bytes(b"x"), ArtefactError, "SHA-256"),
    "no card": (lambda folder: (folder / "README.md").unlink(), ArtefactError, "is missing"),
    "no description": (lambda folder: (folder / "bundle.json").unlink(), UsageError, "holds no bundle"),
}


@pytest.mark.parametrize("case", UNSHARED)
def test_nothing_but_a_sound_bundle_is_shared(hub: HubServer, classifier: Path, case: str) -> None:
    change, error, problem = UNSHARED[case]
    change(classifier)
    with raises(error, subject=str(classifier), problem=problem):
        push_bundle(classifier, "owner/c")
    assert hub.requests == []


def test_an_unfinished_run_and_other_folders_are_refused(run: Path, first: Path, tmp_path: Path) -> None:
    manifest = read_json(run / "manifest.json")
    files = {name: entry for name, entry in manifest["files"].items() if "meta-model" not in name}
    write_json(run / "manifest.json", manifest | {"files": files})
    with raises(RunError, subject=str(run), problem="not finished"):
        push_bundle(run, "owner/meta", dry_run=True)
    for folder in (first / "zoo", tmp_path / "absent", tmp_path):
        with raises(UsageError, subject=str(folder), problem="holds no bundle"):
            push_bundle(folder, "owner/meta", dry_run=True)
    for name in ("meta", "owner/", "owner/a b", "owner/a@b", "a/b/c", "own--er/a"):
        with raises(UsageError, problem="not a repository"):
            push_bundle(first / "run", name, dry_run=True)


def test_licences(tmp_path: Path) -> None:
    run = licensed(tmp_path / "a", "mit", "mit")
    assert ModelCard.load(run / "meta-model" / "README.md").data.get("license") == "mit"
    assert push_bundle(run, "owner/e", dry_run=True).notes == ("README.md names the source models and their domains",)
    card = (run / "meta-model" / "README.md").read_text()
    assert "| m0 | conv4 | hf:a/b@111111111111 | mit | d |" in card
    run = licensed(tmp_path / "b", "mit", "cc-by-4.0", None)
    assert ModelCard.load(run / "meta-model" / "README.md").data.get("license") == "other"
    notes = push_bundle(run, "owner/e", dry_run=True).notes
    assert "no licence is known of 1 source model: m2" in notes
    shutil.rmtree(tmp_path / "b" / "licensed")
    assert "no licence is known of some source models" in push_bundle(run, "owner/e", dry_run=True).notes
    run = licensed(tmp_path / "c", None)
    shutil.rmtree(tmp_path / "c" / "licensed")
    notes = push_bundle(run, "owner/e", dry_run=True).notes
    assert any("licences of the source models are not known here: the zoo" in note for note in notes)
    assert any("states no licence" in note for note in notes)


@pytest.mark.parametrize("licence", ["cc-by-nc-nd-4.0", "All rights  reserved", "Proprietary (Acme)"])
def test_a_licence_that_forbids_it_is_obeyed(hub: HubServer, tmp_path: Path, licence: str) -> None:
    run = licensed(tmp_path, "mit", licence)
    for folder in (run, run / "meta-model"):
        with raises(UsageError, subject="m1", problem=licence):
            push_bundle(folder, "owner/e")
    assert hub.requests == []


@pytest.mark.parametrize("from_zoo", [True, False])
def test_a_classifier_obeys_the_licences_of_its_source_models(tmp_path: Path, from_zoo: bool) -> None:
    images = coloured_images(2, SIDE)
    run = licensed(tmp_path, "mit", "cc-by-nd-4.0", None)
    if from_zoo:
        write_images(tmp_path / "support", classes=2, each=2)
        words = ["--support", str(tmp_path / "support"), "--out", str(tmp_path / "c")]
        assert main(["adapt", str(tmp_path / "licensed"), *words]) == 0
    else:
        shutil.move(run / "meta-model", tmp_path / "moved")
        meta_model = MetaModel.load(tmp_path / "moved")
        meta_model.adapt(images.images, images.labels, images.class_names).save(tmp_path / "c")
        with raises(UsageError, subject="README.md", problem="cc-by-nd-4.0"):
            push_bundle(tmp_path / "moved", "owner/e", dry_run=True)
    classifier = FewShotClassifier.load(tmp_path / "c")
    assert classifier.description.licences == ("cc-by-nd-4.0", "mit", "unknown")
    with raises(UsageError, subject="README.md", problem="cc-by-nd-4.0"):
        push_bundle(tmp_path / "c", "owner/c", dry_run=True)


def test_results_are_shown_in_the_uploaded_card(hub: HubServer, run: Path, first: Path, tmp_path: Path) -> None:
    images = coloured_images(4, SIDE)
    subject = open_source(str(run)).subject()
    contamination = find_contamination(images.class_names, {"m": ("colour 1",)})
    words: dict[str, Any] = {"ways": 2, "shots": (1, 5), "queries": 2, "episodes": 4, "contamination": contamination}
    rows = evaluate([subject], images, out=tmp_path / "r.json", **words)
    before = content(run)
    push_bundle(run, "owner/meta", results=[tmp_path / "r.json"])
    assert content(run) == before
    text = hub.repositories["owner/meta"].files()["README.md"].decode()
    data: Any = ModelCard(text).data
    found = data.eval_results
    assert [(own.task_name, own.dataset_name, own.metric_type, own.metric_value) for own in found] == [
        (f"2-way {row.shots}-shot classification", "colours", "accuracy", round(row.accuracy, 2)) for row in rows
    ]
    assert f"| {rows[0].accuracy:.1f} ± {rows[0].interval:.1f} |" in text
    assert "Contamination: 1 of 4 classes of colours have the name" in text
    assert "accuracy of this meta-model is unknown" not in text
    local = (run / "meta-model" / "README.md").read_text()
    for section in ("Use", "Properties", "Limits", "Source models", "Privacy", "Configuration"):
        part = local.partition(f"## {section}\n")[2].partition("\n## ")[0]
        assert part
        assert part in text
    assert MetaModel.from_pretrained("hf:owner/meta").card == text
    with raises(UsageError, subject="r.json", problem="no result of this meta-model"):
        push_bundle(first / "classifier", "owner/c", results=[tmp_path / "r.json"])


def test_a_repository_of_something_else_is_not_overwritten(hub: HubServer, classifier: Path) -> None:
    descriptions = (b'{"format": "mlflow"}', b"[]", b"{", b"\xff")
    for file, text in (("config.json", b"{}"), *(("bundle.json", text) for text in descriptions)):
        other = hub.repositories["owner/vit"] = Repository()
        other.commit({file: text, "model.safetensors": b"vit", "README.md": b"# vit"})
        for revision in (None, "branch"):
            with raises(UsageError, subject="hf:owner/vit", problem=f"holds {file}", remedy="another name"):
                push_bundle(classifier, "owner/vit", revision=revision)
        assert len(other.commits) == len(other.branches) == 1
    fresh = hub.repositories["owner/fresh"] = Repository()
    fresh.commit({"README.md": b"---\nlicense: mit\n---\n", "LICENSE": b"MIT"})
    push_bundle(classifier, "owner/fresh")
    assert fresh.files()["LICENSE"] == b"MIT"


def test_private_never_means_public(hub: HubServer, classifier: Path) -> None:
    push_bundle(classifier, "owner/c")
    commits = len(hub.repositories["owner/c"].commits)
    with raises(UsageError, subject="hf:owner/c", problem="is public"):
        push_bundle(classifier, "owner/c", private=True)
    assert len(hub.repositories["owner/c"].commits) == commits


def test_a_hub_that_makes_it_public_gets_no_file(hub: HubServer, classifier: Path) -> None:
    hub.knows_private = False
    with raises(UsageError, subject="hf:owner/c", problem="is public"):
        push_bundle(classifier, "owner/c", private=True)
    assert set(hub.repositories["owner/c"].files()) == {".gitattributes"}


def test_an_upload_is_complete_or_absent(hub: HubServer, classifier: Path) -> None:
    hub.is_full = True
    with raises(UsageError, subject="hf:owner/c", problem="the hub refuses the request"):
        push_bundle(classifier, "owner/c")
    assert set(hub.repositories["owner/c"].files()) == {".gitattributes"}
    hub.is_full = False
    hub.repositories["owner/c"].commit({".gitignore": b"README.md"})
    with raises(UsageError, subject="hf:owner/c", problem="left out README.md", remedy=".gitignore"):
        push_bundle(classifier, "owner/c")


@pytest.mark.parametrize(("token", "problem"), [("hf_wrongwrongwrong", "token"), (READER, "token"), ("", "token")])
def test_a_token_that_may_not_write_is_named_but_not_shown(
    hub: HubServer, classifier: Path, token: str, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    hub.message = "the token TOKEN is unknown"
    for name in ("owner/new", "owner/c"):
        with raises(UsageError, subject=f"hf:{name}", problem=problem, remedy="HF_TOKEN") as caught:
            push_bundle(classifier, name)
        assert TOKEN not in str(caught.value)
        assert not token or token not in f"{caught.value}{caught.value.__cause__}"
        hub.repositories["owner/c"] = Repository()
        hub.repositories["owner/c"].commit({})
    assert hub.stored == {}


def test_without_a_connection_nothing_is_pushed(
    hub: HubServer, classifier: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with raises(UsageError, subject="hf:owner/c", problem="cannot be reached", remedy="HF_HUB_OFFLINE"):
        push_bundle(classifier, "owner/c")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with raises(UsageError, subject="hf:owner/c", problem="cannot be reached"):
        push_bundle(classifier, "owner/c")


def test_the_command_line_takes_repositories(
    hub: HubServer, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "support", classes=2, each=2)
    write_images(tmp_path / "unseen", classes=3, each=4, first=5)
    assert main(["push", "run", "owner/meta", "--private"]) == 0
    origin = f"hf:owner/meta@{hub.repositories['owner/meta'].branches['main']}"
    assert f"{origin}: uploaded" in capsys.readouterr().out
    assert main(["adapt", "hf:owner/meta", "--support", "support", "--out", "made"]) == 0
    assert f"hf:owner/meta is commit {origin[-40:]}" in capsys.readouterr().err
    assert FewShotClassifier.load("made").description.source == origin
    assert ModelCard.load(Path("made") / "README.md").data.get("base_model") == "owner/meta"
    assert main(["push", "made", "owner/c"]) == 0
    assert main(["predict", "hf:owner/c@main", "support", "--format", "csv"]) == 0
    assert main(["predict", "made", "support", "--format", "csv"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("support")]
    assert len(lines) == 8
    assert lines[:4] == lines[4:]
    protocol = ["--ways", "2", "--shots", "1", "--queries", "1", "--episodes", "2"]
    assert main(["evaluate", "hf:owner/meta", "--data", "unseen", *protocol]) == 0
    for command in (["predict", "hf:owner/meta", "support"], ["export", "hf:owner/meta", "model.onnx"]):
        capsys.readouterr()
        assert main(command) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("metazoo: hf:owner/meta: is a meta-model, not a classifier")


def test_the_front_matter_is_what_the_hub_reads(first: Path) -> None:
    for folder in (first / "run" / "meta-model", first / "classifier"):
        card = ModelCard.load(folder / "README.md")
        front = yaml.safe_load(card.content.split("---\n")[1])
        assert front == card.data.to_dict()
        assert (front["library_name"], front["pipeline_tag"]) == ("metazoo", "image-classification")
        assert {"few-shot-learning", "meta-learning"} <= set(front["tags"])
        assert "license" not in front  # none is known
        assert "model-index" not in front  # nothing was measured
