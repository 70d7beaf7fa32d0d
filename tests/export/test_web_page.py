import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from adapt.adapt_helpers import made, network, of_two_domains, pictures
from error_checks import raises

from metazoo.adapt import FewShotClassifier, MetaModel
from metazoo.errors import ArtefactError, DataError, UsageError
from metazoo.export import export_web_page
from metazoo.export.web_page import _calibration, _identity, _page, _parts
from metazoo.features.embedders import JointFeatures


def classifier(**more: Any) -> FewShotClassifier:
    return made(**{"head": "nearest-mean"} | more)


def meta_model(module: Any = None) -> MetaModel:
    return MetaModel(module or network(), method="best-model", preset="default", seed=0)


@pytest.mark.parametrize("head", ["logistic", "nearest-mean-euclidean", "fine-tune"])
def test_other_heads_are_refused(head: str, tmp_path: Path) -> None:
    with raises(UsageError, subject="classifier", problem=f"head {head}", remedy="--head nearest-mean"):
        export_web_page(classifier(head=head), tmp_path / "page.html")
    assert not [*tmp_path.iterdir()]


def test_predictions_that_depend_on_each_other_are_refused(tmp_path: Path) -> None:
    with raises(UsageError, subject="classifier", problem="batch norm query", remedy="running or support"):
        export_web_page(classifier(batch_norm="query"), tmp_path / "page.html")


def test_a_meta_model_that_recognises_domains_is_refused(tmp_path: Path) -> None:
    with raises(UsageError, subject="meta-model", problem="several domains", remedy="export the classifier"):
        export_web_page(meta_model(of_two_domains()), tmp_path / "page.html")


def test_wrong_targets_are_refused_before_any_work(tmp_path: Path) -> None:
    own, page = classifier(), tmp_path / "page.html"
    with raises(UsageError, subject="page.htm", problem=".htm", remedy=".html"):
        export_web_page(own, tmp_path / "page.htm")
    page.write_text("mine")
    with raises(UsageError, subject="page.html", problem="exists", remedy="--overwrite"):
        export_web_page(own, page)
    with raises(UsageError, subject="none.tgz", problem="does not exist"):
        export_web_page(own, page, runtime=tmp_path / "none.tgz", overwrite=True)
    (tmp_path / "bad.tgz").write_text("no archive")
    with raises(ArtefactError, subject="bad.tgz"):
        export_web_page(own, page, runtime=tmp_path / "bad.tgz", overwrite=True)
    (tmp_path / "bad.png").write_text("no image")
    with raises(DataError, subject="bad.png"):
        export_web_page(own, page, check=[tmp_path / "bad.png"], overwrite=True)
    assert page.read_text() == "mine"
    assert {file.name for file in tmp_path.iterdir()} == {"page.html", "bad.tgz", "bad.png"}


def test_saved_means_fit_every_page_of_the_same_embedder() -> None:
    def identity(subject: FewShotClassifier | MetaModel) -> str:
        return _identity(_parts(subject)[0])

    first = identity(meta_model())
    assert identity(classifier()) == identity(classifier(class_names=("x", "y", "z"))) == first
    others = [classifier(mirrored=True), classifier(batch_norm="support"), meta_model(network(seed=1))]
    others += [meta_model(JointFeatures([network()]).eval()), meta_model(network(size=32))]
    others += [classifier(module=of_two_domains()), classifier(module=of_two_domains(), support_images=pictures(7, 9))]
    assert len({first, *map(identity, others)}) == 1 + len(others)


class Reader(HTMLParser):
    """Elements of a page: attributes and text of each, in their order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None], str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs), ""))

    def handle_endtag(self, tag: str) -> None:
        self.found.append((f"/{tag}", {}, ""))

    def handle_data(self, data: str) -> None:
        if self.found:
            tag, attributes, text = self.found[-1]
            self.found[-1] = tag, attributes, text + data


def test_the_page_is_one_file_that_its_policy_binds() -> None:
    names = ["</script><script>alert(1)</script>", "<!--<script>", "\udce9", 'é "&amp;', "\u2028"]
    content = {"classes": [{"name": name, "mean": [0.1, 1e-9], "images": 5} for name in names], "scale": 10.0}
    parts = {"runtime": b"export default 1", "runtime-wasm": b"\0asm", "model": bytes(range(256))}
    text = _page(title="a <b> & c", description="<i>", agreement="1", content=content, parts=parts)
    found = Reader(text).found
    scripts = [(attributes, inner) for tag, attributes, inner in found if tag == "script"]
    assert [attributes.get("id") for attributes, _ in scripts] == ["data", *parts, None]
    assert json.loads(scripts[0][1]) == content
    assert {tag for tag, _, _ in found}.isdisjoint({"link", "img", "iframe", "b", "i"})
    addresses = [attributes for _, attributes, _ in found if {"src", "href", "action"} & set(attributes)]
    assert addresses == []
    assert not re.search(r"https?://|\bfetch\(|XMLHttpRequest|WebSocket|innerHTML", text)
    (policy,) = [a["content"] for tag, a, _ in found if tag == "meta" and "content-security" in str(a).lower()]
    assert policy is not None
    (style,) = [inner for tag, _, inner in found if tag == "style"]
    for kind, inner in (("script", scripts[-1][1]), ("style", style)):
        digest = base64.b64encode(hashlib.sha256(inner.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none';")
    assert "connect-src" not in policy
    assert "unsafe-inline" not in policy


def test_only_a_fitted_temperature_is_called_calibrated() -> None:
    one_each = classifier(support_images=pictures(3), support_labels=torch.arange(3))
    for subject in (meta_model(), one_each):
        assert "not calibrated" in _calibration(subject)
    assert "calibrated for the classes that came with" in _calibration(classifier())


def test_the_licence_of_the_runtime_is_in_the_page() -> None:
    text = _page(title="", description="", agreement="", content={}, parts={})
    assert "Copyright (c) Microsoft Corporation" in text
    assert "The above copyright notice and this permission notice shall be included" in text
