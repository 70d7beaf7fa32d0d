import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from error_checks import raises
from import_helpers import SAID, SIDE, library_model, outputs
from safetensors.torch import save_file
from zoo_helpers import classifier, content

from metazoo.choices import MODEL_EXAMPLE
from metazoo.errors import MetazooError, UsageError
from metazoo.zoo import Zoo, add_folder, add_model, verify_zoo
from metazoo.zoo.importing.model_description import described, numbered

NAMES = ["timm:test_vit", "timm:test_efficientnet", "timm:mobilenetv3_small_050", "torchvision:resnet18"]
IMAGES = torch.rand(4, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("architecture", NAMES)
def test_a_model_of_a_library_says_what_it_said_before(tmp_path: Path, architecture: str) -> None:
    model, path = library_model(architecture), tmp_path / "weights.pth"
    torch.save(model.state_dict(), path)
    contract = add_model(tmp_path / "zoo", architecture, weights=path, licence="mit", **SAID)
    assert contract.name == architecture.replace(":", "-")
    assert contract.spec.architecture == architecture
    zoo = Zoo.open(tmp_path / "zoo")
    assert zoo.contracts == (contract,)
    teacher = zoo.teacher(contract.name)
    with torch.no_grad():
        torch.testing.assert_close(teacher(IMAGES), outputs(model, IMAGES))
        assert teacher.features(IMAGES).shape == (4, teacher.classifier.network.feature_size)
    provenance = contract.provenance
    assert provenance is not None
    assert (provenance.source, provenance.licence, provenance.output) == (architecture, "mit", "logits")
    assert provenance.library is not None
    assert provenance.library.startswith(architecture.partition(":")[0] + " ")
    assert [finding.status for finding in verify_zoo(zoo)] == ["sound"]


def test_half_precision_wrappers_prefixes_and_lacking_counters_are_understood(tmp_path: Path) -> None:
    model, path = library_model("timm:test_efficientnet").half(), tmp_path / "weights.pt"
    state = {f"module.{key}": value for key, value in model.state_dict().items() if "num_batches" not in key}
    torch.save({"epoch": 3, "model_state_dict": state, "optimiser": {"lr": 0.1}}, path)
    contract = add_model(tmp_path / "zoo", "timm:test_efficientnet", weights=path, **SAID)
    teacher = Zoo.open(tmp_path / "zoo").teacher(contract.name)
    with torch.no_grad():
        torch.testing.assert_close(teacher(IMAGES), outputs(model.float(), IMAGES))


def test_own_architectures_come_from_files_with_a_description_beside_them(tmp_path: Path) -> None:
    built, path = classifier("conv4", 2), tmp_path / "mine.safetensors"
    save_file({key: value.contiguous() for key, value in built.network.state_dict().items()}, path)
    said = {"architecture": "conv4", "arguments": {"width": 4}, "classes": ["cat", "dog"], "input_size": 16}
    said |= {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.3], "domain": "pets", "recovered_images": "discard"}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(said))
    contract = add_model(tmp_path / "zoo", str(path), domain="wild animals")
    assert (contract.name, contract.domain, contract.recovered_images) == ("mine", "wild animals", "discard")
    assert contract.provenance is not None
    assert (contract.provenance.source, contract.provenance.library) == ("mine.safetensors", None)
    images = torch.rand(3, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(Zoo.open(tmp_path / "zoo").teacher("mine")(images), built(images))


def test_the_example_says_all_that_must_be_known() -> None:
    spec = described(yaml.safe_load(MODEL_EXAMPLE), "the example").spec("the example")
    assert (spec.architecture, spec.classes, spec.input_size) == ("timm:convnext_atto", 2, 32)


@pytest.mark.parametrize(
    ("said", "problem", "remedy"),
    [
        ({"arch": "conv4"}, "arch", "architecture"),
        ({"input-size": 16}, "input-size", "input_size"),
        ({"arch": "a", "class": 1}, "arch, class", "architecture"),
        ({"colour": "red"}, "colour", "name, architecture, "),
        ({"classes": "cat", "input_size": 0}, "classes: must be a list, not 'cat'; input_size: ", ""),
        ({"classes": ["yes ma'am", False]}, "class 2 was read as YAML `no`", "quote it"),
        ({"classes": [True]}, "class 1 was read as YAML `yes`", "quote it"),
        ({"classes": ["a", "b", 7]}, "class 3 was read as YAML `7`", "quote it"),
    ],
)
def test_what_is_wrong_with_a_description_is_named(said: dict[str, Any], problem: str, remedy: str) -> None:
    with raises(UsageError, subject="pets.yaml", problem=problem, remedy=remedy):
        described(said, "pets.yaml")


def test_everything_that_is_missing_is_named_by_its_option() -> None:
    with raises(UsageError, subject="pets.pt", problem="missing --input-size, --mean, --std, --domain"):
        described({"architecture": "conv4", "classes": ["a", "b"]}, "pets.pt").spec("pets.pt")


@pytest.mark.parametrize("field", ["mean", "std"])
def test_statistics_of_pixels_up_to_255_are_refused(field: str) -> None:
    said = yaml.safe_load(MODEL_EXAMPLE) | {field: 127.0}
    with raises(UsageError, subject="pets.yaml", problem=f"--{field} 127", remedy="divide it by 255"):
        described(said, "pets.yaml").spec("pets.yaml")


def test_grey_models_and_one_number_for_all_channels(tmp_path: Path) -> None:
    model, path = library_model("timm:test_convnext", channels=1), tmp_path / "weights.pth"
    torch.save(model.state_dict(), path)
    said: dict[str, Any] = SAID | {"channels": 1, "mean": (0.5,), "std": (0.25,)}
    contract = add_model(tmp_path / "zoo", "timm:test_convnext", weights=path, **said)
    assert contract.spec.channels == 1
    torch.save(library_model("torchvision:mobilenet_v3_small").state_dict(), path)
    said = SAID | {"std": (0.25,)}
    colour = add_model(tmp_path / "zoo", "torchvision:mobilenet_v3_small", weights=path, **said)
    assert colour.spec.std == (0.25, 0.25, 0.25)


def test_a_tag_brings_what_is_published_with_it(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(library_model("timm:test_resnet").state_dict(), path)
    contract = add_model(
        tmp_path / "zoo", "timm:test_resnet.r160_in1k", weights=path, classes=("a", "b", "c"), domain="photographs"
    )
    assert (contract.spec.input_size, contract.spec.mean) == (160, (0.5, 0.5, 0.5))
    provenance = contract.provenance
    assert provenance is not None
    assert (provenance.source, provenance.licence) == ("timm:test_resnet.r160_in1k", "apache-2.0")
    assert provenance.revision is None
    assert provenance.interpolation == "bilinear"
    assert provenance.crop is not None
    torch.save(library_model("torchvision:resnet18", classes=1000).state_dict(), path)
    named = add_model(tmp_path / "zoo", "torchvision:resnet18.IMAGENET1K_V1", weights=path, domain="photographs")
    assert named.class_names[:2] == ("tench", "goldfish")
    assert len(set(named.class_names)) == 1000
    assert (named.spec.input_size, named.provenance and named.provenance.resize) == (224, 256)


@pytest.mark.parametrize("field", ["classes", "input_size", "mean", "std", "domain"])
def test_what_is_not_known_is_asked_for(tmp_path: Path, field: str) -> None:
    path = tmp_path / "weights.pth"
    torch.save(library_model("timm:test_vit").state_dict(), path)
    said = {key: value for key, value in SAID.items() if key != field}
    with raises(UsageError, subject="timm:test_vit", problem=f"missing --{field.replace('_', '-')}"):
        add_model(tmp_path / "zoo", "timm:test_vit", weights=path, **said)
    with raises(UsageError, problem="missing --arch, --classes, --input-size, --mean, --std, --domain"):
        add_model(tmp_path / "zoo", str(path))
    assert not (tmp_path / "zoo").exists()


def _nan(state: dict[str, torch.Tensor]) -> None:
    next(iter(state.values())).view(-1)[0] = torch.nan


NET = "timm:test_efficientnet"
WRONG = {
    "another architecture": ("timm:test_resnet", lambda state: None, SAID, "timm:test_resnet with 3"),
    "classes": (NET, lambda state: None, SAID | {"classes": ("a", "b")}, "float32 [2]"),
    "channels": (
        NET,
        lambda state: None,
        SAID | {"channels": 1, "mean": (0.5,), "std": (1,)},
        "1 ch",
    ),
    "nan": (NET, _nan, SAID, "not finite"),
    "variance": (NET, lambda s: s["bn1.running_var"].fill_(-1), SAID, "negative variance"),
    "more": (NET, lambda s: s.update({"x": torch.ones(1)}), SAID, "'x'"),
    "less": (NET, lambda s: s.pop("conv_stem.weight"), SAID, "lacks tensor body.conv_stem"),
    "huge outputs": (NET, lambda s: s["conv_stem.weight"].fill_(3e38), SAID, "outputs are not finite"),
    "std": (NET, lambda s: None, SAID | {"std": (0.0,)}, "std must be positive"),
    "mean": (NET, lambda s: None, SAID | {"mean": (0.5, 0.5)}, "mean and std need 3 numbers"),
    "size": (NET, lambda s: None, SAID | {"input_size": 5000}, "input_size"),
    "name": (NET, lambda s: None, SAID | {"name": "../out"}, "name: "),
    "field": (NET, lambda s: None, SAID | {"colour": 1}, "colour"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_refused_and_leaves_nothing(tmp_path: Path, case: str) -> None:
    architecture, change, said, problem = WRONG[case]
    state, path = library_model("timm:test_efficientnet").state_dict(), tmp_path / "weights.pth"
    change(state)
    torch.save(state, path)
    with raises(MetazooError, problem=problem):
        add_model(tmp_path / "zoo", architecture, weights=path, **said)
    assert not (tmp_path / "zoo").exists()


@pytest.mark.parametrize(
    ("source", "options", "subject", "problem", "remedy"),
    [
        ("timm:no_such_model", {"pretrained": True}, "timm", "'no_such_model'", "list_models"),
        ("timm:resnet18.no_such_tag", {"pretrained": True}, "timm", "'resnet18.no_such_tag'", "list_pretrained"),
        ("torchvision:resnet18.X", {"pretrained": True}, "torchvision", "'X' of resnet18", "IMAGENET"),
        ("torchvision:get_model", {"pretrained": True}, "torchvision", "'get_model'", ""),
        ("timm:resnett18", {"weights": "none.pth"}, "timm", "'resnett18'", "timm:resnet18?"),
        ("torchvision:resnet19", {"weights": "none.pth"}, "torchvision", "'resnet19'", "torchvision:resnet1"),
        ("timm:resnet18", {}, "timm:resnet18", "missing weights", "--pretrained"),
        ("timm:resnet18", {"weights": "a.pth", "pretrained": True}, "timm:resnet18", "both", "omit"),
        ("timm:resnet18", {"weights": "none.pth"}, "none.pth", "not a file", "weights file"),
        ("timm:resnet18", {"weights": "a.pt2"}, "a.pt2", "not a file", ".pth"),
        ("timm:../../x", {"pretrained": True}, "timm:../../x", "name", "timm:NAME"),
        ("timm:hf-hub:a/b", {"pretrained": True}, "timm:hf-hub:a/b", "name", "timm:NAME"),
        ("keras:resnet", {}, "keras:resnet", "source", "timm:NAME"),
        ("none.pth", {}, "none.pth", "not a file", ""),
        ("hf:a/b", {"pretrained": True}, "hf:a/b", "weights", "--pretrained"),
        ("hf:a/../b", {}, "hf:a/../b", "repository", "OWNER/NAME"),
        ("hf:a/b@../../x", {}, "hf:a/b@../../x", "repository", "OWNER/NAME"),
        ("hf:b", {}, "hf:b", "repository", "OWNER/NAME"),
    ],
)
def test_sources_that_are_none(
    tmp_path: Path, source: str, options: dict[str, Any], subject: str, problem: str, remedy: str
) -> None:
    with raises(UsageError, subject=subject, problem=problem, remedy=remedy):
        add_model(tmp_path / "zoo", source, **options, **SAID)


def _folder(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    for name in ("test_vit", "test_convnext"):
        torch.save(library_model(f"timm:{name}").state_dict(), folder / f"{name}.pth")
        said = {key: value for key, value in SAID.items() if key != "domain"} | {"architecture": f"timm:{name}"}
        (folder / f"{name}.json").write_text(json.dumps(said))
    return folder


def test_a_folder_is_added_again_from_where_it_stopped(tmp_path: Path) -> None:
    folder, zoo = _folder(tmp_path), tmp_path / "zoo"
    torch.save({"x": torch.ones(1)}, folder / "alone.pth")
    (folder / "notes.txt").write_text("x")
    first = add_folder(zoo, folder, domain="pets")
    assert [(addition.file, addition.status) for addition in first] == [
        ("alone.pth", "problem"),
        ("test_convnext.pth", "added"),
        ("test_vit.pth", "added"),
    ]
    assert "write alone.yaml" in first[0].text
    before = content(zoo)
    assert [addition.status for addition in add_folder(zoo, folder, domain="pets")] == ["problem", "present", "present"]
    torch.save(library_model("timm:test_vit", classes=3).double().state_dict(), folder / "test_vit.pth")
    assert "already has model 'test_vit'" in add_folder(zoo, folder, domain="pets")[2].text
    assert content(zoo) == before


def test_a_folder_leads_nowhere_else(tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    (folder / "test_vit.pth").rename(tmp_path / "elsewhere.pth")
    (folder / "test_vit.pth").symlink_to(tmp_path / "elsewhere.pth")
    (folder / "test_convnext.json").rename(tmp_path / "elsewhere.json")
    (folder / "test_convnext.json").symlink_to(tmp_path / "elsewhere.json")
    additions = add_folder(tmp_path / "zoo", folder, domain="pets")
    assert all("leads out of the folder" in addition.text for addition in additions)
    assert not (tmp_path / "zoo").exists()


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    with raises(UsageError, subject=str(tmp_path / "none")):
        add_folder(tmp_path / "zoo", tmp_path / "none")
    with raises(UsageError, subject=str(tmp_path), problem=".safetensors"):
        add_folder(tmp_path / "zoo", tmp_path)
    with raises(UsageError, subject="name"):
        add_folder(tmp_path / "zoo", tmp_path, name="x")


def test_a_zoo_of_before_provenance_keeps_its_hash_and_its_file(zoo: Zoo) -> None:
    young = {"recovered_images", "provenance"}
    records = [contract.model_dump(mode="json", exclude=young) for contract in zoo]
    text = json.dumps(records, sort_keys=True, separators=(",", ":"))
    assert zoo.sha256 == hashlib.sha256(text.encode()).hexdigest()
    assert "provenance" not in (zoo.folder / "models" / "first.json").read_text()


def test_provenance_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(library_model("timm:test_vit").state_dict(), path)
    contract = add_model(tmp_path / "zoo", "timm:test_vit", weights=path, revision="v1", **SAID)
    zoo = Zoo.open(tmp_path / "zoo")
    assert zoo.contract(contract.name) == contract
    with raises(UsageError, subject=str(zoo.folder), problem="'timm-test_vit'", remedy="--name"):
        add_model(tmp_path / "zoo", "timm:test_vit", weights=path, **SAID)
    zoo.permit([contract.name], "keep")
    changed = Zoo.open(zoo.folder)
    assert changed.contract(contract.name).provenance == contract.provenance
    assert changed.sha256 == zoo.sha256


def test_a_hostile_architecture_in_a_zoo_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(library_model("timm:test_vit").state_dict(), path)
    name = add_model(tmp_path / "zoo", "timm:test_vit", weights=path, **SAID).name
    contract = tmp_path / "zoo" / "models" / f"{name}.json"
    for hostile in ("timm:os.system", "torchvision:get_model", "timm:hf-hub:evil/model", "builtins:eval"):
        contract.write_text(contract.read_text().replace("timm:test_vit", hostile, 1))
        with raises(MetazooError, subject=name, problem="cannot be built"):
            Zoo.open(tmp_path / "zoo").teacher(name)
        contract.write_text(contract.read_text().replace(hostile, "timm:test_vit", 1))


def test_names_that_stand_twice_are_numbered() -> None:
    assert numbered(["crane", "x", "crane", "crane"]) == ("crane", "x", "crane (2)", "crane (3)")
