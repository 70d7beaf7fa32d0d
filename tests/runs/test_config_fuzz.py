"""Any file gives a configuration, which is read back equal, or a UsageError."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from json_fuzzing import JsonFuzz

from metazoo.errors import UsageError
from metazoo.runs.config import RunConfig, resolve_config

FUZZ = JsonFuzz(
    ["tgr", "default", "conv4", "timm:x", "single", "linear", "images", "../x", "\ud800", "\x00", "\x1b[2J", "1e400"],
    [0, -1, 1, 5, 2**31, 2**63, 2**70, 1e-300, 1e300, 0.5],
)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "run.yaml"


def _use(path: Path) -> None:
    config, text = _read(path)
    assert text.isprintable()
    assert len(text) < 1500
    if config is not None:
        again = path.with_name("again.yaml")
        again.write_text(config.as_yaml(), encoding="utf-8")
        assert resolve_config(again) == config


def _read(path: Path) -> tuple[RunConfig | None, str]:
    try:
        return resolve_config(path), ""
    except UsageError as error:
        return None, str(error)


@settings(max_examples=60)
@given(data=some.data())
@pytest.mark.parametrize("preset", ["default", "published"])
def test_any_values_anywhere(path: Path, preset: str, data: some.DataObject) -> None:
    content = FUZZ.changed(resolve_config(preset=preset).as_record(), data)
    path.write_text(json.dumps(content))
    _use(path)


@settings(max_examples=60)
@given(
    position=some.integers(0, 4000),
    rubbish=some.binary(max_size=6) | some.text(max_size=6).map(repr),
    kept=some.booleans(),
)
def test_any_bytes_anywhere(path: Path, position: int, rubbish: bytes | str, kept: bool) -> None:
    text = resolve_config().as_yaml().encode()
    rubbish = rubbish if isinstance(rubbish, bytes) else rubbish.encode(errors="replace")
    position = min(position, len(text))
    path.write_bytes(text[:position] + rubbish + (text[position + len(rubbish) :] if kept else b""))
    _use(path)
