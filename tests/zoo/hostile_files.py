"""Files that somebody with bad intentions could offer as weights. A bug found in reading leaves another one here."""

import io
import json
import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


class _Runs:
    """A pickle of it makes a folder when it is read."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.proof),)


def _header(path: Path, header: bytes, length: int | None = None, data: bytes = b"") -> None:
    path.write_bytes((len(header) if length is None else length).to_bytes(8, "little") + header + data)


def _tensor(path: Path, **entry: Any) -> None:
    _header(
        path, json.dumps({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} | entry}).encode(), data=b"0000"
    )


def _archive(path: Path, proof: Path) -> None:
    """A file as torch writes it, with another pickle in it."""
    buffer = io.BytesIO()
    torch.save({"x": torch.ones(1)}, buffer)
    with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(path, "w") as new:
        for entry in old.infolist():
            data = pickle.dumps({"x": _Runs(proof)}) if entry.filename.endswith("data.pkl") else old.read(entry)
            new.writestr(entry.filename, data)


def _bomb(path: Path, _: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(200_000_000))


def _outwards(path: Path, _: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../../out/data.pkl", pickle.dumps({"x": 1}))


def _tar(path: Path, proof: Path) -> None:
    """Torch's oldest format."""
    with tarfile.open(path, "w") as archive:
        for name in ("sys_info", "pickle", "tensors", "storages"):
            data = pickle.dumps(_Runs(proof))
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def _stretched(path: Path, _: Path) -> None:
    """Tensor of four bytes, expanded to four gigabytes."""
    torch.save({"conv_stem.weight": torch.ones(1).expand(1 << 30)}, path)


def _deep(path: Path, _: Path) -> None:
    path.write_bytes(b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".")


def _long(path: Path, _: Path) -> None:
    """An archive whose structure would take minutes to read."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02]" + b"Ka0" * 4_000_000 + b".")


def _scripted(path: Path, _: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/constants.pkl", pickle.dumps(()))
        archive.writestr("model/data.pkl", pickle.dumps({}))
        archive.writestr("model/code/__torch__.py", "import os")


HOSTILE: dict[str, Callable[[Path, Path], object]] = {
    "pickle.pt": lambda path, proof: path.write_bytes(pickle.dumps({"x": _Runs(proof)})),
    "old-pickle.pth": lambda path, proof: path.write_bytes(pickle.dumps(_Runs(proof), protocol=0)),
    "torch.pth": lambda path, proof: torch.save({"state_dict": {"x": _Runs(proof)}}, path),
    "legacy.pth": lambda path, proof: torch.save({"x": _Runs(proof)}, path, _use_new_zipfile_serialization=False),
    "whole-module.pt": lambda path, _: torch.save(torch.nn.Linear(2, 2), path),
    "archive.bin": _archive,
    "tar.pt": _tar,
    "bomb.pth": _bomb,
    "outwards.pt": _outwards,
    "scripted.pt": _scripted,
    "stretched.pt": _stretched,
    "deep.pt": _deep,
    "long.pt": _long,
    "pickle.safetensors": lambda path, proof: path.write_bytes(pickle.dumps({"x": _Runs(proof)})),
    "sparse.pt": lambda path, _: torch.save({"x": torch.ones(2, 2).to_sparse()}, path),
    "meta.pt": lambda path, _: torch.save({"x": torch.empty(1 << 40, device="meta")}, path),
    "number.pt": lambda path, _: torch.save(7, path),
    "nested.pt": lambda path, _: torch.save({"model": {"model": {"x": torch.ones(1)}}}, path),
    "empty.pt": lambda path, _: path.write_bytes(b""),
    "empty.safetensors": lambda path, _: path.write_bytes(b""),
    "zeros.pth": lambda path, _: path.write_bytes(bytes(1000)),
    "long-header.safetensors": lambda path, _: _header(path, b"{}", 1 << 62),
    "no-json.safetensors": lambda path, _: _header(path, b"{" * 100),
    "deep-json.safetensors": lambda path, _: _header(path, b'{"x":' + b"[" * 100_000),
    "outside.safetensors": lambda path, _: _tensor(path, data_offsets=[0, 1 << 40]),
    "negative.safetensors": lambda path, _: _tensor(path, shape=[-1]),
    "overflow.safetensors": lambda path, _: _tensor(path, shape=[1 << 62, 1 << 62]),
    "kind.safetensors": lambda path, _: _tensor(path, dtype="os.system"),
    "name.safetensors": lambda path, _: _header(
        path, json.dumps({"\x1b[2J\n": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode(), data=b"0000"
    ),
    "folder.pt": lambda path, _: path.mkdir(),
    "endless.pt": lambda path, _: os.mkfifo(path),
    "device.pt": lambda path, _: path.symlink_to("/dev/zero"),
    "circle.pt": lambda path, _: path.symlink_to(path),
    "huge.safetensors": lambda path, _: _sparse_file(path),
}


def _sparse_file(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)
