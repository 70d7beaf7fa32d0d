"""Every hostile file gives a typed error soon, runs nothing, and leaves no zoo behind."""

import contextlib
import time
import tracemalloc
import zipfile
from pathlib import Path

import pytest
import torch
from error_checks import raises
from hostile_files import CALLS, HOSTILE
from hypothesis import HealthCheck, given, settings, strategies
from import_helpers import SAID, library_model
from safetensors.torch import save

from metazoo.errors import ArtefactError, MetazooError
from metazoo.storage.artefacts import sha256_of_file
from metazoo.zoo import Zoo, add_folder, add_model, verify_zoo
from metazoo.zoo.contract_files import write_contract
from metazoo.zoo.importing.checkpoint import read_checkpoint
from metazoo.zoo.importing.pickle_content import CostlyPickleError, pickle_content

_SECONDS = 5
"""Of processor, which on a machine with other work to do is less than those of the clock."""


@pytest.mark.parametrize("name", HOSTILE)
def test_it_is_refused(tmp_path: Path, name: str) -> None:
    source, proof = tmp_path / "source", tmp_path / "proof"
    source.mkdir()
    HOSTILE[name](source / name, proof)
    (source / name).with_suffix(".yaml").write_text("architecture: timm:test_efficientnet\n")
    start = time.process_time()
    with pytest.raises(MetazooError) as caught:
        add_model(tmp_path / "zoo", "timm:test_efficientnet", weights=source / name, **SAID)
    (addition,) = add_folder(tmp_path / "zoo", source, **SAID)
    assert time.process_time() - start < _SECONDS
    assert addition.status == "problem"
    for text in (str(caught.value), addition.text):
        assert len(text) < 1000
        assert "weights_only" not in text or "if you trust it" in text
        assert "\x1b" not in text
    assert not proof.exists()
    assert not (tmp_path / "zoo").exists()
    assert {path.name for path in tmp_path.iterdir()} <= {"source"}


@pytest.mark.parametrize("name", CALLS)
def test_calls_do_not_fill_the_memory(tmp_path: Path, name: str) -> None:
    path = tmp_path / "calls.pt"
    HOSTILE[f"{name}.pt"](path, tmp_path / "proof")
    tracemalloc.start()
    try:
        with pytest.raises(ArtefactError):
            read_checkpoint(path, 10**9)
        assert tracemalloc.get_traced_memory()[1] < 50_000_000
    finally:
        tracemalloc.stop()


SIDECARS = {
    "yaml tag": "!!python/object/apply:os.mkdir [proof]",
    "anchors": "a: &a [x, x]\nb: *a",
    "list": "- architecture",
    "path": "classes: /etc/passwd",
    "name": "name: ../../out",
    "steering": 'domain: "pets\\e[2J"',
    "weights": "weights: /etc/passwd",
    "architecture": "architecture: os:system",
    "library": "architecture: timm:local-dir:/tmp",
    "size": "input_size: 1e300",
    "nan": "mean: [.nan, .nan, .nan]",
    "many": "classes: [" + ", ".join(f"c{number}" for number in range(200_000)) + "]",
    "argument": "arguments: {width: 1000000000000}\narchitecture: conv4",
}


@pytest.mark.parametrize("case", SIDECARS)
def test_a_hostile_description_is_refused(tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source = tmp_path / "source"
    source.mkdir()
    (source / "x.safetensors").write_bytes(save(library_model("timm:test_efficientnet").state_dict()))
    (source / "x.yaml").write_text(SIDECARS[case])
    given = SAID | {"architecture": "timm:test_efficientnet"}
    said = {key: value for key, value in given.items() if f"{key}:" not in SIDECARS[case]}
    (addition,) = add_folder(tmp_path / "zoo", source, **said)
    assert addition.status == "problem"
    assert len(addition.text) < 1000
    assert {path.name for path in tmp_path.iterdir()} == {"source"}


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(strategies.data())
def test_any_damage_gives_a_typed_error_or_a_model(tmp_path: Path, data: strategies.DataObject) -> None:
    whole = save(library_model("timm:test_efficientnet").state_dict())
    header = 8 + int.from_bytes(whole[:8], "little")
    index = data.draw(strategies.integers(0, header - 1))
    piece = data.draw(strategies.binary(min_size=1, max_size=12))
    path = tmp_path / "x.safetensors"
    path.write_bytes(whole[:index] + piece + whole[index + len(piece) :])
    with contextlib.suppress(MetazooError):
        add_model(tmp_path / f"zoo-{index}-{piece.hex()}", "timm:test_efficientnet", weights=path, **SAID)


@pytest.mark.parametrize("name", HOSTILE)
def test_in_the_place_of_weights_it_is_a_problem(zoo: Zoo, tmp_path: Path, name: str) -> None:
    """Whoever can put it there can also write its hash into the contract."""
    path, proof = zoo.folder / "models" / "first.safetensors", tmp_path / "proof"
    path.unlink()
    HOSTILE[name](path, proof)
    if path.is_file() and path.stat().st_size < 10**9:
        first = zoo.contract("first").model_copy(update={"weights_sha256": sha256_of_file(path)})
        write_contract(zoo.folder, first)
    start = time.process_time()
    first, second, *_ = verify_zoo(Zoo.open(zoo.folder))
    assert time.process_time() - start < _SECONDS
    assert (first.status, second.status) == ("problem", "sound")
    assert first.text.isprintable()
    assert len(first.text) < 1000
    assert not proof.exists()


@pytest.mark.parametrize("folder", ["", "other"])
def test_two_structures_whose_names_differ_by_capitals_are_refused(tmp_path: Path, folder: str) -> None:
    """Torch reads one of them, and it must be the one that was scanned."""
    path = tmp_path / "two.pt"
    torch.save({"x": torch.ones(2, 2)}, path)
    with zipfile.ZipFile(path) as old:
        entries = {name: old.read(name) for name in old.namelist()}
    structure = next(name for name in entries if name.endswith("/data.pkl"))
    with zipfile.ZipFile(path, "w") as new:
        for name, data in entries.items():
            new.writestr(name, data)
        new.writestr(f"{folder or structure.partition('/')[0]}/DATA.PKL", entries[structure])
    with pytest.raises(ArtefactError):
        read_checkpoint(path, 10**6)


def test_tensors_that_repeat_a_few_bytes_are_never_compared(tmp_path: Path) -> None:
    path = tmp_path / "repeated.pt"
    wide = {name: torch.ones(1, 1).expand(1 << 20, 1 << 20) for name in ("a", "b")}
    torch.save({"model": wide, "ema": wide}, path)
    with raises(ArtefactError, subject="repeated.pt", problem="repeat"):
        read_checkpoint(path, 10**9)


def test_empty_arguments_of_a_call_are_counted() -> None:
    many = b"(" + b")" * 1000 + b"K\x01tq\x01"
    data = b"\x80\x02](cbuiltins\nset\nq\x00" + many + b"R" + b"h\x00h\x01R" * 1000 + b"e."
    with pytest.raises(CostlyPickleError):
        pickle_content(data, 1)
