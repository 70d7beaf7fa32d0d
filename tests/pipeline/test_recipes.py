from types import SimpleNamespace
from typing import Any, cast

import pytest

from metazoo.errors import UsageError
from metazoo.methods.tgr import TgrConfig
from metazoo.methods.tgr_published import PublishedTgrConfig
from metazoo.models import ClassifierSpec
from metazoo.runs.config import resolve_config
from metazoo.zoo import Zoo

ZOO = cast(Zoo, [SimpleNamespace(spec=SimpleNamespace(input_size=size)) for size in (32, 84, 32)])


def meta_model(setting: str, asked: dict[str, Any]) -> ClassifierSpec:
    config = resolve_config({"meta_model": asked}, preset=setting).options
    assert isinstance(config, TgrConfig | PublishedTgrConfig)
    return config.meta_model.spec(ZOO)


@pytest.mark.parametrize(
    ("setting", "asked", "arguments"),
    [
        ("default", {}, {"width": 64}),
        ("thorough", {}, {"width": 64}),
        ("published", {}, {}),
        ("default", {"width": None}, {}),
        ("default", {"width": 20}, {"width": 20}),
        ("default", {"width": [8, 8, 16, 16]}, {"width": (8, 8, 16, 16)}),
        ("default", {"architecture": "resnet10"}, {}),
        ("published", {"architecture": "resnet10"}, {}),
        ("published", {"width": "default"}, {"width": 64}),
        ("default", {"architecture": "thin-resnet", "width": 24}, {"width": 24}),
    ],
)
def test_a_conv4_is_wider_than_its_own_width_where_nobody_says_how_wide(
    setting: str, asked: dict[str, Any], arguments: dict[str, Any]
) -> None:
    spec = meta_model(setting, asked)
    assert spec.arguments == arguments
    assert spec.input_size == 32


@pytest.mark.parametrize(
    "width", [0, "wide", 10_000, True, 8.0, [8, 8, 8], [8, 8, 8, 0], [8, 8, 8, 8.0], [[8] * 4] * 4]
)
def test_a_width_that_is_none_is_refused(width: Any) -> None:
    with pytest.raises(UsageError, match=r"meta_model\.width: .*, default or null"):
        resolve_config({"meta_model": {"width": width}})


def test_blocks_of_their_own_width_are_of_conv4_alone() -> None:
    with pytest.raises(UsageError, match=r"meta_model\.width: .* one number, or of conv4 4, one for each block"):
        resolve_config({"meta_model": {"architecture": "thin-resnet", "width": [8, 8, 16, 16]}})
