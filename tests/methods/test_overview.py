"""The overview of the methods states what they are; docs/methods.md has its table."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import BaseModel

import metazoo
from metazoo.methods import METHODS, Method, Requirements
from metazoo.methods.overview import MethodOverview, methods_markdown
from metazoo.models import ImageClassifier
from metazoo.pipeline.unlabelled_stage import UnlabelledConfig
from metazoo.pipeline.workspace import Workspace

PAGE = Path(__file__).parents[2] / "docs" / "methods.md"


class Plain(BaseModel, frozen=True):
    pass


class Taking(BaseModel, frozen=True):
    unlabelled: UnlabelledConfig = UnlabelledConfig()


class Extension(Method):
    name, title, reference = "extension", "Extension", "a | b"
    presets: ClassVar[Mapping[str, BaseModel]] = {"default": Taking(), "plain": Plain()}
    requires = Requirements(white_box=False, batch_norm=True, labelled_validation=True)

    def train(self, workspace: Workspace, config: Any) -> ImageClassifier:
        raise AssertionError("nothing is trained here")


def test_the_page_has_the_table_of_the_built_in_methods() -> None:
    table = "\n".join(line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("|"))
    assert table == methods_markdown(), "write the output of `metazoo methods --format markdown` into docs/methods.md"


def test_built_in_methods_are_what_they_are() -> None:
    found = {overview.name: overview for overview in metazoo.list_methods()}
    assert {name for name, own in found.items() if own.needs == "nothing"} == {"random", "frozen-backbone"}
    assert "average" in {name for name, own in found.items() if own.one_architecture}
    assert found["tgr"].unlabelled == ("default", "thorough", "quick")
    assert not found["best-model"].is_random
    assert found["zoo-ensemble"].uses == "weights"


def test_an_extension_is_listed_after_the_built_in_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(METHODS, "_values", {**METHODS._values})
    METHODS.register_named(Extension())
    assert metazoo.list_methods()[-1] == MethodOverview(
        name="extension",
        title="Extension",
        presets=("default", "plain"),
        needs="queries",
        one_architecture=False,
        batch_norm=True,
        labelled_validation=("default", "plain"),
        unlabelled=("default",),
        uses="images",
        is_random=True,
        reference="a | b",
    )
    cells = ["extension", "default, plain", "queries", "any", "needs", "needs", "takes (default)", "images", "yes"]
    assert methods_markdown().splitlines()[-1] == f"| {' | '.join(cells)} | a \\| b |"
