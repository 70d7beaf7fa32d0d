"""Whatever stands in their JSON, nothing but a MetazooError comes out of loading and using what adapt has written."""

import contextlib
import copy
import json
from pathlib import Path
from typing import Any

import pytest
from adapt_helpers import made, network, pictures
from hypothesis import given, settings
from hypothesis import strategies as some

from metazoo.adapt import FewShotClassifier, MetaModel
from metazoo.errors import MetazooError

_TEXTS = some.text(max_size=20) | some.sampled_from(
    ["conv4", "thin-resnet", "linear", "cosine", "support", "query", "width", "../x", "\ud800", "\x00", "0" * 64]
)
_NUMBERS = some.integers() | some.sampled_from([0, -1, 2, 16, 4096, 2**63, 1e-300, 1e300]) | some.floats()
_SCALARS = some.none() | some.booleans() | _NUMBERS | _TEXTS
_VALUES = some.recursive(
    _SCALARS, lambda inner: some.lists(inner, max_size=4) | some.dictionaries(_TEXTS, inner, max_size=4), max_leaves=8
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz")
    made().save(folder / "classifier")
    MetaModel(network(), method="tgr", setting="default", seed=0).save(folder / "meta-model")
    return folder


def _use(folder: Path) -> None:
    with contextlib.suppress(MetazooError):
        classifier = FewShotClassifier.load(folder / "classifier")
        prediction = classifier.predict(pictures(2))
        assert prediction.probabilities.shape == (2, len(classifier.class_names))
    with contextlib.suppress(MetazooError):
        assert MetaModel.load(folder / "meta-model").classifier.features(pictures(2)).shape == (2, 4)


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in items for place in _places(item, (*path, key)))]


@settings(max_examples=150)
@given(data=some.data())
@pytest.mark.parametrize("name", ["classifier/classifier.json", "meta-model/meta-model.json"])
def test_values_of_any_kind_at_any_place(folder: Path, name: str, data: some.DataObject) -> None:
    whole = (folder / name).read_bytes()
    content = copy.deepcopy(json.loads(whole))
    for _ in range(data.draw(some.integers(1, 2))):
        *path, last = data.draw(some.sampled_from([place for place in _places(content) if place]))
        parent = content
        for key in path:
            parent = parent[key]
        act = data.draw(some.sampled_from(["replace", "replace", "remove", "add"]))
        if act == "replace":
            parent[last] = data.draw(_VALUES)
        elif act == "remove":
            del parent[last]
        elif isinstance(parent, dict):
            parent[data.draw(_TEXTS)] = data.draw(_VALUES)
        else:
            parent.append(copy.deepcopy(parent[last]))
    try:
        (folder / name).write_text(json.dumps(content))
        _use(folder)
    finally:
        (folder / name).write_bytes(whole)
