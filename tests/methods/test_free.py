"""The method `free`, with images from the bank and from a meta-generator, on tiny zoos."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from error_checks import raises
from torch import Tensor
from training_helpers import FREE_OPTIONS, content, untrained

from metazoo.bank import Bank
from metazoo.errors import DataError, Interrupted, UsageError
from metazoo.learn.learners import FunctionalClassifier
from metazoo.learn.replay_learning import ReplayLearner, VisitSource
from metazoo.methods.free import Free, GeneratedFreeConfig
from metazoo.models import ClassifierSpec, build_classifier
from metazoo.pipeline.generated_visits import Adversary, GeneratedVisits
from metazoo.pipeline.layout import BANK, CONFLICTS, HEALTH, sheet_of
from metazoo.pipeline.visits import Chosen
from metazoo.recover import MetaGenerator, RecoveredImages, TeacherOutputs
from metazoo.recover.statistics import BatchNormStatistics
from metazoo.runs.config import merged, resolve_config
from metazoo.runs.plan import plan_run
from metazoo.runs.record import Run
from metazoo.runs.train import train
from metazoo.zoo import Zoo

SHARED = {name: value for name, value in FREE_OPTIONS.items() if name != "generator"}
OPTIONS: dict[str, dict[str, Any]] = {
    "published": FREE_OPTIONS,
    "generated": FREE_OPTIONS,
    "default": SHARED | {"recovery": {"iterations": 2}, "budget": {"images_per_class": 6, "bucket_size": 12}},
}


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    """Two conv4 of 3 classes and a thin-resnet of 2, untrained."""
    return untrained(tmp_path_factory.mktemp("zoo") / "zoo")


def trained(zoo: Zoo, out: Path, preset: str = "published", workers: int = 1, **changes: Any) -> Run:
    options = merged(OPTIONS[preset], changes)
    return train(zoo, "free", preset=preset, out=out, config=options, workers=workers, resume=out.exists())


@pytest.fixture(scope="module")
def whole(zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Uninterrupted run with a meta-generator, which tests must not change."""
    return trained(zoo, tmp_path_factory.mktemp("whole") / "run")


def test_a_run_learns_and_shows_what_the_last_meta_generator_makes(zoo: Zoo, whole: Run) -> None:
    rows = [row for row in whole.metrics() if row["stage"] == "learning"]
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert all(row["relative_change"] == 0 and row["replay_updates"] >= 1 for row in rows)
    classifier = whole.meta_model.networks[0]
    assert classifier.spec.classes == 2
    assert classifier.network.head.weight.abs().max() > 0
    # The meta-generator has learned from a model whose images may not be kept.
    bank, strict = Bank.open(whole.path / BANK), [c.name for c in zoo if c.recovered_images == "discard"]
    assert bank.teachers == tuple(strict)
    assert all(map(bank.is_discarded, strict))
    assert not (whole.path / "recovered").exists()
    assert [row["teacher"] for row in whole.record(HEALTH)["teachers"]] == strict


def test_images_are_shown_if_all_models_allow_it(tmp_path: Path) -> None:
    zoo = untrained(tmp_path / "zoo", ("none", "none"))
    run = trained(zoo, tmp_path / "run")
    bank = Bank.open(run.path / BANK)
    for contract in zoo:
        images, labels = bank.images_of(contract.name)
        assert images.shape == (10 * contract.spec.classes, 3, 20, 20)  # 18 pixels, rounded up to a multiple of 4
        assert labels.bincount().tolist() == [10] * contract.spec.classes
        assert (run.path / sheet_of(contract.name)).exists()
    assert "generator.steps" in run.record(HEALTH)["warning"]


