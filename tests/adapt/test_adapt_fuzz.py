"""Loading and using bundles raises nothing but a MetazooError, whatever their JSON holds."""

import contextlib
import json
from pathlib import Path

import pytest
from adapt_helpers import made, network, pictures
from hypothesis import given, settings
from hypothesis import strategies as some
from json_fuzzing import JsonFuzz

from metazoo.adapt import FewShotClassifier, MetaModel
from metazoo.errors import MetazooError

FUZZ = JsonFuzz(
    ["conv4", "thin-resnet", "linear", "cosine", "support", "query", "width", "../x", "\ud800", "\x00", "0" * 64],
    [0, -1, 2, 16, 4096, 2**63, 1e-300, 1e300],
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz")
    made().save(folder / "classifier")
    MetaModel(network(), method="tgr", preset="default", seed=0).save(folder / "meta-model")
    return folder


def _use(folder: Path) -> None:
    with contextlib.suppress(MetazooError):
        classifier = FewShotClassifier.load(folder / "classifier")
        prediction = classifier.predict(pictures(2))
        assert prediction.probabilities.shape == (2, len(classifier.class_names))
    with contextlib.suppress(MetazooError):
        assert MetaModel.load(folder / "meta-model").networks[0].features(pictures(2)).shape == (2, 4)


@settings(max_examples=60)
@given(data=some.data())
@pytest.mark.parametrize("name", ["classifier/bundle.json", "meta-model/bundle.json"])
def test_any_value_of_any_key(folder: Path, name: str, data: some.DataObject) -> None:
    whole = (folder / name).read_bytes()
    content = FUZZ.changed(json.loads(whole), data)
    try:
        (folder / name).write_text(json.dumps(content))
        _use(folder)
    finally:
        (folder / name).write_bytes(whole)
