from pathlib import Path

import pytest
import torch
from error_checks import raises

from metazoo.errors import ArtefactError
from metazoo.storage.run_folder import RunFolder


def state(step: int) -> dict[str, torch.Tensor]:
    return {"weight": torch.full((2, 3), float(step))}


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_written_files_are_committed_and_read_back(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write_json("a/values.json", {"x": [1, 2.5, None]})
    folder.write_text("note.md", "Überschrift\n")
    folder.write_tensors("b/tensors.safetensors", state(1))
    (tmp_path / "made elsewhere.png").write_bytes(b"picture")
    folder.record("made elsewhere.png")
    again = RunFolder(tmp_path)
    assert again.read_json("a/values.json") == {"x": [1, 2.5, None]}
    assert again.read_text("note.md") == "Überschrift\n"
    assert torch.equal(again.read_tensors("b/tensors.safetensors")["weight"], state(1)["weight"])
    assert all(again.has(name) for name in files(tmp_path) if name != "manifest.json")
    again.verify()


def test_a_file_that_is_not_committed_does_not_count(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write_json("first.json", 1)
    (tmp_path / "second.json").write_text("2")
    assert not folder.has("second.json")
    for read in (folder.read_json, folder.read_text, folder.read_tensors, folder.sha256):
        with raises(ArtefactError, subject="second.json", problem="manifest"):
            read("second.json")
    with raises(ArtefactError, subject="third.json", problem="missing"):
        folder.record("third.json")
    assert not RunFolder(tmp_path).has("third.json")


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_a_damaged_file_is_named(tmp_path: Path, damage: str) -> None:
    folder = RunFolder(tmp_path)
    folder.write_text("text.txt", "as it was")
    folder.write_json("values.json", 1)
    folder.write_tensors("tensors.safetensors", state(0))
    for name in ("text.txt", "values.json", "tensors.safetensors"):
        if damage == "missing":
            (tmp_path / name).unlink()
        else:
            (tmp_path / name).write_bytes(b"0" * (tmp_path / name).stat().st_size)
    again = RunFolder(tmp_path)
    for name, read in (
        ("text.txt", again.read_text),
        ("values.json", again.read_json),
        ("tensors.safetensors", again.read_tensors),
    ):
        with raises(ArtefactError, subject=name, problem=damage):
            read(name)
    with raises(ArtefactError, subject="tensors.safetensors"):
        again.verify()


def test_the_latest_checkpoint_alone_is_kept(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.latest_checkpoint("learning") is None
    for step in (5, 10, 20):
        folder.save_checkpoint("learning", step, state(step))
        restored = RunFolder(tmp_path).latest_checkpoint("learning")
        assert restored is not None
        assert restored[0] == step
        assert torch.equal(restored[1]["weight"], state(step)["weight"])
    assert files(tmp_path) == ["checkpoints/learning-00000020.safetensors", "manifest.json"]
    folder.verify()


def test_the_same_step_may_be_saved_again(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for value in (1, 2):
        folder.save_checkpoint("learning", 7, state(value))
    restored = RunFolder(tmp_path).latest_checkpoint("learning")
    assert restored is not None
    assert torch.equal(restored[1]["weight"], state(2)["weight"])


def test_stages_do_not_touch_each_others_checkpoints(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    stages = ("learning", "learning-2", "learn", "learning.2")
    for step, stage in enumerate(stages):
        folder.save_checkpoint(stage, step, state(step))
    found = {stage: folder.latest_checkpoint(stage) for stage in stages}
    assert [None if entry is None else entry[0] for entry in found.values()] == [0, 1, 2, 3]
    assert folder.latest_checkpoint("learning-") is None


def test_steps_are_ordered_as_numbers(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    # Both exist after a kill between the commit of the new one and the deletion of the old one.
    for step in (99_999_999, 100_000_000):
        name = f"checkpoints/learning-{step:08d}.safetensors"
        other = RunFolder(tmp_path / "other")
        other.save_checkpoint("learning", step, state(1))
        (tmp_path / "checkpoints").mkdir(exist_ok=True)
        (tmp_path / "other" / name).rename(tmp_path / name)
        folder.record(name)
    latest = folder.latest_checkpoint("learning")
    assert latest is not None
    assert latest[0] == 100_000_000


def test_all_checkpoints_are_dropped_at_the_end(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write_text("kept.txt", "")
    folder.save_checkpoint("one", 1, state(1))
    folder.save_checkpoint("two", 2, state(2))
    folder.drop_checkpoints()
    assert files(tmp_path) == ["kept.txt", "manifest.json"]
    assert RunFolder(tmp_path).latest_checkpoint("one") is None
    folder.drop_checkpoints()
    folder.verify()


def test_tidying_removes_what_killed_processes_left(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.tidy()
    folder.save_checkpoint("learning", 5, state(5))
    kept = files(tmp_path)
    for name in ("checkpoints/learning-00000010.safetensors", ".values.json.999999999.tmp"):
        (tmp_path / name).write_bytes(b"left")
    (tmp_path / "notes.txt").write_text("somebody's own")
    folder.tidy()
    assert files(tmp_path) == sorted([*kept, "notes.txt"])


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write_tensors("checkpoints/learning-00000001.safetensors", state(1))
    with raises(ArtefactError, subject="learning-00000001.safetensors", problem="checkpoint"):
        folder.latest_checkpoint("learning")


def test_a_damaged_manifest_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    with raises(ArtefactError, subject="manifest.json"):
        RunFolder(tmp_path)
