import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from error_checks import raises
from safetensors import safe_open
from safetensors.torch import load_file

from metazoo.errors import ArtefactError
from metazoo.storage.artefacts import sha256_of_file
from metazoo.storage.tensor_files import read_tensor_metadata, read_tensors, write_tensors


def _tensors() -> dict[str, torch.Tensor]:
    base = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    return {
        "transposed": base.t(),
        "tied": base,
        "part": base[1:],
        "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(7),
        "half": torch.randn(5, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16),
        "bytes": torch.arange(7, dtype=torch.uint8),
        "flags": torch.tensor([True, False]),
        "conjugate": torch.tensor([1 + 2j]).conj(),
        "negative": torch.tensor([1 + 2j]).conj().imag,
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }


def test_tensors_round_trip_through_our_reader_and_the_library(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    metadata = {"format_version": "1", "text": 'Ω "quoted"\n'}
    sha256 = write_tensors(path, _tensors(), metadata)
    assert sha256_of_file(path) == sha256
    for read in (read_tensors(path, sha256), load_file(path)):
        assert read.keys() == _tensors().keys()
        for name, tensor in _tensors().items():
            assert read[name].dtype == tensor.dtype
            assert torch.equal(read[name], tensor)
    assert read_tensor_metadata(path) == metadata
    with safe_open(path, framework="pt") as content:
        assert content.metadata() == metadata


def test_read_tensors_are_independent_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    write_tensors(path, {"a": torch.zeros(1000), "b": torch.zeros(3)})
    tensors = read_tensors(path)
    with path.open("r+b") as file:
        file.seek(200)
        file.write(b"\xff" * 1000)
    assert torch.equal(tensors["a"], torch.zeros(1000))
    tensors["a"].add_(1.0)
    assert torch.equal(tensors["b"], torch.zeros(3))
    maps = Path("/proc/self/maps")
    if maps.exists():
        assert str(path) not in maps.read_text()
    write_tensors(path, tensors)
    assert torch.equal(read_tensors(path)["a"], torch.ones(1000))


def test_equal_tensors_give_equal_bytes_in_any_order_and_in_any_process(tmp_path: Path) -> None:
    tensors, metadata = _tensors(), {f"key {number}": str(number) for number in range(10)}
    hashes = {write_tensors(tmp_path / "a", tensors, metadata) for _ in range(5)}
    hashes.add(write_tensors(tmp_path / "b", dict(reversed(tensors.items())), dict(reversed(metadata.items()))))
    assert len(hashes) == 1
    script = f"""
import sys
sys.path[:0] = {[str(folder) for folder in Path(__file__).parents[:2]]!r}
from test_tensor_files import _tensors, write_tensors
print(write_tensors(sys.argv[1], _tensors(), {{f"key {{number}}": str(number) for number in range(10)}}))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "c")], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONHASHSEED": "7"},
    )  # fmt: skip
    assert done.stdout.strip() == hashes.pop()
    assert write_tensors(tmp_path / "d", {**tensors, "flags": torch.tensor([True, True])}, metadata) != done.stdout


def test_the_header_is_aligned_so_that_tensors_can_be_mapped(tmp_path: Path) -> None:
    for number in range(9):
        write_tensors(tmp_path / "a", {"a": torch.ones(2)}, {"pad": "x" * number})
        assert int.from_bytes((tmp_path / "a").read_bytes()[:8], "little") % 8 == 0
        assert torch.equal(read_tensors(tmp_path / "a")["a"], torch.ones(2))
    write_tensors(tmp_path / "none", {})
    assert read_tensors(tmp_path / "none") == {}
    assert read_tensor_metadata(tmp_path / "none") == {}


@pytest.mark.parametrize(
    ("tensors", "metadata"),
    [
        ({"sparse": torch.eye(2).to_sparse()}, None),
        ({"meta": torch.ones(2, device="meta")}, None),
        ({"__metadata__": torch.ones(2)}, None),
        ({"number": 3}, None),
        ({"a": torch.ones(2)}, {"version": 1}),
    ],
)
def test_tensors_without_a_safetensors_form_are_refused(tmp_path: Path, tensors: dict, metadata: dict | None) -> None:
    with raises(ArtefactError, subject="model.safetensors", problem="written"):
        write_tensors(tmp_path / "model.safetensors", tensors, metadata)
    assert list(tmp_path.iterdir()) == []


def test_damage_is_always_a_typed_error_that_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    sha256 = write_tensors(path, {"a": torch.arange(40.0), "b": torch.ones(3)}, {"key": "value"})
    whole = path.read_bytes()
    for sixteenth in range(16):
        path.write_bytes(whole[: len(whole) * sixteenth // 16])
        for read in (read_tensors, read_tensor_metadata):
            with raises(ArtefactError, subject="model.safetensors", problem="safetensors"):
                read(path)
    for position in range(0, len(whole), 11):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x10]) + whole[position + 1 :])
        with raises(ArtefactError, subject="model.safetensors", problem="SHA-256"):
            read_tensors(path, sha256)
        for read in (read_tensors, read_tensor_metadata):
            message = _refusal(read, path)  # without the hash a flipped byte may pass, but nothing else may be raised
            assert message is None or "model.safetensors" in message
    path.write_bytes((1 << 62).to_bytes(8, "little") + whole[8:])
    with raises(ArtefactError, subject=str(path), problem="not a complete"):
        read_tensors(path)


def _refusal(read: Callable[[Path], object], path: Path) -> str | None:
    try:
        read(path)
    except ArtefactError as error:
        return str(error)
    return None


class _Bomb:
    def __reduce__(self) -> tuple:
        return (os.putenv, ("METAZOO_BOMB", "exploded"))


def test_pickles_and_archives_are_named_and_never_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    torch.save({"a": torch.ones(2)}, tmp_path / "new.pt")
    torch.save({"a": torch.ones(2)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as archive:
        archive.writestr("a", "b")
    contents = [(tmp_path / name).read_bytes() for name in ("new.pt", "old.pt", "archive.zip")]
    contents += [pickle.dumps(_Bomb(), protocol) for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1)]
    for content in contents:
        path.write_bytes(content)
        for read in (read_tensors, read_tensor_metadata):
            with raises(ArtefactError, subject=str(path), problem="pickle", remedy="safetensors"):
                read(path)
    assert "METAZOO_BOMB" not in os.environ
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with raises(ArtefactError, subject=str(path), remedy="git lfs pull"):
        read_tensors(path)


def test_a_truncated_file_whose_length_starts_like_a_pickle_is_not_called_one(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    header = b"{" + b" " * 0x047F
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    assert path.read_bytes()[:2] == b"\x80\x04"
    with raises(ArtefactError, subject=str(path), problem="not a complete"):
        read_tensors(path)
