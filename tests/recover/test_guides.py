import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from error_checks import raises
from recover_helpers import LETTERS, VISION_TRANSFORMER, distances, recover, spec_of, teacher_of, trained

from metazoo.bank import Bank
from metazoo.data.augment import ShiftAndFlip
from metazoo.errors import RunError, ZooError
from metazoo.models import ClassifierSpec, ImageClassifier
from metazoo.recover import RecoveryBudget, RecoveryConfig, guides_for, recover_zoo
from metazoo.recover.guides import choose_guides
from metazoo.recover.inversion import Health, Inversion, RecoveredImages
from metazoo.recover.objectives import BatchNormDistance, batch_norm_distance
from metazoo.recover.pixels import PixelCanvas
from metazoo.recover.start_images import start_images
from metazoo.recover.statistics import BatchNormReader
from metazoo.recover.units import RecoveryUnit, recover_unit
from metazoo.zoo import WhiteBoxTeacher, Zoo
from metazoo.zoo.contract import Permission

WANTED = torch.arange(4).repeat(8)


@pytest.fixture
def zoo(tmp_path: Path) -> Zoo:
    return Zoo.create(tmp_path / "zoo")


def add(zoo: Zoo, name: str, spec: ClassifierSpec, domain: str = "letters", permission: Permission = "show") -> None:
    names = tuple(LETTERS[: spec.classes])
    zoo.store(name, trained(spec, steps=2), class_names=names, domain=domain, recovered_images=permission)


def recovered(zoo: Zoo, name: str, *, guide: str | None = None) -> RecoveredImages:
    guided_by = None if guide is None else zoo.contract(guide)
    config = RecoveryConfig(iterations=8)
    reference = zoo.reference(*filter(None, (zoo.contract(name), guided_by)))
    unit = RecoveryUnit(reference, zoo.contract(name), 0, (0,), (WANTED,), config, 84, 3, guided_by)
    (found,) = recover_unit(unit)
    return found


def test_models_with_batch_norm_guide_those_without_of_their_domain_first(zoo: Zoo) -> None:
    for name, domain in (("vit", "letters"), ("other-vit", "signs"), ("lonely-vit", "dogs")):
        add(zoo, name, VISION_TRANSFORMER, domain)
    assert choose_guides(zoo, 0) == {}
    for name, domain in (("a", "letters"), ("b", "letters"), ("c", "signs")):
        add(zoo, name, spec_of(), domain)
    drawn = [choose_guides(zoo, seed) for seed in range(8)]
    assert choose_guides(zoo, 0) == drawn[0]
    assert all(guides.keys() == {"vit", "other-vit", "lonely-vit"} for guides in drawn)
    assert {guides["vit"].name for guides in drawn} == {"a", "b"}
    assert {guides["other-vit"].name for guides in drawn} == {"c"}
    assert {guides["lonely-vit"].name for guides in drawn} == {"a", "b", "c"}


def test_a_guide_has_no_more_protection_than_the_guided_model(zoo: Zoo) -> None:
    permissions: dict[str, Permission] = {"show": "show", "keep": "keep", "discard": "discard"}
    for name, permission in permissions.items():
        add(zoo, f"vit-{name}", VISION_TRANSFORMER, permission=permission)
    add(zoo, "kept", spec_of(), permission="keep")
    assert {name: guide.name for name, guide in choose_guides(zoo, 0).items()} == {
        "vit-keep": "kept",
        "vit-discard": "kept",
    }


def test_all_models_can_have_guides_of_their_domain(zoo: Zoo) -> None:
    for name, domain in (("a", "letters"), ("b", "letters"), ("c", "letters"), ("lonely", "signs")):
        add(zoo, name, spec_of(), domain)
    add(zoo, "vit", VISION_TRANSFORMER, "signs")
    drawn = [choose_guides(zoo, seed, all_models=True) for seed in range(12)]
    assert all(guides.keys() == {"a", "b", "c", "vit"} for guides in drawn)
    assert {guides["a"].name for guides in drawn} == {"b", "c"}
    assert {guides["vit"].name for guides in drawn} == {"lonely"}
    assert [guides["vit"] for guides in drawn] == [choose_guides(zoo, seed)["vit"] for seed in range(12)]
    assert guides_for(zoo, RecoveryConfig(guide_all=True), 0) == drawn[0]
    add(zoo, "secret", spec_of(), permission="keep")
    assert "secret" not in {choose_guides(zoo, seed, all_models=True)["a"].name for seed in range(12)}


