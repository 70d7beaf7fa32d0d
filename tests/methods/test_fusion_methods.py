"""The methods that fuse weights: `average`, `ot-fusion` and `dro`, from a zoo to a meta-model."""

from pathlib import Path
from typing import Any

import pytest
import torch
from error_checks import raises
from plugins.plugin_helpers import without_plugins
from torch import Tensor, nn
from training_helpers import content

from metazoo.errors import MetazooError, UsageError
from metazoo.fusion import RobustInitialisation
from metazoo.fusion.average import feature_tensors
from metazoo.fusion.channel_groups import channel_groups, permuted
from metazoo.methods import METHODS
from metazoo.models import Argument, ClassifierSpec, ImageClassifier, build_classifier, register_architecture
from metazoo.pipeline.layout import META_MODEL
from metazoo.runs.train import train
from metazoo.zoo import Zoo

FUSIONS = ("average", "ot-fusion", "dro")
CLASSES = ("a", "b", "c", "d")


def spec(architecture: str = "conv4", classes: int = 3, **changes: Any) -> ClassifierSpec:
    width: dict[str, Argument] = {"width": 4}
    values = {"arguments": width, "input_size": 16, "mean": (0.5,) * 3, "std": (0.25,) * 3, **changes}
    return ClassifierSpec(architecture=architecture, classes=classes, **values)


def stored(folder: Path, *models: ImageClassifier) -> Zoo:
    zoo = Zoo.create(folder)
    for number, model in enumerate(models):
        zoo.store(f"model-{number}", model, class_names=CLASSES[: model.spec.classes], domain="none")
    return Zoo.open(folder)


def built(own: ClassifierSpec, seed: int = 0) -> ImageClassifier:
    return build_classifier(own, torch.Generator().manual_seed(seed)).eval()


def different(folder: Path) -> Zoo:
    return stored(folder, *(built(spec(classes=2 + seed % 2), seed) for seed in range(5)))


def fused(zoo: Zoo, method: str, out: Path, **options: Any) -> ImageClassifier:
    module = train(zoo, method, out=out, workers=1, **options).meta_model.module
    assert isinstance(module, ImageClassifier)
    return module


def same(one: ImageClassifier, other: ImageClassifier) -> bool:
    states = (one.network.state_dict(), other.network.state_dict())
    return all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


@pytest.mark.parametrize("method", FUSIONS)
def test_a_meta_model_adapts_with_every_head_that_needs_no_head_of_its_own(method: str, tmp_path: Path) -> None:
    zoo = different(tmp_path / "zoo")
    run = train(zoo, method, out=tmp_path / "run", workers=1)
    assert not any(parameter.requires_grad for parameter in run.meta_model.networks[0].parameters())
    images, labels = torch.rand(6, 3, 16, 16), torch.tensor([0, 0, 1, 1, 2, 2])
    for head in ("logistic", "fine-tune"):
        assert run.meta_model.adapt(images, labels, head=head).predict(images).labels.shape == (6,)


@pytest.mark.parametrize("method", FUSIONS)
def test_only_the_seed_decides(method: str, tmp_path: Path) -> None:
    zoo = different(tmp_path / "zoo")
    one, again, other = (
        fused(zoo, method, tmp_path / name, seed=seed) for name, seed in (("one", 0), ("again", 0), ("other", 1))
    )
    assert same(one, again)
    assert same(one, other) != METHODS.get(method).is_random
    assert content(tmp_path / "one") == content(tmp_path / "again")


@pytest.mark.parametrize("method", FUSIONS)
@pytest.mark.parametrize("change", [{"arguments": {"width": 5}}, {"input_size": 32}])
def test_the_models_must_have_one_shape(method: str, change: dict[str, Any], tmp_path: Path) -> None:
    first = built(spec())
    zoo = stored(tmp_path / "zoo", first, built(spec(**change)))
    with raises(
        UsageError, subject="'model-1'", problem="differs" if "arguments" in change else "differ", remedy="method"
    ):
        train(zoo, method, out=tmp_path / "run")
    with raises(UsageError, subject="single", problem="1 model", remedy="another zoo"):
        train(stored(tmp_path / "single", first), method, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("architecture", "preset"), [("conv4", "published"), ("thin-resnet", "default")])
