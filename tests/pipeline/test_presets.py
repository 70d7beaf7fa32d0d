from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from metazoo.errors import UsageError
from metazoo.execution.randomness import seed_of
from metazoo.methods.tgr import TgrConfig
from metazoo.methods.tgr_published import PublishedTgrConfig
from metazoo.models import ClassifierSpec
from metazoo.pipeline import embedding_stage
from metazoo.pipeline.shared_config import GroupingConfig
from metazoo.runs.config import resolve_config
from metazoo.taskspace import group
from metazoo.zoo import Zoo

ZOO = cast(Zoo, [SimpleNamespace(spec=SimpleNamespace(input_size=size)) for size in (32, 84, 32)])


def meta_model(preset: str, asked: dict[str, Any]) -> ClassifierSpec:
    config = resolve_config({"meta_model": asked}, preset=preset).options
    assert isinstance(config, TgrConfig | PublishedTgrConfig)
    return config.meta_model.spec(ZOO)


@pytest.mark.parametrize(
    ("preset", "asked", "arguments"),
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
def test_the_default_width_of_a_conv4_is_64(preset: str, asked: dict[str, Any], arguments: dict[str, Any]) -> None:
    spec = meta_model(preset, asked)
    assert spec.arguments == arguments
    assert spec.input_size == 32


@pytest.mark.parametrize(
    "width", [0, "wide", 10_000, True, 8.0, [8, 8, 8], [8, 8, 8, 0], [8, 8, 8, 8.0], [[8] * 4] * 4]
)
def test_an_impossible_width_is_refused(width: Any) -> None:
    with pytest.raises(UsageError, match=r"meta_model\.width"):
        resolve_config({"meta_model": {"width": width}})


def test_one_width_for_each_block_is_refused_for_other_architectures() -> None:
    with pytest.raises(UsageError, match=r"meta_model\.width.* conv4"):
        resolve_config({"meta_model": {"architecture": "thin-resnet", "width": [8, 8, 16, 16]}})


def test_shuffling_permutes_the_teachers_of_the_dissimilarities(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names, given = [f"model-{number}" for number in range(8)], []

    def watched(distance: torch.Tensor, *arguments: Any, **keywords: Any) -> Any:
        given.append((distance, keywords["seed"]))
        return group(distance, *arguments, **keywords)

    monkeypatch.setattr(embedding_stage, "group", watched)
    values = torch.rand(8, 8, generator=torch.Generator().manual_seed(0))
    distance = (values + values.T).fill_diagonal_(0)
    plain, shuffled, again, other = (
        embedding_stage.grouped(distance, GroupingConfig(groups=3, shuffle=shuffle), names, seed)
        for shuffle, seed in ((False, 0), (True, 0), (True, 0), (True, 1))
    )
    assert shuffled == again != plain
    assert other != shuffled
    (_, seed), (permuted, _), _, _ = given
    assert torch.equal(given[0][0], distance)
    assert not torch.equal(permuted, distance)
    assert torch.equal(permuted.flatten().sort().values, distance.flatten().sort().values)
    assert torch.equal(permuted, permuted.T)
    assert not permuted.diagonal().any()
    assert seed == seed_of(0, "grouping", "dispersed")
