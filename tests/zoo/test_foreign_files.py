"""Files and folders that are no readable weights: the true reason by their content, and a way to convert them."""

import gzip
import io
import json
import pickle
import re
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from error_checks import raises
from import_helpers import SAID
from sklearn.linear_model import LogisticRegression
from torch import nn

from metazoo.errors import MetazooError, UsageError
from metazoo.zoo import add_model
from metazoo.zoo.importing.checkpoint import read_checkpoint

MOST = 1 << 26
HDF5 = b"\x89HDF\r\n\x1a\n" + bytes(100)


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()


def scripted(path: Path) -> None:
    torch.jit.save(torch.jit.script(network()), path)


def traced(path: Path) -> None:
    torch.jit.save(torch.jit.trace(network(), torch.rand(1, 3, 8, 8)), path)


def exported(path: Path) -> None:
    torch.export.save(torch.export.export(network(), (torch.rand(1, 3, 8, 8),)), path)


def arrays(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, **{name: tensor.numpy() for name, tensor in network().state_dict().items()})


def compressed(path: Path) -> None:
    buffer = io.BytesIO()
    torch.save(network().state_dict(), buffer)
    with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))


def keras(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.5.0"}))
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", HDF5)


def tar(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("model.pth"), io.BytesIO())


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("models/model.pth", b"x")


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 5\n"
CONVERTED: dict[str, tuple[Callable[[Path], object], str]] = {
    "script.pt": (scripted, "TorchScript"),
    "trace.pth": (traced, "TorchScript"),
    "exported.pt2": (exported, "torch.export.save"),
    "arrays.npz": (arrays, "numpy arrays"),
    "plain.pkl": (lambda path: path.write_bytes(pickle.dumps(network().state_dict())), "pickle of collections"),
}
REFUSED: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "model.pth": (lambda path: path.write_bytes(b"\n <!DOCTYPE html><html>"), "web page", "browser"),
    "page.safetensors": (lambda path: path.write_bytes(b"<html><head>"), "web page", "browser"),
    "pointer.pth": (lambda path: path.write_bytes(POINTER), "Git LFS pointer", "git lfs pull"),
    "pointer.safetensors": (lambda path: path.write_bytes(POINTER), "Git LFS pointer", "git lfs pull"),
    "empty.ckpt": (lambda path: path.write_bytes(b""), "empty", "download"),
    "weights.h5": (lambda path: path.write_bytes(HDF5), "HDF5", "keras.models.load_model"),
    "h5.pt": (lambda path: path.write_bytes(HDF5), "HDF5", "'h5.onnx'"),
    "model.keras": (keras, "Keras", "format='onnx'"),
    "array.npy": (lambda path: np.save(path, np.ones(3)), "numpy array", "all tensors"),
    "sklearn.pkl": (
        lambda path: path.write_bytes(pickle.dumps(LogisticRegression())),
        "pickle of sklearn.linear_model._logistic.LogisticRegression",
        "network",
    ),
    "text.pth": (lambda path: path.write_text("weights: none\n"), "text file", "weights file"),
    "message.pth": (lambda path: path.write_text('{"error": "nicht verfügbar"}'), "text file", "weights file"),
    "packed.pth": (lambda path: path.write_bytes(gzip.compress(b"x" * 100)), "gzip", "unpack"),
    "model.tar": (tar, "tar archive", "unpack"),
    "zipped.pth": (zipped, "without the data.pkl", "unpack"),
    "compressed.pt": (compressed, "compressed after torch.save", "zip -0"),
    "noise.bin": (lambda path: path.write_bytes(bytes(range(1, 250)) * 9), "neither safetensors nor", "download"),
}


def made(make: Callable[[Path], object], path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, about its own former ways to save
        make(path)
    return path


@pytest.mark.parametrize("name", CONVERTED)
@pytest.mark.filterwarnings("ignore")
def test_the_line_that_converts_a_file_works(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, problem = CONVERTED[name]
    path = made(make, tmp_path / name)
    with raises(UsageError, subject=name, problem=problem, remedy="run in Python: ") as caught:
        add_model(tmp_path / "zoo", str(path))
    monkeypatch.chdir(tmp_path)
    line = re.fullmatch(r".*run in Python: (.*)", caught.value.remedy)
    assert line is not None
    exec(line[1], {})
    found = read_checkpoint(tmp_path / f"{path.stem}-weights.pth", MOST)
    wanted = network().state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)


@pytest.mark.parametrize("name", REFUSED)
def test_the_reason_is_found_in_the_content(tmp_path: Path, name: str) -> None:
    make, problem, remedy = REFUSED[name]
    path = made(make, tmp_path / name)
    for source, options in ((str(path), {}), ("timm:test_vit", {"weights": path})):
        with raises(MetazooError, subject=name, problem=problem, remedy=remedy):
            add_model(tmp_path / "zoo", source, **options, **SAID)
    assert not (tmp_path / "zoo").exists()


def test_an_archive_without_compression_is_read_again(tmp_path: Path) -> None:
    """As the message about a compressed one advises."""
    path = made(compressed, tmp_path / "compressed.pt")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "stored.pt", "w") as new:
        new.mkdir("archive")
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    assert read_checkpoint(tmp_path / "stored.pt", MOST).keys() == network().state_dict().keys()


def test_folders_that_are_no_model(tmp_path: Path) -> None:
    with raises(UsageError, subject=str(tmp_path), problem="without config.json", remedy=f"--from-folder {tmp_path}"):
        add_model(tmp_path / "zoo", str(tmp_path), **SAID)
    (tmp_path / "saved_model.pb").write_bytes(b"x")
    with raises(UsageError, problem="SavedModel", remedy=f"--saved-model {tmp_path} --output {tmp_path.name}.onnx"):
        add_model(tmp_path / "zoo", str(tmp_path), **SAID)