def test_permuted_copies_in_a_zoo_are_one_model(architecture: str, preset: str, tmp_path: Path) -> None:
    original = built(spec(architecture))
    groups, random = channel_groups(original), torch.Generator().manual_seed(0)
    models = []
    for seed in range(3):
        copy = built(original.spec, seed)
        state = {name: tensor for name, tensor in original.network.state_dict().items() if "head" not in name}
        orders = [torch.randperm(group.size, generator=random) for group in groups]
        copy.network.load_state_dict(permuted(state, groups, orders), strict=False)
        models.append(copy)
    zoo = stored(tmp_path / "zoo", *models)
    found = [fused(zoo, "ot-fusion", tmp_path / f"{seed}", preset=preset, seed=seed) for seed in range(3)]
    # The channels have the order of the reference, which the seed draws.
    matches = [[are_close(one, model) for model in models] for one in found]
    assert all(sum(row) == 1 for row in matches)
    assert len({tuple(row) for row in matches}) > 1
    assert not any(are_close(fused(zoo, "average", tmp_path / "mean", resume=True), model) for model in models)


def are_close(one: ImageClassifier, other: ImageClassifier) -> bool:
    wanted = feature_tensors(other)
    return all(torch.allclose(tensor, wanted[name]) for name, tensor in feature_tensors(one).items())


class WithGroups(nn.Module):
    def __init__(self, classes: int, channels: int, input_size: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(channels, 4, 3), nn.GroupNorm(2, 4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(4, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images))


def test_networks_that_cannot_be_aligned_are_refused_before_any_work(tmp_path: Path) -> None:
    with without_plugins():
        register_architecture("with-groups", WithGroups)
        own = spec("with-groups", arguments={})
        zoo = stored(tmp_path / "zoo", *(built(own, seed) for seed in range(2)))
        with raises(UsageError, subject="with-groups", problem="'group_norm'", remedy="average"):
            train(zoo, "ot-fusion", out=tmp_path / "run")
        assert not (tmp_path / "run").exists()


def test_dro_without_learning_is_the_average(tmp_path: Path) -> None:
    zoo = different(tmp_path / "zoo")
    start = fused(zoo, "dro", tmp_path / "start", config={"epochs": 0})
    average = fused(zoo, "average", tmp_path / "average")
    learned = fused(zoo, "dro", tmp_path / "learned")
    for name, tensor in average.network.state_dict().items():
        torch.testing.assert_close(start.network.state_dict()[name], tensor)
        if "running" in name:
            torch.testing.assert_close(learned.network.state_dict()[name], tensor)
    assert not same(start, learned)


def test_dro_that_was_stopped_ends_bit_equal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zoo, real, calls = different(tmp_path / "zoo"), RobustInitialisation.step, []

    def stopping(learner: RobustInitialisation, random: torch.Generator) -> float:
        calls.append(learner)
        if len(calls) == 9:
            raise KeyboardInterrupt
        return real(learner, random)

    with monkeypatch.context() as patch:
        patch.setattr(RobustInitialisation, "step", stopping)
        with pytest.raises(KeyboardInterrupt):
            fused(zoo, "dro", tmp_path / "stopped")
    assert not (tmp_path / "stopped" / META_MODEL).exists()
    fused(zoo, "dro", tmp_path / "stopped", resume=True)
    fused(zoo, "dro", tmp_path / "whole")
    assert content(tmp_path / "stopped") == content(tmp_path / "whole")


@pytest.mark.parametrize("epochs", [3, 2000])
def test_dro_reports_divergence_also_of_single_precision(epochs: int, tmp_path: Path) -> None:
    models = [built(spec(), seed) for seed in range(5)]
    with torch.no_grad():
        for parameter in models[3].network.parameters():
            parameter.mul_(30)
    zoo = stored(tmp_path / "zoo", *models)
    problem = f"diverged in {epochs} epochs; model 'model-3' is the farthest"
    with raises(MetazooError, subject="dro", problem=problem, remedy="omit this model"):
        train(zoo, "dro", out=tmp_path / "run", config={"learning_rate": 10.0, "epochs": epochs})
    assert not (tmp_path / "run" / META_MODEL).exists()
