"""The text of all options describes them, and is the configuration of the same run."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from metazoo.methods import METHODS
from metazoo.runs.config import resolve_config
from metazoo.runs.option_list import options_text

PRESETS = [(method.name, preset) for method in METHODS for preset in method.presets]


@pytest.mark.parametrize(("method", "preset"), PRESETS)
def test_the_text_configures_the_same_run(tmp_path: Path, method: str, preset: str) -> None:
    config = resolve_config(method=method, preset=preset, seed=3)
    (tmp_path / "run.yaml").write_text(options_text(config))
    assert resolve_config(tmp_path / "run.yaml") == config


def options(config: BaseModel) -> dict[str, Any]:
    """Names and descriptions of all options at any depth."""
    found: dict[str, Any] = {}
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        found |= options(value) if isinstance(value, BaseModel) else {name: field.description}
    return found


@pytest.mark.parametrize(("method", "preset"), PRESETS)
def test_every_option_has_a_line_with_its_meaning(method: str, preset: str) -> None:
    config = resolve_config(method=method, preset=preset)
    text = options_text(config)
    for name, description in options(config.options).items():
        comment = rf".*  # (.* \| .*; )?{re.escape(description)}$" if description else r".+$"
        assert re.search(rf"^ *{name}: .*{comment}", text, re.M), name
    if method == "tgr" and preset != "published":
        assert "strategy: dispersed  # dispersed | spectral |" in text


def test_lists_and_texts_are_read_back_equal() -> None:
    changed = {
        "meta_model": {"width": [8, 8, 16, 16]},
        "probe": {"weights": "no: # one's", "architecture": "imagenet-resnet34"},
    }
    config = resolve_config(changed)
    text = options_text(config)
    assert "  width: [8, 8, 16, 16]  # " in text
    assert yaml.safe_load(text)["probe"]["weights"] == "no: # one's"
    assert resolve_config(yaml.safe_load(text)) == config
