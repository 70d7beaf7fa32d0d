"""The listing of all options says what they are, and is a file that describes the same run."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from metazoo.methods import METHODS
from metazoo.runs.config import resolve_config
from metazoo.runs.option_list import options_listing

SETTINGS = [(method.name, setting) for method in METHODS for setting in method.presets]


@pytest.mark.parametrize(("method", "setting"), SETTINGS)
def test_what_is_listed_describes_the_same_run(tmp_path: Path, method: str, setting: str) -> None:
    config = resolve_config(method=method, preset=setting, seed=3)
    (tmp_path / "run.yaml").write_text(options_listing(config))
    assert resolve_config(tmp_path / "run.yaml") == config


def options(config: BaseModel) -> dict[str, Any]:
    """Names and descriptions of all options at any depth."""
    found: dict[str, Any] = {}
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        found |= options(value) if isinstance(value, BaseModel) else {name: field.description}
    return found


@pytest.mark.parametrize(("method", "setting"), SETTINGS)
def test_every_option_stands_on_a_line_with_what_it_means(method: str, setting: str) -> None:
    config = resolve_config(method=method, preset=setting)
    listing = options_listing(config)
    for name, description in options(config.options).items():
        said = rf".*  # (.* \| .*; )?{re.escape(description)}$" if description else r".+$"
        assert re.search(rf"^ *{name}: .*{said}", listing, re.M), name
    assert "strategy: dispersed  # dispersed | spectral |" in listing or setting == "published"


def test_values_that_are_lists_texts_or_nothing_stay_what_they_are() -> None:
    changed = {
        "meta_model": {"width": [8, 8, 16, 16]},
        "probe": {"weights": "no: # one's", "architecture": "imagenet-resnet34"},
    }
    config = resolve_config(changed)
    text = options_listing(config)
    assert "  width: [8, 8, 16, 16]  # " in text
    assert yaml.safe_load(text)["probe"]["weights"] == "no: # one's"
    assert resolve_config(yaml.safe_load(text)) == config