@pytest.mark.parametrize("moment", ["warm-up", "learning", "images"])
def test_an_interrupted_run_ends_as_a_whole_one(
    zoo: Zoo, whole: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    owner, name, calls = {
        "warm-up": (MetaGenerator, "step", 2),
        "learning": (ReplayLearner, "step", 3),
        "images": (MetaGenerator, "images", 1),
    }[moment]
    real, left = getattr(owner, name), [calls]

    def stopped(*arguments: Any, **keywords: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            raise Interrupted("for the test")
        return real(*arguments, **keywords)

    monkeypatch.setattr("metazoo.pipeline.replay_stage._SECONDS_BETWEEN_CHECKPOINTS", 0)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, stopped)
        with pytest.raises(Interrupted):
            trained(zoo, tmp_path / "run")
    again = trained(zoo, tmp_path / "run", workers=2)
    assert content(again.path / "meta-model") == content(whole.path / "meta-model")
    assert content(again.path / BANK) == content(whole.path / BANK)


class Spied(VisitSource):
    """Source of visits that notes the meta-model and the generator around every call."""

    def __init__(self, source: VisitSource, learner: ReplayLearner) -> None:
        self.source, self.learner, self.seen = source, learner, []

    def __call__(self, iteration: int) -> Any:
        model = {name: value.clone() for name, value in self.learner.classifier.state_dict().items()}
        visits = self.source(iteration)
        assert all(torch.equal(value, model[name]) for name, value in self.learner.classifier.state_dict().items())
        self.seen.append(visits)
        return visits


def test_the_warm_up_trains_the_generator_alone_and_the_memory_gets_all_visits(
    zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spies: list[Spied] = []
    objectives: list[list[int]] = []
    made, real = ReplayLearner.__init__, MetaGenerator.step

    def spied(self: ReplayLearner, *arguments: Any, **keywords: Any) -> None:
        made(self, *arguments, **keywords)
        self._visit = Spied(self._visit, self)  # pyright: ignore[reportArgumentType]
        spies.append(self._visit)  # pyright: ignore[reportArgumentType]

    def noted(self: MetaGenerator, adaptations: Any, *rest: Any) -> list[RecoveredImages]:
        objectives.append([len(one.objectives) for one in adaptations])
        return real(self, adaptations, *rest)

    monkeypatch.setattr(ReplayLearner, "__init__", spied)
    monkeypatch.setattr(MetaGenerator, "step", noted)
    trained(zoo, tmp_path / "run", learning={"iterations": 2})
    assert objectives == [[0, 0], [0, 0], [1, 1], [1, 1]]
    (spy,) = spies
    assert [len(visits) for visits in spy.seen] == [2, 2]
    expected = torch.zeros(len(spy.learner.memory.counts()), dtype=torch.int64)
    for visits in spy.seen:
        for visit in visits:
            assert visit.images.shape == (10, 3, 18, 18)
            expected += torch.bincount(visit.identities, minlength=len(expected))
    assert torch.equal(spy.learner.memory.counts(), expected)


def test_the_outputs_stand_for_the_classes_in_the_order_of_the_model(
    zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Chosen] = []
    real = GeneratedVisits.draw
    monkeypatch.setattr(GeneratedVisits, "draw", lambda *given: drawn.extend(real(*given)) or drawn[-2:])
    trained(zoo, tmp_path / "run", meta_model={"ways": 3})
    assert {tuple(chosen.classes.tolist()) for chosen in drawn} <= {(0, 1, 2), (0, 1)}


def test_the_adversary_compares_the_chosen_classes_and_leaves_the_meta_model() -> None:
    spec = ClassifierSpec(
        architecture="conv4", arguments={"width": 4}, classes=3, input_size=16, mean=(0.5,) * 3, std=(0.25,) * 3
    )
    classifier = build_classifier(spec, torch.Generator().manual_seed(0))
    before = copy.deepcopy(classifier.state_dict())
    images = torch.rand(6, 3, 20, 20, generator=torch.Generator().manual_seed(1)).requires_grad_(True)
    weight = torch.randn(3, 5, generator=torch.Generator().manual_seed(2))
    of_teacher: Tensor = images.mean((2, 3)) @ weight
    chosen, model = Chosen(0, torch.tensor([4, 1])), FunctionalClassifier(classifier)
    outputs = TeacherOutputs(images, torch.zeros(6, dtype=torch.int64), of_teacher, BatchNormStatistics([], []))
    value = Adversary(model, chosen, 3.0)(images, outputs, torch.zeros(1, dtype=torch.int64))
    own = model.logits(dict(classifier.named_parameters()), images)[:, :2].double().softmax(1)
    taught = of_teacher[:, [4, 1]].double().softmax(1)
    agree = own.argmax(1) == taught.argmax(1)
    expected = -3 * (agree * (own * (own / taught).log()).sum(1)).mean()
    torch.testing.assert_close(value.double(), expected)
    value.backward()
    assert images.grad is not None
    assert all(parameter.grad is None for parameter in classifier.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in classifier.state_dict().items())


def test_the_default_learns_from_the_bank(zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metazoo.pipeline.generated_visits.MetaGenerator", pytest.fail)
    run = trained(zoo, tmp_path / "run", "default", class_map=None)
    assert run.finished
    assert (run.path / CONFLICTS).exists()
    assert "recovery.iterations" in run.record(HEALTH)["warning"]


@pytest.fixture(scope="module")
def unlike(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    """Models of 2, 3 and 4 classes, one of one channel and 20 pixels, and one without batch norm."""
    zoo = untrained(tmp_path_factory.mktemp("unlike") / "zoo")
    others = {
        "grey": ClassifierSpec(
            architecture="thin-resnet", arguments={"width": 4}, classes=4, input_size=20, channels=1,
            mean=(0.5,), std=(0.25,),
        ),
        "transformer": ClassifierSpec(
            architecture="timm:test_vit",
            arguments={"patch_size": 4, "embed_dim": 8, "depth": 1, "num_heads": 1},
            classes=2, input_size=16, mean=(0.5,) * 3, std=(0.25,) * 3,
        ),
    }  # fmt: skip
    for name, spec in others.items():
        classifier = build_classifier(spec, torch.Generator().manual_seed(0))
        zoo.store(name, classifier, class_names=tuple("wxyz"[: spec.classes]), domain=name)
    return Zoo.open(zoo.folder)


@pytest.mark.parametrize("preset", ["default", "generated"])
def test_a_zoo_of_unlike_models_is_learned_from(unlike: Zoo, tmp_path: Path, preset: str) -> None:
    visits = {"teachers": 5, "replacement": False}
    run = trained(unlike, tmp_path / "run", preset, meta_model={"ways": 3}, visits=visits, learning={"iterations": 1})
    assert all(bool(value.isfinite().all()) for value in run.meta_model.networks[0].state_dict().values())


@pytest.mark.parametrize(
    ("changes", "subject"),
    [
        ({"meta_model": {"ways": 50}}, "meta_model.ways"),
        ({"learning": {"replay": {"queries": 500}}}, "learning.replay"),
    ],
)
def test_impossible_options_are_refused_before_any_work(
    zoo: Zoo, tmp_path: Path, changes: dict[str, Any], subject: str
) -> None:
    for preset in ("default", "published"):
        with raises(UsageError, subject=subject, problem="", remedy="lower"):
            trained(zoo, tmp_path / preset, preset, **changes)
        assert not (tmp_path / preset / BANK).exists()


def test_without_a_bank_the_zoo_cannot_find_equal_classes() -> None:
    with raises(UsageError, subject="options", problem="class_map", remedy=""):
        resolve_config({"class_map": None}, method="free", preset="published")
    assert resolve_config({"class_map": None}, method="free").options is not None


def test_a_checkpoint_without_a_meta_generator_is_refused(zoo: Zoo, tmp_path: Path) -> None:
    found: list[GeneratedVisits] = []
    made = GeneratedVisits.__init__

    def noted(self: GeneratedVisits, *arguments: Any) -> None:
        made(self, *arguments)
        found.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GeneratedVisits, "__init__", noted)
        trained(zoo, tmp_path / "run", learning={"iterations": 1})
    with raises(DataError, subject="checkpoint", problem="meta-generator", remedy="again"):
        found[0].restore({})


def test_the_published_values() -> None:
    config = Free.presets["published"]
    assert isinstance(config, GeneratedFreeConfig)
    assert config.generator.warm_up + config.learning.iterations == 999
    assert (config.generator.steps, config.generator.learning_rate, config.generator.batch_norm) == (5, 1e-3, 0)
    assert (config.visits.teachers, config.visits.replacement, config.visits.images_per_class) == (4, True, 20)
    assert (config.learning.replay.episodes_per_update, config.learning.replay.patience) == (10, 10)
    assert (config.learning.reptile.scale, config.learning.cross_entropy, config.learning.distillation) == (67, 0, 1)


@pytest.mark.parametrize("preset", ["default", "published"])
def test_a_run_is_planned(zoo: Zoo, preset: str) -> None:
    def planned(iterations: int) -> Any:
        options = merged(OPTIONS[preset], {"learning": {"iterations": iterations}})
        return plan_run(zoo, method="free", preset=preset, config=options, workers=1)

    few, many = planned(3), planned(300)
    assert many.total_seconds > 10 * few.stages["learning"].seconds
    if preset == "published":
        stored = 10 * sum(contract.spec.classes for contract in zoo)
        assert few.stages["learning"].units["generated image"] == (2 + 3) * 2 * 5 * 2 + stored
