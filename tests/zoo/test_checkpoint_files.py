"""Files of training scripts: what stands beside the weights is ignored, and nothing of it is run."""

import argparse
import collections
import pathlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from error_checks import raises
from import_helpers import SAID, library_model
from safetensors.torch import save_file
from torch import Tensor, nn
from zoo_helpers import content

from metazoo.errors import ArtefactError, MetazooError, UsageError
from metazoo.zoo import Zoo, add_folder, add_model
from metazoo.zoo.importing.checkpoint import most_bytes, read_checkpoint

MOST = 1 << 26


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))


def state() -> dict[str, Tensor]:
    return network().state_dict()


def averaged() -> dict[str, Tensor]:
    return {name: tensor * 0.5 if tensor.is_floating_point() else tensor for name, tensor in state().items()}


def optimiser_state(model: nn.Module) -> dict[str, Any]:
    optimiser = torch.optim.Adam(model.parameters(), amsgrad=True)
    sum(parameter.sum() for parameter in model.parameters()).backward()  # pyright: ignore[reportAttributeAccessIssue]
    optimiser.step()
    return optimiser.state_dict()


def lightning() -> dict[str, Any]:
    """The keys of a file of Lightning 2."""
    callback = {"monitor": "val_acc", "best_model_score": torch.tensor(0.9), "best_k_models": {"a.ckpt": torch.ones(2)}}
    return {
        "epoch": 9,
        "global_step": 100,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": state(),
        "loops": {"fit_loop": {"epoch_progress": {"total": {"ready": 10}}, "state_dict": {}}},
        "callbacks": {"ModelCheckpoint{'monitor': 'val_acc'}": callback},
        "optimizer_states": [optimiser_state(network())],
        "lr_schedulers": [{"milestones": collections.Counter({3: 1}), "_last_lr": [0.1]}],
        "hparams_name": "kwargs",
        "hyper_parameters": {"lr": 0.1, "widths": [4, 8], "path": pathlib.PurePosixPath("data")},
    }


CONTENTS: dict[str, Callable[[], Any]] = {
    "weights.pth": state,
    "best.ckpt": lightning,
    "model_best.pth.tar": lambda: {"state_dict": state(), "best_acc1": torch.tensor(91.0), "arch": "x", "epoch": 3},
    "weights.pkl": lambda: {"model_state_dict": state(), "optimizer": optimiser_state(network())},
    "net.th": lambda: {"net": state(), "acc": 91.3, "epoch": 1},
    "options.pt": lambda: {"model": state(), "args": argparse.Namespace(lr=0.1, nested=argparse.Namespace(a=None))},
    "scalars.pt": lambda: {"model": state(), "acc": np.float64(0.5), "f": np.float32(2), "d": np.dtype("int8")},
    "arrays.pt": lambda: {"model": state(), "losses": np.arange(300.0), "names": np.array(["a", "b"])},
    "history.pt": lambda: {"model": state(), "history": collections.defaultdict(list, loss=[0.5, 0.25])},
    "path.pt": lambda: {
        "model": state(),
        "folder": pathlib.Path("runs"),
        "types": [torch.float16, torch.device("cpu")],
    },
    "flat.pt": lambda: state() | {"epoch": 3, "arch": "cnn"},
    "deeper.pt": lambda: {"ema": {"module": state(), "decay": 0.99}, "epoch": 3},
    "pair.pt": lambda: (state(), 17),
    "parameters.pt": lambda: dict(network().named_parameters()) | dict(network().named_buffers()),
    "equal.pt": lambda: {"model": state(), "model_ema": state(), "optimizer": None},
    "unusual.pt": lambda: {"student_weights": state(), "optimizer": optimiser_state(network())},
}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("name", CONTENTS)
def test_weights_are_found_among_what_scripts_store(tmp_path: Path, name: str, legacy: bool) -> None:
    torch.save(CONTENTS[name](), tmp_path / name, _use_new_zipfile_serialization=not legacy)
    found = read_checkpoint(tmp_path / name, MOST)
    assert found.keys() == state().keys()
    for key, tensor in state().items():
        assert torch.equal(found[key], tensor)


