"""Folders of `save_pretrained` say everything themselves, and lead nowhere else."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import transformers
from error_checks import raises
from import_helpers import MEAN, SAID, STD, library_model, outputs
from transformers_models import SIDE, transformers_model
from zoo_helpers import content

from metazoo.errors import ArtefactError, MetazooError, UsageError
from metazoo.zoo import Zoo, add_folder, add_model

VIT = "ViTForImageClassification"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
IMAGES = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


def saved(folder: Path, name: str = VIT, **options: Any) -> Any:
    """A model of transformers and its preprocessing, as the library writes them."""
    model = transformers_model(name, labels=["emu", "cat", "dog"])
    model.save_pretrained(folder, **options)
    square = {"height": SIDE, "width": SIDE}
    transformers.ViTImageProcessor(size=square, image_mean=list(MEAN), image_std=list(STD)).save_pretrained(folder)
    return model


def check_outputs(zoo: Path, name: str, model: Any) -> None:
    with torch.no_grad():
        expected = outputs(lambda images: model(images).logits, IMAGES)  # pyright: ignore[reportArgumentType]
        torch.testing.assert_close(Zoo.open(zoo).teacher(name)(IMAGES), expected, rtol=1e-4, atol=1e-4)


def changed(folder: Path, file: str, **changes: Any) -> None:
    values = json.loads((folder / file).read_text()) | changes
    (folder / file).write_text(json.dumps(values))


def test_a_folder_of_transformers_needs_the_domain_only(tmp_path: Path) -> None:
    model = saved(tmp_path / "vit.v1")
    with raises(UsageError, subject="vit.v1", problem="missing --domain"):
        add_model(tmp_path / "zoo", str(tmp_path / "vit.v1"))
    contract = add_model(tmp_path / "zoo", str(tmp_path / "vit.v1"), domain="pets")
    assert contract.name == "vit.v1"
    assert contract.class_names == ("emu", "cat", "dog")
    assert (contract.spec.input_size, contract.spec.mean) == (SIDE, MEAN)
    check_outputs(tmp_path / "zoo", "vit.v1", model)


@pytest.mark.parametrize("safe", [True, False])
@pytest.mark.parametrize("name", ["test_vit", "test_resnet"])
def test_a_folder_of_timm_needs_the_domain_only(tmp_path: Path, name: str, safe: bool) -> None:
    model = library_model(f"timm:{name}")
    published = {"input_size": (3, SIDE, SIDE), "mean": MEAN, "std": STD}
    config = {"pretrained_cfg": published, "label_names": ["emu", "cat", "dog"]}
    timm.models.save_for_hf(model, str(tmp_path / "own"), model_config=config, safe_serialization=safe)
    contract = add_model(tmp_path / "zoo", str(tmp_path / "own"), domain="pets", input_size=SIDE)
    assert contract.class_names == ("emu", "cat", "dog")
    with torch.no_grad():
        torch.testing.assert_close(Zoo.open(tmp_path / "zoo").teacher("own")(IMAGES), outputs(model, IMAGES))


def test_arguments_that_timm_records_are_read(tmp_path: Path) -> None:
    timm.models.save_for_hf(library_model("timm:test_vit"), str(tmp_path / "own"))
    arguments = json.loads((tmp_path / "own" / "config.json").read_text()).get("model_args", {}) | {
        "img_size": [32, 32]
    }
    changed(tmp_path / "own", "config.json", model_args=arguments)
    contract = add_model(tmp_path / "zoo", str(tmp_path / "own"), domain="pets", classes=("a", "b", "c"))
    assert contract.spec.input_size == 32
    for other in (arguments | {"depth": 3}, [1], arguments | {"global_pool": "max"}):
        changed(tmp_path / "own", "config.json", model_args=other)
        with raises(UsageError, subject="own", problem="not supported"):
            add_model(tmp_path / "other", str(tmp_path / "own"), domain="pets", classes=("a", "b", "c"))


def test_weights_in_parts_are_joined(tmp_path: Path) -> None:
    model = saved(tmp_path / "vit", max_shard_size="5KB")
    assert len(list((tmp_path / "vit").glob("model-*.safetensors"))) > 1
    contract = add_model(tmp_path / "zoo", str(tmp_path / "vit"), domain="pets")
    check_outputs(tmp_path / "zoo", "vit", model)
    again = add_model(tmp_path / "other", str(tmp_path / "vit"), domain="pets")
    assert contract.provenance == again.provenance
    min((tmp_path / "vit").glob("model-*.safetensors")).unlink()
    with raises(UsageError, subject="index.json", problem="model-00001", remedy="all files"):
        add_model(tmp_path / "new", str(tmp_path / "vit"), domain="pets")


@pytest.mark.parametrize(
    ("weight_map", "error"),
    [
        ({"x": "../outside.safetensors"}, UsageError),
        ({"x": "/etc/passwd"}, UsageError),
        ({"x": "config.json"}, UsageError),
        ({"x": "link.safetensors"}, UsageError),
        ({"x": {"a": 1}}, UsageError),
        ({}, ArtefactError),
        ([1], ArtefactError),
        ({str(number): "large.safetensors" for number in range(9)}, ArtefactError),
    ],
)
def test_an_index_names_files_of_its_folder_only(tmp_path: Path, weight_map: Any, error: type[MetazooError]) -> None:
    saved(tmp_path / "vit", max_shard_size="5KB")
    shutil.copy(next((tmp_path / "vit").glob("model-*")), tmp_path / "outside.safetensors")
    (tmp_path / "vit" / "link.safetensors").symlink_to(tmp_path / "outside.safetensors")
    with (tmp_path / "vit" / "large.safetensors").open("wb") as file:
        file.truncate(1 << 40)
    changed(tmp_path / "vit", "model.safetensors.index.json", weight_map=weight_map)
    with raises(error, subject=str(tmp_path / "vit")):
        add_model(tmp_path / "zoo", str(tmp_path / "vit"), domain="pets")
    assert not (tmp_path / "zoo").exists()


def test_a_folder_with_a_pickle_only(tmp_path: Path) -> None:
    model = saved(tmp_path / "vit")
    (tmp_path / "vit" / "model.safetensors").unlink()
    with raises(UsageError, subject="vit", problem="model.safetensors nor pytorch_model.bin", remedy="save_pretrained"):
        add_model(tmp_path / "zoo", str(tmp_path / "vit"), domain="pets")
    torch.save(model.state_dict(), tmp_path / "vit" / "pytorch_model.bin")
    add_model(tmp_path / "zoo", str(tmp_path / "vit"), domain="pets")
    check_outputs(tmp_path / "zoo", "vit", model)


@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json", "model.safetensors"])
def test_links_lead_nowhere_else(tmp_path: Path, file: str) -> None:
    saved(tmp_path / "vit")
    (tmp_path / "vit" / file).rename(tmp_path / file)
    (tmp_path / "vit" / file).symlink_to(tmp_path / file)
    with raises(UsageError, subject=file, problem="link", remedy="the file itself"):
        add_model(tmp_path / "zoo", str(tmp_path / "vit"), domain="pets")
    assert not (tmp_path / "zoo").exists()
    (tmp_path / file).unlink()
    with raises(UsageError, subject=file, problem="leads nowhere"):
        add_model(tmp_path / "zoo", str(tmp_path / "vit"), domain="pets")


def test_a_cache_of_the_hub_has_links_to_its_own_files(tmp_path: Path) -> None:
    repository = tmp_path / "hub" / "models--owner--vit"
    snapshot, blobs = repository / "snapshots" / COMMIT, repository / "blobs"
    model = saved(snapshot)
    blobs.mkdir()
    for number, path in enumerate(sorted(snapshot.iterdir())):
        path.rename(blobs / f"{number:040}")
        path.symlink_to(Path("../../blobs") / f"{number:040}")
    contract = add_model(tmp_path / "zoo", str(snapshot), domain="pets")
    assert contract.name == "owner-vit"
    assert contract.provenance is not None
    assert contract.provenance.revision == COMMIT
    check_outputs(tmp_path / "zoo", "owner-vit", model)
    (snapshot / "model.safetensors").unlink()
    (snapshot / "model.safetensors").symlink_to(tmp_path / "zoo" / "models" / "owner-vit.safetensors")
    with raises(UsageError, subject="model.safetensors", problem="link out of the folder"):
        add_model(tmp_path / "other", str(snapshot), domain="pets")


def test_names_of_classes_with_gaps_and_duplicates(tmp_path: Path) -> None:
    saved(tmp_path / "vit")
    folder = str(tmp_path / "vit")
    changed(tmp_path / "vit", "config.json", id2label={"0": "a", "2": "b", "3": "c"})
    with raises(UsageError, subject="vit", problem="--classes (id2label has 3 names, but none of class 1), --domain"):
        add_model(tmp_path / "zoo", folder)
    assert add_model(tmp_path / "zoo", folder, classes=("x", "y", "z"), domain="pets").class_names == ("x", "y", "z")
    changed(tmp_path / "vit", "config.json", id2label={"2": "b", "0": "a", "1": "a"})
    contract = add_model(tmp_path / "zoo", folder, name="second", domain="pets")
    assert contract.class_names == ("a", "a (2)", "b")


def _huge(folder: Path) -> None:
    with (folder / "config.json").open("r+b") as file:
        file.truncate(1 << 30)


HOSTILE = {
    "huge": _huge,
    "deep": lambda folder: (folder / "config.json").write_text('{"a":' * 100_000),
    "folder": lambda folder: [(folder / "config.json").unlink(), (folder / "config.json").mkdir()],
    "list": lambda folder: (folder / "config.json").write_text("[]"),
    "nan": lambda folder: (folder / "preprocessor_config.json").write_text('{"image_mean": [NaN]}'),
    "many classes": lambda folder: changed(
        folder, "config.json", id2label={str(number): f"c{number}" for number in range(100_000)}
    ),
    "code": lambda folder: changed(folder, "config.json", auto_map={"AutoModel": "evil.Model"}),
    "unknown": lambda folder: changed(folder, "config.json", architectures=["LlamaForCausalLM"]),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_configurations_are_refused(tmp_path: Path, case: str) -> None:
    saved(tmp_path / "vit")
    HOSTILE[case](tmp_path / "vit")
    with pytest.raises(MetazooError) as caught:
        add_model(tmp_path / "zoo", str(tmp_path / "vit"), domain="pets")
    assert len(str(caught.value)) < 1000
    assert {path.name for path in tmp_path.iterdir()} == {"vit"}


def test_folders_within_a_folder_are_added(tmp_path: Path) -> None:
    folder, zoo = tmp_path / "models", tmp_path / "zoo"
    saved(folder / "vit")
    saved(folder / "parts", max_shard_size="5KB")
    shutil.copytree(folder / "vit", folder / "broken")
    (folder / "broken" / "model.safetensors").write_bytes(b"x")
    (folder / "empty").mkdir()
    (folder / "vit.yaml").write_text("domain: animals\n")
    first = add_folder(zoo, folder)
    assert [(addition.file, addition.status) for addition in first] == [
        ("broken", "problem"),
        ("parts", "problem"),
        ("vit", "added"),
    ]
    assert "--domain" in first[1].text
    second = add_folder(zoo, folder, domain="animals")
    assert [addition.status for addition in second] == ["problem", "added", "present"]
    assert "model.safetensors" in second[0].text
    before = content(zoo)
    assert [addition.status for addition in add_folder(zoo, folder, domain="animals")] == [
        "problem",
        "present",
        "present",
    ]
    assert content(zoo) == before


def test_a_model_given_as_a_folder_of_models(tmp_path: Path) -> None:
    saved(tmp_path / "vit")
    (addition,) = add_folder(tmp_path / "zoo", tmp_path / "vit", **SAID)
    assert "without --from-folder" in addition.text
