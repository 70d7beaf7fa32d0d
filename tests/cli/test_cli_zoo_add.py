import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from cli_helpers import Outcome, Workshop

from metazoo.cli.options import arguments
from metazoo.models import build_network
from metazoo.zoo import Zoo

Cli = Callable[..., Outcome]
Refused = Callable[..., str]
SAID = ("--input-size", 32, "--mean", "0.5,0.4,0.3", "--std", 0.25, "--domain", "pets")


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "weights.pth"
    torch.save(timm.create_model("test_efficientnet", num_classes=3).state_dict(), path)
    return path


def test_a_model_is_added_and_verified(cli: Cli, tmp_path: Path, weights: Path) -> None:
    words = (
        "zoo",
        "add",
        tmp_path / "zoo",
        "timm:test_efficientnet",
        "--weights",
        weights,
        "--classes",
        "cat, dog,emu",
    )
    outcome = cli(*words, *SAID, "--licence", "mit", "--recovered-images", "keep")
    assert (outcome.code, outcome.err) == (0, "")
    assert re.search(r"timm-test_efficientnet +│ pets +│ timm:test_efficientnet +│ +3 │ +32 │ +3 │", outcome.out)
    (contract,) = Zoo.open(tmp_path / "zoo")
    assert contract.class_names == ("cat", "dog", "emu")
    assert (contract.spec.mean, contract.spec.std) == ((0.5, 0.4, 0.3), (0.25, 0.25, 0.25))
    assert contract.recovered_images == "keep"
    assert cli("zoo", "verify", tmp_path / "zoo").out.endswith("all 1 models are sound\n")
    assert "timm:test_efficientnet" in cli("zoo", "inspect", tmp_path / "zoo").out


@pytest.mark.parametrize(("name", "text"), [("c.txt", "cat\n dog \n\nemu\n"), ("c.json", '["cat", "dog", "emu"]')])
def test_classes_come_from_a_file(cli: Cli, tmp_path: Path, weights: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    words = ("zoo", "add", tmp_path / "zoo", weights, "--arch", "timm:test_efficientnet", "--name", "mine")
    assert cli(*words, "--classes", tmp_path / name, *SAID).code == 0
    assert Zoo.open(tmp_path / "zoo").contract("mine").class_names == ("cat", "dog", "emu")


def test_the_classes_of_imagenet_have_a_name(refused: Refused, tmp_path: Path, weights: Path) -> None:
    words = ("zoo", "add", tmp_path / "zoo", weights, "--arch", "timm:test_efficientnet", "--classes", "imagenet-1k")
    assert "does not fit timm:test_efficientnet with 1000 classes" in refused(1, *words, *SAID)


def test_a_folder_is_added(cli: Cli, tmp_path: Path, weights: Path) -> None:
    said = {"architecture": "timm:test_efficientnet", "classes": ["cat", "dog", "emu"], "input_size": 32}
    folder = tmp_path / "folder"
    folder.mkdir()
    weights.rename(folder / "a.pth")
    (folder / "a.json").write_text(json.dumps(said | {"mean": [0.5], "std": [0.5]}))
    words = ("zoo", "add", tmp_path / "zoo", "--from-folder", folder, "--domain", "pets")
    outcome = cli(*words)
    assert outcome.code == 0
    assert re.search(r"a\.pth +│ added +│ a ", outcome.out)
    assert re.search(r"a\.pth +│ present +│ a ", cli(*words).out)
    (folder / "\x1b[2J.pt").write_bytes(b"x")
    outcome = cli(*words)
    assert outcome.code == 1
    assert outcome.err.startswith(f"metazoo: {folder}: 1 of 2 ")
    assert r"\x1b[2J.pt" in outcome.out
    assert "\x1b" not in outcome.out


def test_a_dry_run_shows_the_tensors_and_writes_nothing(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "vgg.pt"
    network = build_network("vgg11-bn", classes=3, channels=3, input_size=32, arguments={"width": 2, "hidden": 5})
    names = {"layers": "features", "hidden.0": "classifier.0", "hidden.1": "classifier.3", "head": "classifier.6"}
    pattern = re.compile("|".join(map(re.escape, names)))
    state = {f"module.{pattern.sub(lambda m: names[m[0]], name)}": t for name, t in network.state_dict().items()}
    torch.save(state, path)
    words = ("zoo", "add", tmp_path / "zoo", path, "--arch", "vgg11-bn", "--arguments", "width=2,hidden=5")
    outcome = cli(*words, "--classes", "cat,dog,emu", *SAID, "--dry-run")
    assert outcome.code == 0
    assert re.search(r"module\.classifier\.3\.weight +│ hidden\.1\.weight +│ 5x5 ", outcome.out)
    assert re.search(r"module\.classifier\.6\.bias +│ head\.bias +│ 3 ", outcome.out)
    assert "vgg: vgg11-bn (width=2,hidden=5) with 3 classes: 62 tensors, 0 added, 0 dropped" in outcome.out
    assert not (tmp_path / "zoo").exists()
    assert cli(*words, "--classes", "cat,dog,emu", *SAID).code == 0
    assert Zoo.open(tmp_path / "zoo").contract("vgg").spec.arguments == {"width": 2, "hidden": 5}


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("depth=28,width=10", {"depth": 28, "width": 10}),
        ("shortcut=B, bias=True,scale=0.5", {"shortcut": "B", "bias": True, "scale": 0.5}),
        ("width=3+4+5+6", {"width": (3, 4, 5, 6)}),
    ],
)
def test_arguments_of_an_architecture(text: str, values: dict[str, object]) -> None:
    assert arguments(text) == values


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("x.pth", "--arguments", "width"), "'width' is not a list of arguments"),
        (("--from-folder", "x", "--dry-run"), "--dry-run: does not apply to --from-folder"),
        (("--from-folder", "x", "--by-order"), "--by-order: does not apply to --from-folder"),
        ((), "SOURCE or --from-folder: missing"),
        (("x.pth", "--from-folder", "x"), "SOURCE or --from-folder: both"),
        (("--from-folder", "x", "--pretrained"), "--pretrained: does not apply to --from-folder"),
        (("timm:resnet18",), "timm:resnet18: missing weights; give a file with --weights"),
        (("x.pth", "--classes", "none.txt"), "--classes none.txt: "),
        (("x.pth", "--mean", "a"), "'a' is not a list of numbers"),
        (("x.pth", "--name", "a/b"), "impossible values: name"),
        (("x.pth", "--classes", "a,a\x1b"), "a text has 1 to 500 characters"),
    ],
)
def test_wrong_use_is_named(refused: Refused, tmp_path: Path, words: tuple[object, ...], message: str) -> None:
    assert message in refused(2, "zoo", "add", tmp_path / "zoo", *words)
    assert not (tmp_path / "zoo").exists()


def test_images_check_the_normalisation(cli: Cli, own: Workshop) -> None:
    outcome = cli("zoo", "verify", own.zoo, "--images", own.seen)
    assert outcome.code == 0
    assert len(re.findall(r"[\d.]+ % of \d+ images", outcome.out)) == 2