def test_a_file_as_large_as_optimisers_make_it_is_read(tmp_path: Path) -> None:
    """Weights, their average, and three moments: five times the size of a network without small parts."""
    model = nn.Sequential(nn.Linear(1500, 1500))
    size = sum(tensor.nbytes for tensor in model.state_dict().values())
    content = {"state_dict": model.state_dict(), "state_dict_ema": averaged_of(model)}
    torch.save(content | {"optimizer": optimiser_state(model)}, tmp_path / "large.pth")
    assert (tmp_path / "large.pth").stat().st_size > 5 * size
    most = most_bytes(model)  # pyright: ignore[reportArgumentType]
    assert read_checkpoint(tmp_path / "large.pth", most, "state_dict").keys() == model.state_dict().keys()
    with raises(ArtefactError, subject="large.pth", problem=f"{size:,}", remedy="state_dict alone"):
        read_checkpoint(tmp_path / "large.pth", size)


def averaged_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor * 0.5 for name, tensor in model.state_dict().items()}


def test_which_of_several_weights_is_asked_and_recorded(tmp_path: Path) -> None:
    model, path = library_model("timm:test_efficientnet"), tmp_path / "weights.pth"
    torch.save({"state_dict": model.state_dict(), "state_dict_ema": averaged_weights(model), "epoch": 1}, path)
    zoo = tmp_path / "zoo"
    problem = "2 state_dicts that differ: state_dict, state_dict_ema"
    with raises(UsageError, subject="weights.pth", problem=problem, remedy="--state-dict state_dict_ema"):
        add_model(zoo, "timm:test_efficientnet", weights=path, **SAID)
    with raises(UsageError, subject="weights.pth", problem="'swa'", remedy="state_dict, state_dict_ema"):
        add_model(zoo, "timm:test_efficientnet", weights=path, state_dict="swa", **SAID)
    assert not zoo.exists()
    contract = add_model(zoo, "timm:test_efficientnet", weights=path, state_dict="state_dict_ema", **SAID)
    assert contract.provenance is not None
    assert contract.provenance.state_dict == "state_dict_ema"
    stored = Zoo.open(zoo).teacher(contract.name).classifier.network.state_dict()
    assert torch.equal(stored["body.conv_stem.weight"], averaged_weights(model)["conv_stem.weight"])
    assert Zoo.open(zoo).contracts == (contract,)


def averaged_weights(model: nn.Module) -> dict[str, Tensor]:
    return {n: t * 0.9 if t.is_floating_point() else t for n, t in model.state_dict().items()}


def test_options_of_a_script_are_never_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch's list of allowed classes is as before."""
    allowed = set(torch.serialization.get_safe_globals())
    made: list[Any] = []
    torch.save({"model": state(), "args": argparse.Namespace(lr=1)}, tmp_path / "x.pt")
    monkeypatch.setattr(argparse.Namespace, "__setstate__", lambda _self, value: made.append(value), raising=False)
    read_checkpoint(tmp_path / "x.pt", MOST)
    assert made == []
    assert set(torch.serialization.get_safe_globals()) == allowed


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)


class Options:
    rate = 0.1


