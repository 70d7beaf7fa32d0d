from dataclasses import replace
from pathlib import Path

import pytest
import torch
from recover_helpers import LETTERS, VISION_TRANSFORMER, distances, recover, spec_of, teacher_of, trained

from metazoo.bank import Bank
from metazoo.errors import RunError
from metazoo.models import ClassifierSpec
from metazoo.recover import RecoveryBudget, RecoveryConfig, guides_for, recover_zoo
from metazoo.recover.guides import choose_guides
from metazoo.recover.inversion import RecoveredImages
from metazoo.recover.objectives import batch_norm_distance
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
    zoo.add(name, trained(spec, steps=2), class_names=names, domain=domain, recovered_images=permission)


def recovered(zoo: Zoo, name: str, *, guide: str | None = None) -> RecoveredImages:
    guided_by = None if guide is None else zoo.contract(guide)
    config = RecoveryConfig(iterations=8)
    reference = zoo.reference(*filter(None, (zoo.contract(name), guided_by)))
    unit = RecoveryUnit(reference, zoo.contract(name), 0, (0,), (WANTED,), config, 84, 3, guided_by)
    (found,) = recover_unit(unit)
    return found


def test_what_has_batch_norm_guides_what_has_not_of_its_own_domain_first(zoo: Zoo) -> None:
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


def test_a_guide_is_no_better_protected_than_whom_it_guides(zoo: Zoo) -> None:
    permissions: dict[str, Permission] = {"show": "show", "keep": "keep", "discard": "discard"}
    for name, permission in permissions.items():
        add(zoo, f"vit-{name}", VISION_TRANSFORMER, permission=permission)
    add(zoo, "kept", spec_of(), permission="keep")
    assert {name: guide.name for name, guide in choose_guides(zoo, 0).items()} == {
        "vit-keep": "kept",
        "vit-discard": "kept",
    }


def test_every_model_is_guided_by_another_of_its_domain_if_asked(zoo: Zoo) -> None:
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


@pytest.mark.parametrize("noise", [3, 1e9])  # far statistics, and none that are finite
def test_a_guide_of_ruined_weights_is_rejected(zoo: Zoo, noise: float) -> None:
    add(zoo, "a", spec_of())
    ruined = trained(spec_of(), steps=2)
    with torch.no_grad():
        for parameter in ruined.parameters():
            parameter += noise * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    zoo.add("ruined", ruined, class_names=tuple(LETTERS[: ruined.spec.classes]), domain="letters")
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
    with pytest.raises(RunError, match="'vit' made with guide conv, not None"):
        recover_zoo(zoo, bank, config, budget, 3)