def test_a_config_without_use_for_guides_has_none(zoo: Zoo) -> None:
    add(zoo, "vit", VISION_TRANSFORMER)
    add(zoo, "conv", spec_of())
    assert guides_for(zoo, RecoveryConfig(), 0).keys() == {"vit"}
    for config in (RecoveryConfig(guided=False), RecoveryConfig(iterations=0), RecoveryConfig(batch_norm=0)):
        assert guides_for(zoo, config, 0) == {}


def test_images_come_nearer_to_the_statistics_of_the_guide(teacher: WhiteBoxTeacher) -> None:
    plain = teacher_of(trained(spec_of(), batch_norm=False))
    config = RecoveryConfig(iterations=60)

    def distance(images: torch.Tensor) -> float:
        with BatchNormReader(teacher) as reader, torch.no_grad():
            teacher(images)
            return batch_norm_distance(reader.observed, reader.stored).item()

    results = {}
    for guide in (None, teacher):
        result = recover(plain, WANTED, config, torch.Generator().manual_seed(0), guide=guide)
        assert result.health.batch_norm_distance is None
        assert result.health.agreement > 0.9
        results[guide] = distance(result.images.float() / 255)
    assert results[teacher] < results[None] / 3
    assert not any("forward" in vars(part) for part in teacher.modules())


def test_with_itself_as_a_guide_a_model_is_recovered_as_alone_in_half_of_the_iterations(
    teacher: WhiteBoxTeacher,
) -> None:
    random = torch.Generator()
    led = recover(teacher, WANTED, RecoveryConfig(iterations=9), random.manual_seed(0), guide=teacher)
    alone = recover(teacher, WANTED, RecoveryConfig(iterations=5), random.manual_seed(0))
    assert (led.images.int() - alone.images.int()).abs().float().mean() < 0.5
    assert distances(led.health) == pytest.approx(distances(alone.health), rel=1e-2)


def scaled(classifier: ImageClassifier, factor: float) -> ImageClassifier:
    """The same function, with outputs of the convolutions `factor` times as large."""
    other = copy.deepcopy(classifier)
    with torch.no_grad():
        for convolution, norm, *_ in other.network.blocks:  # pyright: ignore[reportGeneralTypeIssues]
            convolution.weight *= factor
            convolution.bias *= factor
            norm.running_mean *= factor
            norm.running_var *= factor**2
    return other


def test_a_guide_of_larger_activations_counts_as_much_as_the_teacher(teacher: WhiteBoxTeacher) -> None:
    guide = teacher_of(scaled(teacher.classifier, 30.0), "large")
    config, random = RecoveryConfig(iterations=60), torch.Generator()
    alike, large = (
        recover(teacher, WANTED, config, random.manual_seed(0), guide=guide).health for guide in (teacher, guide)
    )
    own, start = distances(large)
    assert large.agreement > 0.9
    assert own < start / 2
    assert own < 1.2 * distances(alike)[0]
    assert large.guide_distance is not None
    assert large.guide_distance_at_start is not None
    assert large.guide_distance_at_start > 100 * start
    assert large.guide_distance < large.guide_distance_at_start / 3
    assert not large.is_worse_than_start


