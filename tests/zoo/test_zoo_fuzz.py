"""Whatever stands in a contract or a former list, nothing but a MetazooError comes out."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from json_fuzzing import JsonFuzz
from zoo_helpers import build_small

from metazoo.errors import MetazooError
from metazoo.report.zoo_tables import domain_rows, model_rows
from metazoo.zoo import Zoo, verify_zoo
from metazoo.zoo.weights import weights_path

FUZZ = JsonFuzz(
    ["conv4", "thin-resnet", "../x", "\ud800", "\x00", "a" * 300, "__class__", "width", "adam", "0" * 64],
    [0, -1, 2**63, 2**70, 1025, 1_000_001],
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_small(tmp_path_factory.mktemp("fuzz") / "zoo").folder


@pytest.fixture(scope="module")
def sound(folder: Path) -> Any:
    """The list of version 0.1, all contracts in one, and through the migration the contract files."""
    models = [json.loads(path.read_text()) for path in sorted((folder / "models").glob("*.json"))]
    for model in models:
        del model["format_version"]
    return {"format": "metazoo-zoo", "format_version": 1, "models": models}


def _use(folder: Path) -> None:
    with contextlib.suppress(MetazooError):
        zoo = Zoo.open(folder)
        for contract in zoo:
            assert weights_path(folder, contract.name).parent == folder / "models"
        findings = verify_zoo(zoo)
        assert len(findings) >= len(zoo) == len(model_rows(zoo)) == sum(row.models for row in domain_rows(zoo))
        assert len(zoo.sha256) == 64
        for text in (finding.text for finding in findings):
            assert text.isprintable()
        zoo.teachers()


@settings(max_examples=100)
@given(data=some.data())
def test_any_values_anywhere(folder: Path, sound: Any, data: some.DataObject) -> None:
    content = FUZZ.changed(sound, data)
    (folder / "zoo.json").write_text(json.dumps(content))
    _use(folder)


@settings(max_examples=100)
@given(position=some.integers(0, 4000), rubbish=some.binary(max_size=6), kept=some.booleans())
def test_any_bytes_anywhere(folder: Path, sound: Any, position: int, rubbish: bytes, kept: bool) -> None:
    text = json.dumps(sound).encode()
    position = min(position, len(text))
    (folder / "zoo.json").write_bytes(text[:position] + rubbish + (text[position + len(rubbish) :] if kept else b""))
    _use(folder)
