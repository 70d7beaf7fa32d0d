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
    _with_pickle(path, lambda _: pickle.dumps({"x": _Runs(proof)}))


def _with_pickle(path: Path, change: Callable[[bytes], bytes], tensor: torch.Tensor | None = None) -> None:
    """A file as torch writes it, whose pickle is changed."""
    buffer = io.BytesIO()
    torch.save({"conv_stem.weight": torch.ones(1) if tensor is None else tensor}, buffer)
    with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(path, "w") as new:
        for entry in old.infolist():
            data = old.read(entry)
            new.writestr(entry.filename, change(data) if entry.filename.endswith("data.pkl") else data)


def _replaced(path: Path, old: bytes, new: bytes, *, legacy: bool = False) -> None:
    """A tensor of 4321 numbers whose file has `new` instead of `old`, which occurs in it."""
    tensor = torch.ones(4321)

    def change(data: bytes) -> bytes:
        assert old in data
        return data.replace(old, new)

    if legacy:
        torch.save({"conv_stem.weight": tensor}, path, _use_new_zipfile_serialization=False)
        path.write_bytes(change(path.read_bytes()))
    else:
        _with_pickle(path, change, tensor)


# 4321 and 2 147 483 647 in a pickle.
_NUMBER, _LARGE = b"M\xe1\x10", b"J\xff\xff\xff\x7f"


def _calls(*calls: bytes) -> Callable[[bytes], bytes]:
    """Pickle of a list of the results of calls."""
    return lambda _: b"\x80\x02](" + b"".join(calls) + b"e."


# Letters whose encoding for domain names takes quadratic time.
_RARE = "".join(map(chr, range(0x3400, 0x9F00))).encode()
# Each call finds its function and its arguments by their numbers.
CALLS: dict[str, Callable[[bytes], bytes]] = {
    "bytes": _calls(b"cbuiltins\nbytearray\nq\x00" + _LARGE + b"\x85q\x01R", b"h\x00h\x01R" * 1000),
    "tensors": _calls(b"ctorch\nFloatTensor\nq\x00" + _LARGE + b"\x85q\x01R", b"h\x00h\x01R" * 1000),
    "encodings": _calls(
        b"c_codecs\nencode\nq\x00X\x00\x04\x00\x00" + b"x" * 1024 + b"X\x07\x00\x00\x00latin-1\x86Rq\x02",
        b"h\x00h\x02X\x03\x00\x00\x00hex\x86Rq\x02" * 40,
    ),
    "slow encodings": _calls(
        b"c_codecs\nencode\nX" + len(_RARE).to_bytes(4, "little") + _RARE + b"X\x09\x00\x00\x00punycode-\x86R"
    ),
    "sets": _calls(b"cbuiltins\nset\nq\x00(" + b"K\x01" * 50_000 + b"tq\x01\x85q\x02R", b"h\x00h\x02R" * 50_000),
    "texts": _calls(
        b"c_codecs\nencode\nq\x00X\x00\x00\x01\x00" + b"x" * 65536 + b"X\x06\x00\x00\x00latin1\x86q\x02R",
        b"h\x00h\x02R" * 100_000,
    ),
}


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


def _expanded(path: Path, _: Path) -> None:
    """The same in the shape of images, so that it could be weights."""
    torch.save({"conv_stem.weight": torch.ones(1, 1, 1, 1).expand(1024, 1024, 32, 32)}, path)


def _prefixed(path: Path, _: Path) -> None:
    """An archive that only some readers find."""
    torch.save({"x": torch.ones(2, 2)}, path)
    path.write_bytes(b"PK\x03\x04" + bytes(26) + path.read_bytes())


def _two_directories(path: Path, _: Path) -> None:
    """An archive with one directory for Python, and another one for readers of the old format."""
    torch.save({"x": torch.ones(2, 2)}, path)
    content = path.read_bytes()
    record = bytearray(content[-98:-42])
    start = int.from_bytes(record[48:56], "little")
    record[48:56] = (start - 46).to_bytes(8, "little")
    path.write_bytes(content[:-98] + record + content[-42:])


def _crowded(path: Path, _: Path) -> None:
    """An archive with a hundred thousand files."""
    entry = zipfile.ZipInfo("archive/data.pkl")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(entry, b"x")
        archive.filelist.extend([entry] * 100_000)


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
    "expanded.pt": _expanded,
    "prefixed.pt": _prefixed,
    "two-directories.pt": _two_directories,
    "crowded.pt": _crowded,
    "storage.pt": lambda path, _: _replaced(path, _NUMBER + b"tq", _LARGE + b"tq"),
    "storage.pth": lambda path, _: _replaced(path, _NUMBER + b"Ntq", _LARGE + b"Ntq", legacy=True),
    "shape.pt": lambda path, _: _replaced(path, _NUMBER + b"\x85", _LARGE + b"\x85"),
    "shape.pth": lambda path, _: _replaced(path, _NUMBER + b"\x85", _LARGE + b"\x85", legacy=True),
    "stride.pt": lambda path, _: _replaced(path, b"\x85q\x08K\x01\x85", b"\x85q\x08K\x7f\x85"),
    "negative-stride.pt": lambda path, _: _replaced(path, b"\x85q\x08K\x01\x85", b"\x85q\x08J\xff\xff\xff\xff\x85"),
    **{f"{name}.pt": lambda path, _, change=change: _with_pickle(path, change) for name, change in CALLS.items()},
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
