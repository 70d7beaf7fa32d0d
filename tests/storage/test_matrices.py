from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from error_checks import raises
from torch import Tensor

from metazoo.errors import ArtefactError
from metazoo.storage.artefacts import sha256_of_file
from metazoo.storage.matrices import read_matrices, write_matrices
from metazoo.storage.tensor_files import read_tensors, write_tensors

METADATA = {"format_version": "1", "é": '["b"]'}


def matrices(count: int) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(count)
    return {name: torch.rand(count, size, generator=random) for name, size in (("z", 5), ("a", 1), ("m.é", 300_000))}


def rows_of(whole: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    return [{name: values[row] for name, values in whole.items()} for row in range(len(whole["a"]))]


@pytest.mark.parametrize("count", [1, 4])
def test_the_file_is_the_one_of_whole_tensors(tmp_path: Path, count: int) -> None:
    whole, path = matrices(count), tmp_path / "new" / "rows.safetensors"
    sha256 = write_matrices(path, count, iter(rows_of(whole)), METADATA)
    assert sha256 == write_tensors(tmp_path / "whole.safetensors", whole, METADATA) == sha256_of_file(path)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    read, metadata = read_matrices(path, sha256)
    assert list(read) == ["a", "m.é", "z"]
    assert metadata == METADATA
    for name, values in whole.items():
        assert torch.equal(read[name][:], values)
        assert torch.equal(read[name][count - 1 :], read_tensors(path)[name][count - 1 :])
    path.unlink()  # the matrices stay mapped
    assert torch.equal(read["z"][torch.tensor([0])], whole["z"][:1])


def test_rows_that_do_not_fit_leave_no_file(tmp_path: Path) -> None:
    path, rows = tmp_path / "rows.safetensors", rows_of(matrices(2))
    for wrong in (
        rows[:1],
        [*rows, rows[0]],
        [rows[0], {"a": rows[1]["a"]}],
        [rows[0], rows[1] | {"z": torch.ones(4)}],
    ):
        with pytest.raises(ValueError, match="row"):
            write_matrices(path, 2, wrong)
    with pytest.raises(ValueError, match="row 1"):
        write_matrices(path, 1, [{"a": torch.ones(2, dtype=torch.float64)}])
    assert not [*tmp_path.iterdir()]


def test_a_full_disk_is_named_and_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "rows.safetensors"
    sha256 = write_matrices(path, 2, rows_of(matrices(2)))

    def rows() -> Iterator[dict[str, Tensor]]:
        yield rows_of(matrices(2))[0]
        raise OSError(28, "No space left on device")

    with raises(ArtefactError, subject="rows.safetensors", problem="No space left on device", remedy="free"):
        write_matrices(path, 2, rows())
    assert sha256_of_file(path) == sha256
    assert len([*tmp_path.iterdir()]) == 1


def test_damage_and_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.safetensors"
    sha256 = write_matrices(path, 2, rows_of(matrices(2)))
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with raises(ArtefactError, subject=str(path), problem="SHA-256"):
        read_matrices(path, sha256)
    path.write_bytes(path.read_bytes()[:-1])
    with raises(ArtefactError, subject=str(path), problem="safetensors"):
        read_matrices(path)
    for tensor in (torch.ones(2), torch.ones(2, 2, dtype=torch.float64)):
        write_tensors(path, {"w": tensor})
        with raises(ArtefactError, subject=str(path), problem="'w'"):
            read_matrices(path)
    with raises(ArtefactError, subject=str(tmp_path / "none"), problem="missing"):
        read_matrices(tmp_path / "none")
