import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from adapt_helpers import LABELS, NAMES, edit_weights, made, network, pictures, predicted
from error_checks import raises
from hub_server import READER, TOKEN, HubServer, Repository, serve_hub
from huggingface_hub import ModelCard, constants, file_download

from metazoo.adapt import FewShotClassifier, MetaModel
from metazoo.adapt.estimator import MetazooClassifier
from metazoo.errors import ArtefactError, UsageError

FILES = {"bundle.json", "README.md", "model.safetensors"}
META = "hf:owner/meta"


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def hub(tmp_path: Path, meta_model: Path, saved: Path) -> Iterator[HubServer]:
    """Repositories owner/meta and owner/classifier, each beside a file that no bundle has."""
    with serve_hub(tmp_path) as hub:
        for name, folder in (("owner/meta", meta_model), ("owner/classifier", saved)):
            hub.repositories[name] = Repository()
            hub.repositories[name].commit(files_of(folder) | {"other.bin": b"no part of a bundle"})
        yield hub


def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def test_bundles_come_from_the_hub_as_they_are(
    hub: HubServer, meta_model: Path, saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = MetaModel.from_pretrained(META)
    commit = hub.repositories["owner/meta"].branches["main"]
    assert loaded.origin == f"hf:owner/meta@{commit}"
    assert capsys.readouterr().err.endswith(f"note: hf:owner/meta is commit {commit}\n")
    local = MetaModel.load(meta_model)
    assert (loaded.card, loaded.sha256) == (local.card, local.sha256)
    images = pictures(7)
    adapted = loaded.adapt(images, LABELS, NAMES)
    assert torch.equal(predicted(adapted), predicted(local.adapt(images, LABELS, NAMES)))
    assert adapted.description.source.endswith(f"seed 3, hf:owner/meta@{commit}")
    assert "token sent to the store" not in hub.requests
    assert set(hub.downloads()) == FILES
    classifier = FewShotClassifier.from_pretrained("hf:owner/classifier@main")
    assert torch.equal(predicted(classifier), predicted(FewShotClassifier.load(saved)))
    assert set(hub.downloads()) == FILES
    for source in (meta_model, str(meta_model)):
        assert MetaModel.from_pretrained(source).origin is None


def test_what_is_in_the_cache_is_not_downloaded_again(hub: HubServer, meta_model: Path) -> None:
    commit = MetaModel.from_pretrained(META).origin
    assert commit is not None
    assert hub.downloads()
    assert MetaModel.from_pretrained(META).origin == commit
    assert hub.downloads() == []
    MetaModel.from_pretrained(commit)
    assert hub.requests == []  # a commit in the cache needs no connection
    MetaModel(network(5), method="tgr", preset="default", seed=4).save(meta_model)
    hub.repositories["owner/meta"].commit(files_of(meta_model))
    assert MetaModel.from_pretrained(META).seed == 4
    assert MetaModel.from_pretrained(commit).seed == 3


def test_branches_are_revisions(hub: HubServer, meta_model: Path) -> None:
    MetaModel(network(5), method="tgr", preset="default", seed=4).save(meta_model)
    hub.repositories["owner/meta"].commit(files_of(meta_model), "new/one")
    assert MetaModel.from_pretrained(f"{META}@new/one").seed == 4
    with raises(UsageError, subject="hf:owner/meta", problem="no such revision on the hub"):
        MetaModel.from_pretrained(f"{META}@old")


@pytest.mark.parametrize("how", ["offline", "no server"])
def test_without_a_connection_the_cache_is_read(
    hub: HubServer, how: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pinned = MetaModel.from_pretrained(META).origin
    assert pinned is not None
    if how == "offline":
        offline(monkeypatch)
    else:
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    capsys.readouterr()
    for source in (META, pinned):
        assert MetaModel.from_pretrained(source).origin == pinned
    note = "from the cache, since the hub cannot be reached"
    assert capsys.readouterr().err == f"note: hf:owner/meta is commit {pinned.partition('@')[2]}, {note}\n"
    for absent in ("hf:owner/classifier", f"{META}@v2", f"{META}@{'0' * 40}"):
        with raises(UsageError, subject=absent, problem="not in the cache", remedy="HF_HUB_OFFLINE"):
            MetaModel.from_pretrained(absent)


def test_an_interrupted_download_is_continued_or_named(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)  # between the attempts of the library
    hub.cut = 1000
    with raises(UsageError, subject=META, problem="not in the cache"):
        MetaModel.from_pretrained(META)
    hub.cut = None
    pinned = MetaModel.from_pretrained(META).origin
    assert pinned is not None
    # A newer commit that cannot be downloaded leaves the former one for use without a connection.
    hub.repositories["owner/meta"].commit({"model.safetensors": b"other" * 1000})
    hub.cut = 10
    assert MetaModel.from_pretrained(META).origin == pinned
    offline(monkeypatch)
    assert MetaModel.from_pretrained(META).origin == pinned


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), RuntimeError("full (os error 28)")])
def test_a_file_that_cannot_be_stored_is_named_and_no_former_commit_taken(
    hub: HubServer, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    MetaModel.from_pretrained(META)
    hub.repositories["owner/meta"].commit({"model.safetensors": b"other" * 1000})

    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(file_download, "_download_to_tmp_and_move", refuse)
    with raises(UsageError, subject="hf:owner/meta", problem="cannot be stored in the cache", remedy="HF_HOME"):
        MetaModel.from_pretrained(META)


def test_a_full_disk_is_named_and_no_former_commit_taken(hub: HubServer) -> None:
    resource = pytest.importorskip("resource")
    MetaModel.from_pretrained(META)
    hub.repositories["owner/meta"].commit({"model.safetensors": b"other" * 2000})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9000, limits[1]))
    try:
        with raises(UsageError, subject="hf:owner/meta", problem="cannot be stored in the cache", remedy="HF_HOME"):
            MetaModel.from_pretrained(META)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_files_that_were_changed_are_refused(hub: HubServer, meta_model: Path, tmp_path: Path) -> None:
    repository = hub.repositories["owner/meta"]
    weights = bytearray((meta_model / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    commit = repository.commit({"model.safetensors": bytes(weights)})
    cached = str(tmp_path / "cache" / "models--owner--meta")
    with raises(
        ArtefactError, subject=f"model.safetensors of hf:owner/meta@{commit}", problem="SHA-256", remedy=cached
    ):
        MetaModel.from_pretrained(META)
    edit_weights(meta_model, lambda tensors: tensors.update(extra=torch.ones(2)))
    repository.commit(files_of(meta_model))
    with raises(ArtefactError, subject="model.safetensors of hf:owner/meta@", problem="'extra'"):
        MetaModel.from_pretrained(META)
    repository.commit({"bundle.json": b"{"})
    with raises(ArtefactError, subject="bundle.json of hf:owner/meta@", problem="JSON"):
        MetaModel.from_pretrained(META)


def test_a_damaged_cache_is_named(hub: HubServer, tmp_path: Path) -> None:
    MetaModel.from_pretrained(META)
    (weights,) = (tmp_path / "cache").rglob("snapshots/*/model.safetensors")
    weights.resolve().write_bytes(b"damaged")
    with raises(ArtefactError, subject="model.safetensors of hf:owner/meta@", remedy="models--owner--meta"):
        MetaModel.from_pretrained(META)


def test_large_files_are_not_fetched(hub: HubServer) -> None:
    hub.claimed = {"model.safetensors": 1 << 40}
    with raises(UsageError, subject="model.safetensors of hf:owner/meta", problem=f"{1 << 40} bytes"):
        MetaModel.from_pretrained(META)
    assert "model.safetensors" not in hub.downloads()
    hub.claimed = {"bundle.json": 1 << 40}
    with raises(UsageError, subject="bundle.json of hf:owner/classifier", problem=f"{1 << 40} bytes"):
        FewShotClassifier.from_pretrained("hf:owner/classifier")
    assert hub.downloads() == []
    hub.claimed = {"README.md": 1 << 40}  # with the licences that it names
    with raises(UsageError, subject="README.md of hf:owner/classifier", problem=f"{1 << 40} bytes"):
        FewShotClassifier.from_pretrained("hf:owner/classifier")


def test_what_is_no_bundle_is_named_before_its_weights_are_fetched(hub: HubServer) -> None:
    with raises(UsageError, subject="hf:owner/classifier", problem="is a classifier, not a meta-model"):
        MetaModel.from_pretrained("hf:owner/classifier")
    hub.repositories["owner/other"] = Repository()
    hub.repositories["owner/other"].commit({"config.json": b"{}", "model.safetensors": b""})
    with raises(UsageError, subject="hf:owner/other", problem="bundle.json", remedy="metazoo push"):
        MetaModel.from_pretrained("hf:owner/other")
    assert "model.safetensors" not in hub.downloads()
    with raises(UsageError, subject="hf:owner/none", problem="does not exist on the hub", remedy="HF_TOKEN"):
        MetaModel.from_pretrained("hf:owner/none")


@pytest.mark.parametrize(
    "name",
    ["hf:", "hf:meta", "hf:owner/meta/more", "hf:owner/../meta", "hf:owner/meta@", "hf:owner/me ta", "hf:a--b/c"],
)
def test_impossible_names_are_refused_without_a_connection(hub: HubServer, name: str) -> None:
    with raises(UsageError, problem="not a repository", remedy="hf:OWNER/NAME"):
        MetaModel.from_pretrained(name)
    assert hub.requests == []


def test_private_repositories_need_a_token_which_is_never_shown(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    hub.repositories["owner/meta"].private = True
    monkeypatch.setenv("HF_TOKEN", READER)
    MetaModel.from_pretrained(META)
    monkeypatch.setenv("HF_TOKEN", "")
    with raises(UsageError, subject="hf:owner/meta", problem="does not exist on the hub, or is private"):
        MetaModel.from_pretrained(META)
    hub.message = "no user has the token TOKEN"
    for token in ("hf_wrongwrongwrong", "hf_wrong\x01wrong"):
        monkeypatch.setenv("HF_TOKEN", token)
        with pytest.raises(UsageError) as caught:
            FewShotClassifier.from_pretrained("hf:owner/classifier")
        shown = f"{caught.value}{caught.value.__cause__}{capfd.readouterr()}"
        assert "wrongwrong" not in shown
        assert repr(token)[1:-1] not in shown
    assert TOKEN not in shown


def test_a_bundle_without_a_card_is_read(hub: HubServer, meta_model: Path) -> None:
    hub.repositories["owner/bare"] = Repository()
    files = files_of(meta_model)
    del files["README.md"]
    hub.repositories["owner/bare"].commit(files)
    assert MetaModel.from_pretrained("hf:owner/bare").seed == 3


def test_the_estimator_takes_a_repository(hub: HubServer) -> None:
    fitted = MetazooClassifier("hf:owner/meta").fit(pictures(7), LABELS.numpy())
    assert fitted.predict(pictures(2)).shape == (2,)
    assert "hf:owner/meta@" in fitted.classifier_.description.source


def test_a_classifier_names_the_meta_model_of_the_hub_and_its_licence(hub: HubServer, tmp_path: Path) -> None:
    card = hub.repositories["owner/meta"].files()["README.md"].replace(b"tags:", b"license: mit\ntags:")
    hub.repositories["owner/meta"].commit({"README.md": card})
    loaded = MetaModel.from_pretrained(META)
    loaded.adapt(pictures(7), LABELS, NAMES).save(tmp_path / "c")
    data = ModelCard.load(tmp_path / "c" / "README.md").data
    assert (data.get("base_model"), data.get("license")) == ("owner/meta", "mit")
    assert loaded.origin is not None
    assert loaded.origin in (tmp_path / "c" / "README.md").read_text()
    assert FewShotClassifier.load(tmp_path / "c").description.licences == ("mit",)
    assert "licences" not in json.loads(_saved_without_licence(tmp_path / "d"))


def _saved_without_licence(folder: Path) -> str:
    made().save(folder)
    return (folder / "bundle.json").read_text()