MODULES: dict[str, tuple[Callable[[], Any], str, set[str]]] = {
    "module.pt": (Own, "Own", {"layer.weight", "layer.bias"}),
    "wrapped.pth": (lambda: {"model": network(), "epoch": 3}, "Sequential", set(state())),
    "options.ckpt": (lambda: {"state_dict": state(), "options": Options()}, "Options", set(state())),
    "bare.pth": (lambda: state() | {"options": Options()}, "Options", set(state())),
}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("name", MODULES)
@pytest.mark.filterwarnings("ignore")
def test_the_line_that_converts_a_file_works(
    tmp_path: Path, name: str, legacy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, named, keys = MODULES[name]
    path = tmp_path / name
    torch.save(make(), path, _use_new_zipfile_serialization=not legacy)
    with raises(ArtefactError, subject=name, problem=named, remedy="if you trust it") as caught:
        read_checkpoint(path, MOST)
    monkeypatch.chdir(tmp_path)
    line = re.fullmatch(r".*run in Python: (.*)", caught.value.remedy)
    assert line is not None
    exec(line[1], {})
    converted = tmp_path / f"{path.stem}-weights.pth"
    torch.load(converted, weights_only=name != "bare.pth")
    if name != "bare.pth":
        assert read_checkpoint(converted, MOST).keys() == keys


def test_other_encodings_of_a_pickle_are_named(tmp_path: Path) -> None:
    torch.save(state(), tmp_path / "new.pth", pickle_protocol=4)
    with raises(ArtefactError, subject="new.pth", problem="pickle protocol", remedy="torch.save"):
        read_checkpoint(tmp_path / "new.pth", MOST)


def test_files_without_weights_name_what_they_hold(tmp_path: Path) -> None:
    torch.save({"optimizer": optimiser_state(network()), "epoch": 1}, tmp_path / "x.pth")
    with raises(ArtefactError, subject="x.pth", problem="no state_dict (tensors by name), but optimizer, epoch"):
        read_checkpoint(tmp_path / "x.pth", MOST)


def test_safetensors_are_known_by_their_content(tmp_path: Path) -> None:
    save_file(state(), tmp_path / "x.pt")
    assert read_checkpoint(tmp_path / "x.pt", MOST).keys() == state().keys()
    torch.save(state(), tmp_path / "x.safetensors")
    with raises(UsageError, subject="x.safetensors", problem="torch.save", remedy="rename it to .pth"):
        read_checkpoint(tmp_path / "x.safetensors", MOST)


def test_a_folder_names_every_file_that_is_not_added(tmp_path: Path) -> None:
    folder, zoo = tmp_path / "models", tmp_path / "zoo"
    folder.mkdir()
    description = "architecture: timm:test_vit\nclasses: [cat, dog, emu]\ninput_size: 32\nmean: 0.5\nstd: 0.2\n"
    torch.save({"state_dict": library_model("timm:test_vit").state_dict()}, folder / "good.pth.tar")
    (folder / "good.yaml").write_text(description)
    (folder / "lost.yaml").write_text(description)
    (folder / "other.yaml").write_text(description)
    (folder / "other.onnx.gz").write_bytes(b"\x1f\x8b")
    (folder / "other.npz").write_bytes(b"PK")
    (folder / "broken.yml").write_text("a: [")
    (folder / "results.json").write_text('{"accuracies": [1]}')
    (folder / "notes.json").write_text("[1]")
    (folder / "keras.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    (folder / "lfs.pth").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    first = add_folder(zoo, folder, domain="pets")
    assert [(addition.file, addition.status) for addition in first] == [
        ("broken.yml", "problem"),
        ("good.pth.tar", "added"),
        ("keras.h5", "problem"),
        ("lfs.pth", "problem"),
        ("lost.yaml", "problem"),
        ("other.yaml", "problem"),
    ]
    texts = {addition.file: addition.text for addition in first}
    assert texts["good.pth.tar"] == "good"
    for file, text in (("keras.h5", "HDF5"), ("lfs.pth", "git lfs pull"), ("lost.yaml", "no weights"),
                       ("other.yaml", "other.npz"), ("broken.yml", "YAML")):  # fmt: skip
        assert text in texts[file]
    before = content(zoo)
    assert [addition.status for addition in add_folder(zoo, folder, domain="pets")].count("present") == 1
    assert content(zoo) == before


def test_damaged_files_are_named(tmp_path: Path) -> None:
    torch.save(state(), tmp_path / "x.pth")
    whole = (tmp_path / "x.pth").read_bytes()
    for size in (30, 200, len(whole) // 2, len(whole) - 1):
        (tmp_path / "x.pth").write_bytes(whole[:size])
        with raises(MetazooError, subject="x.pth"):
            read_checkpoint(tmp_path / "x.pth", MOST)


def test_state_dicts_with_other_keys_are_named_and_can_be_chosen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "both.pt"
    torch.save({"model": state(), "teacher": averaged(), "optimizer": optimiser_state(network())}, path)
    assert torch.equal(read_checkpoint(path, MOST)["0.weight"], state()["0.weight"])
    note = capsys.readouterr().err
    assert "both.pt" in note
    assert "model is taken" in note
    assert "--state-dict takes another (teacher)" in note
    assert torch.equal(read_checkpoint(path, MOST, "teacher")["0.weight"], averaged()["0.weight"])
    assert torch.equal(read_checkpoint(path, MOST, "model")["0.weight"], state()["0.weight"])
    assert capsys.readouterr().err == ""