def test_the_guided_distance_starts_as_the_distance_of_the_teacher(teacher: WhiteBoxTeacher) -> None:
    def loss(guide: WhiteBoxTeacher | None) -> float:
        canvas = PixelCanvas(torch.rand(32, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
        augmentation, random = ShiftAndFlip(0), torch.Generator().manual_seed(0)
        terms = [BatchNormDistance()]
        return Inversion(teacher, canvas, WANTED, terms, augmentation, random, guide=guide).loss().item()

    large = teacher_of(scaled(teacher.classifier, 30.0), "large")
    assert loss(large) == pytest.approx(loss(None), rel=0.05)


def test_a_guide_whose_own_statistics_are_not_reached_is_rejected_too() -> None:
    health = Health(1.0, 1.0, 2.0, guide_distance=540.0, guide_distance_at_start=540.0)
    assert health.is_worse_than_start
    assert not replace(health, guide_distance=100.0).is_worse_than_start
    assert replace(health, guide_distance=100.0, batch_norm_distance=2.0).is_worse_than_start


GUIDES: list[WhiteBoxTeacher | None] = []


class Noted(RecoveryConfig):
    """Records the guide of every inversion."""

    def inversions(self, *arguments: Any, **options: Any) -> Any:
        GUIDES.append(options["guide"])
        return super().inversions(*arguments, **options)


def test_an_unsound_teacher_is_named_rather_than_its_guide(zoo: Zoo) -> None:
    add(zoo, "sound", spec_of())
    ruined = trained(spec_of(), steps=2)
    with torch.no_grad():
        for parameter in ruined.parameters():
            parameter += 1e25 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    zoo.store("ruined", ruined, class_names=tuple(LETTERS[: ruined.spec.classes]), domain="letters")
    reference = zoo.reference(zoo.contract("ruined"), zoo.contract("sound"))
    unit = RecoveryUnit(
        reference, zoo.contract("ruined"), 0, (0,), (WANTED,), Noted(iterations=2), 84, 3, zoo.contract("sound")
    )
    GUIDES.clear()
    with raises(ZooError, subject="model 'ruined'", problem="not finite"):
        recover_unit(unit)
    assert [guide is not None for guide in GUIDES] == [True]


@pytest.mark.parametrize("finite", [True, False])
def test_a_guide_that_fails_is_rejected(zoo: Zoo, finite: bool) -> None:
    add(zoo, "a", spec_of())
    ruined = trained(spec_of(), steps=2)
    with torch.no_grad():
        if finite:  # statistics of starting images, so that all others are further away
            with BatchNormReader(ruined) as reader:
                ruined(start_images("leaves", 32, 3, 16, torch.Generator().manual_seed(5)))
            for observed, stored in zip(reader.observed, reader.stored, strict=True):
                for value, known in zip(observed, stored, strict=True):
                    known.copy_(value)
        else:
            for parameter in ruined.parameters():
                parameter += 1e9 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    zoo.store("ruined", ruined, class_names=tuple(LETTERS[: ruined.spec.classes]), domain="letters")
    led, alone = recovered(zoo, "a", guide="ruined"), recovered(zoo, "a")
    assert torch.equal(led.images, alone.images)
    assert led.health == replace(alone.health, guide_rejected=True)
    assert led.health.figures() == {**alone.health.figures(), "guide_let_go": 1}


def test_a_good_guide_is_kept(zoo: Zoo) -> None:
    for name in "ab":
        add(zoo, name, spec_of())
    led = recovered(zoo, "a", guide="b")
    assert not torch.equal(led.images, recovered(zoo, "a").images)
    assert "guide_let_go" not in led.health.figures()


def test_a_bank_says_who_guided(zoo: Zoo, tmp_path: Path) -> None:
    add(zoo, "vit", VISION_TRANSFORMER)
    add(zoo, "conv", spec_of(5))
    config, budget = RecoveryConfig(iterations=2), RecoveryBudget(images_per_class=4, bucket_size=8)
    bank, alone = (Bank.create(tmp_path / name) for name in ("bank", "alone"))
    recover_zoo(zoo, bank, config, budget, 3)
    made = bank.made_with("vit")
    assert (made["guide"], made["guide_sha256"]) == ("conv", zoo.contract("conv").weights_sha256)
    assert "guide" not in bank.made_with("conv")
    recover_zoo(zoo, alone, config.model_copy(update={"guided": False}), budget, 3)
    assert not torch.equal(alone.images_of("vit")[0], bank.images_of("vit")[0])
    assert torch.equal(alone.images_of("conv")[0], bank.images_of("conv")[0])
    zoo.remove({"conv"})
    with raises(RunError, subject="'vit'", problem="guide conv, not None"):
        recover_zoo(zoo, bank, config, budget, 3)
