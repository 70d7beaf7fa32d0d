"""What a method requires is checked before any work."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from error_checks import raises
from pydantic import BaseModel
from training_helpers import SIDE, untrained

from metazoo.errors import UsageError
from metazoo.methods import METHODS, Method, Requirements
from metazoo.methods.base import check_before_work
from metazoo.models import ClassifierSpec, ImageClassifier, build_classifier
from metazoo.pipeline.workspace import Workspace
from metazoo.runs.plan import plan_run
from metazoo.runs.train import train
from metazoo.zoo import Zoo


class LabelledConfig(BaseModel, frozen=True):
    validation: str | None = None


class Config(BaseModel, frozen=True):
    labelled: LabelledConfig = LabelledConfig()


class Strict(Method):
    name, title, reference = "strict", "Strict", "nobody, 2026"
    presets: ClassVar[Mapping[str, BaseModel]] = {"default": Config()}
    checked: tuple[Any, ...] = ()

    def __init__(self, **needs: bool) -> None:
        # A method states it for its class; the tests need several.
        self.requires = Requirements(**needs)  # pyright: ignore[reportAttributeAccessIssue]

    def check(self, zoo: Zoo, config: Any, seed: int) -> None:
        self.checked = (zoo, config, seed)

    def train(self, workspace: Workspace, config: Any) -> ImageClassifier:
        raise AssertionError("nothing is trained here")


def without_batch_norm(zoo: Zoo, name: str) -> Zoo:
    spec = ClassifierSpec(
        architecture="timm:vit_tiny_patch16_224", arguments={"depth": 1, "embed_dim": 12, "num_heads": 2},
        classes=2, input_size=SIDE, mean=(0.5,) * 3, std=(0.25,) * 3,
    )  # fmt: skip
    random = torch.Generator().manual_seed(0)
    zoo.store(name, build_classifier(spec, random), class_names=("a", "b"), domain="none")
    return Zoo.open(zoo.folder)


def test_what_fits_is_left_to_the_method(tmp_path: Path) -> None:
    zoo = untrained(tmp_path / "zoo", ("none", "none"))
    method, config = Strict(one_architecture=True, batch_norm=True), Config()
    check_before_work(method, zoo, config, 7)
    assert method.checked == (zoo, config, 7)


def test_the_first_model_that_does_not_fit_is_named(tmp_path: Path) -> None:
    zoo = untrained(tmp_path / "zoo")
    with raises(UsageError, subject="'model-2'", problem="'model-0'", remedy=f"{zoo.folder} model-2"):
        check_before_work(Strict(one_architecture=True), zoo, Config(), 0)
    check_before_work(Strict(batch_norm=True), zoo, Config(), 0)
    zoo = without_batch_norm(zoo, "patches")
    with raises(UsageError, subject="'patches'", problem="strict needs batch norm"):
        check_before_work(Strict(batch_norm=True), zoo, Config(), 0)
    zoo.remove(["patches", "model-2"])
    check_before_work(Strict(batch_norm=True, one_architecture=True), Zoo.open(zoo.folder), Config(), 0)


def test_weights_are_needed_by_white_box_methods_alone(tmp_path: Path) -> None:
    zoo = untrained(tmp_path / "zoo")
    known, *others = zoo.contracts
    zoo = Zoo(zoo.folder, [known, *(contract.model_copy(update={"weights_sha256": ""}) for contract in others)])
    method = Strict(white_box=False)
    check_before_work(method, zoo, Config(), 3)
    assert method.checked
    for refuse in (lambda: plan_run(zoo), lambda: train(zoo, out=tmp_path / "run")):
        with raises(UsageError, subject="'model-1'", problem="tgr needs the weights"):
            refuse()
    assert not (tmp_path / "run").exists()


def test_a_missing_validation_set_is_named_by_its_option(tmp_path: Path) -> None:
    zoo, method = untrained(tmp_path / "zoo"), Strict(labelled_validation=True)
    with raises(UsageError, subject="labelled.validation", problem="strict"):
        check_before_work(method, zoo, Config(), 0)
    check_before_work(method, zoo, Config(labelled=LabelledConfig(validation="glyphs:lao")), 0)
    assert method.checked


def test_requirements_are_words() -> None:
    assert str(Requirements()) == "white box"
    assert str(Requirements(white_box=False)) == "nothing"
    assert str(Requirements(batch_norm=True, labelled_validation=True)) == "white box, batch norm, labelled validation"
    assert all(isinstance(method.requires, Requirements) for method in METHODS)
