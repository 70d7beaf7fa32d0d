import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from zoo_helpers import classifier

from metazoo.errors import Interrupted
from metazoo.execution.bounded import Limits
from metazoo.models import ClassifierSpec, build_classifier
from metazoo.storage.artefacts import sha256_of_file
from metazoo.storage.tensor_files import read_tensors, write_tensors
from metazoo.zoo import Finding, Zoo, verify_zoo
from metazoo.zoo.contract_files import write_contract


def test_a_sound_zoo(zoo: Zoo) -> None:
    before = {path: path.stat().st_mtime_ns for path in zoo.folder.rglob("*")}
    calls = []
    findings = verify_zoo(zoo, lambda: calls.append(1))
    text = "hash, weights and outputs are correct"
    assert findings == [Finding("first", "sound", text), Finding("second", "sound", text)]
    assert len(calls) == 2
    assert {path: path.stat().st_mtime_ns for path in zoo.folder.rglob("*")} == before


def test_every_problem_is_found_not_only_the_first(zoo: Zoo) -> None:
    zoo.store("third", classifier(seed=1), class_names=("a", "b", "c"), domain="d")
    models = zoo.folder / "models"
    (models / "first.safetensors").unlink()
    (models / "third.safetensors").write_bytes(b"x")
    (models / "orphan.safetensors").write_bytes(b"x")
    (zoo.folder / "notes.txt").write_text("x")
    (zoo.folder / "more").mkdir()
    findings = {finding.subject: finding for finding in verify_zoo(zoo)}
    assert [*findings] == ["first", "second", "third", "models/orphan.safetensors", "more", "notes.txt"]
    assert [finding.status for finding in findings.values()] == ["problem", "sound", "problem", *["note"] * 3]
    assert "first.safetensors: missing" in findings["first"].text
    assert "third.safetensors" in findings["third"].text
    assert "`metazoo zoo remove`" in findings["third"].text
    assert "belongs to no model of the zoo; delete it" in findings["notes.txt"].text


def test_outputs_that_are_not_finite_are_found(zoo: Zoo) -> None:
    path = zoo.folder / "models" / "second.safetensors"
    tensors: dict[str, Tensor] = read_tensors(path)
    tensors["stem.1.bias"].fill_(1e30)
    tensors["head.weight"].fill_(1e30)
    write_tensors(path, tensors)
    changed = zoo.contract("second").model_copy(update={"weights_sha256": sha256_of_file(path)})
    write_contract(zoo.folder, changed)
    first, second = verify_zoo(Zoo.open(zoo.folder))
    assert first.status == "sound"
    assert second.status == "problem"
    assert "model 'second': outputs are not finite; remove it" in second.text


def test_a_model_that_cannot_be_run_is_found(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_images: Tensor, inplace: bool) -> Tensor:
        raise RuntimeError("not enough memory:\n you tried to allocate 9 TB")

    monkeypatch.setattr(torch.nn.functional, "relu", fail)
    assert "not enough memory: you tried to allocate 9 TB" in verify_zoo(zoo)[1].text


def test_in_a_process_of_its_own_a_model_is_held_to_limits(zoo: Zoo) -> None:
    """Weights are not read in vain: the one that would need 100 GB is refused by what it would compute."""
    wide = ClassifierSpec(
        architecture="conv4", arguments={"width": 64}, classes=2, input_size=1024, mean=(0.5,) * 3, std=(0.5,) * 3
    )
    zoo.store("large", build_classifier(wide), class_names=("a", "b"), domain="d")
    first, large, second = verify_zoo(zoo, limits=Limits(seconds=100, megabytes=300))
    assert (first.status, large.status, second.status) == ("sound", "problem", "sound")
    assert "model 'large'" in large.text
    assert "can't allocate memory" in large.text
    assert first == verify_zoo(zoo)[0]
    for finding in (first, second):
        assert finding.images_per_second is not None
        assert finding.images_per_second > 1
        assert (finding.memory is not None) is sys.platform.startswith("linux")


def test_a_model_that_hangs_is_named(zoo: Zoo) -> None:
    """In the time that it has, no process has even read the weights."""
    first, second = verify_zoo(zoo, limits=Limits(seconds=1e-9))
    for finding in (first, second):
        assert finding.status == "problem"
        assert "1e-09 s; raise --seconds" in finding.text


def test_a_stop_ends_it(zoo: Zoo) -> None:
    def check() -> None:
        raise Interrupted("stop")

    with pytest.raises(Interrupted):
        verify_zoo(zoo, check)


def test_links_out_of_the_zoo_are_problems(zoo: Zoo, tmp_path: Path) -> None:
    (zoo.folder / "models").rename(tmp_path / "outside")
    (zoo.folder / "models").symlink_to(tmp_path / "outside")
    findings = verify_zoo(zoo)
    assert [finding.status for finding in findings] == ["problem", "problem"]
    assert all("leads out of the zoo" in finding.text for finding in findings)
