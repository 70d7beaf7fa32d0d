"""What a run makes of the domains of its zoo."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from training_helpers import OPTIONS, build, content, untrained

from metazoo.bank import Bank, ResidentBank
from metazoo.learn.embedders import MultiDomainClassifier
from metazoo.learn.readout_fitting import domain_kernel, domain_recogniser
from metazoo.learn.recipe import LearningRecipe
from metazoo.methods import domain_readouts, domains
from metazoo.methods.stages import BANK
from metazoo.methods.trust import SKILL, TRUST, skill_of
from metazoo.methods.workspace import Workspace
from metazoo.models import ImageClassifier
from metazoo.run.folder import RunFolder
from metazoo.run.randomness import generator
from metazoo.training import Run, train
from metazoo.zoo import ModelContract, Zoo


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return build(tmp_path_factory.mktemp("domains") / "zoo", grey=2)


@pytest.fixture(scope="module")
def by_domain(zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return learned(zoo, tmp_path_factory.mktemp("by-domain"))


def learned(zoo: Zoo, out: Path, **changes: Any) -> Run:
    domains = {"longer": 0, "alike": 9.0, **changes.pop("domains", {})}
    return train(zoo, out=out, config={**OPTIONS, "domains": domains, **changes}, workers=1, resume=True)


@torch.no_grad()
def check_readouts(zoo: Zoo, run: Run, weights: list[float] | None = None) -> None:
    """They are of what the models of a domain say of their own images."""
    module = run.meta_model.module
    assert isinstance(module, MultiDomainClassifier)
    assert module.readouts.domains == ("colours", "grey")
    names = [contract.name for contract in zoo]
    bank = ResidentBank.load(Bank.open(run.path / BANK), names, module.classifier.spec.input_size)
    shown, kernels = [], []
    for domain in module.readouts.domains:
        members = [index for index, contract in enumerate(zoo) if contract.domain == domain]
        own = [1.0 if weights is None else weights[index] for index in members]
        places = torch.cat([torch.arange(len(bank))[bank.places_of(index)] for index in members])
        images = bank.pixels(places)
        said = [functional.normalize(zoo.teacher(names[index]).features(images), dim=1) for index in members]
        shown.append(module.features(images))
        labels = torch.cat([bank.labels[bank.places_of(index)] + 100 * index for index in members])
        kernels.append(domain_kernel(shown[-1], labels, said, own, generator(0, "readouts", domain)))
    torch.testing.assert_close(module.readouts.kernels, torch.stack(kernels), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(module.readouts.recogniser, domain_recogniser(shown), rtol=1e-4, atol=1e-4)


def test_readouts_are_of_what_a_domains_models_say_of_their_own_images(zoo: Zoo, by_domain: Run) -> None:
    check_readouts(zoo, by_domain)


def test_models_that_count_for_less_say_less(zoo: Zoo, tmp_path: Path) -> None:
    weighed = learned(zoo, tmp_path, trust={"mode": "weigh", "threshold": 1.0})
    scores = [row["score"] for row in RunFolder(weighed.path).read_json(TRUST)["models"]]
    assert len({round(score, 3) for score in scores}) > 2
    check_readouts(zoo, weighed, [max(score**8, 1e-6) for score in scores])


def test_they_change_nothing_of_the_network_and_can_be_left_out(zoo: Zoo, by_domain: Run, tmp_path: Path) -> None:
    plain = learned(zoo, tmp_path, domains={"by": "nothing"})
    assert isinstance(plain.meta_model.module, ImageClassifier)
    for name, tensor in plain.meta_model.classifier.network.state_dict().items():
        assert torch.equal(tensor, by_domain.meta_model.classifier.network.state_dict()[name])
    cards = [(run.path / "meta-model" / "card.md").read_text() for run in (by_domain, plain)]
    assert ["| domains | colours, grey; a new task is read in the way" in card for card in cards] == [True, False]
    assert ["| parameters | 628, class head" in card for card in cards] == [True, False]


def test_fewer_images_are_spread_over_the_models_and_their_classes() -> None:
    bank = cast(ResidentBank, SimpleNamespace(places_of=[slice(0, 10), slice(10, 14), slice(14, 44)].__getitem__))
    assert domain_readouts._places(bank, [0, 2], 8).tolist() == [0, 3, 6, 9, 14, 23, 33, 43]
    assert domain_readouts._places(bank, [1, 0], 100).tolist() == [10, 11, 12, 13, *range(10)]
    assert domain_readouts._places(bank, [0, 1, 2], 2).tolist() == [0, 10, 14]


def test_one_domain_needs_no_readout(zoo: Zoo, tmp_path: Path) -> None:
    colours = Zoo(zoo.folder, [contract for contract in zoo if contract.domain == "colours"])
    assert isinstance(learned(colours, tmp_path).meta_model.module, ImageClassifier)


def test_nor_do_kinds_of_a_single_model(zoo: Zoo, tmp_path: Path) -> None:
    fewer = Zoo(zoo.folder, zoo.contracts[:-1])
    assert [contract.domain for contract in fewer].count("grey") == 1
    run = learned(fewer, tmp_path, domains={"longer": 9})
    assert isinstance(run.meta_model.module, ImageClassifier)
    assert run.metrics()[-1]["step"] == 7


def test_nor_do_pictures_that_show_no_domain(zoo: Zoo, tmp_path: Path) -> None:
    assert isinstance(learned(zoo, tmp_path, source={"kind": "noise"}).meta_model.module, ImageClassifier)


@pytest.fixture(scope="module")
def of_three(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    """Two models each of three domains with awkward names."""
    folder = tmp_path_factory.mktemp("three")
    same, zoo = untrained(folder / "zoo"), Zoo.create(folder / "other")
    for contract, domain in zip(same, ("a", "b_c", "a + b_c"), strict=True):
        for copy in range(2):
            classifier = same.teacher(contract.name).classifier
            zoo.add(f"{contract.name}-{copy}", classifier, class_names=contract.class_names, domain=domain)
    return zoo


def test_too_many_kinds_are_said_and_taken_for_one(
    of_three: Zoo, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = learned(of_three, tmp_path / "run", domains={"kinds": 2, "longer": 9})
    assert isinstance(run.meta_model.module, ImageClassifier)
    assert "the zoo is of 3 kinds of images, so all are taken to be one" in capsys.readouterr().err
    assert run.metrics()[-1]["step"] == OPTIONS["learning"]["steps"]


def test_kinds_are_named_by_their_domains(
    of_three: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(domains, "kinds_of_images", lambda *_: [("a", "b_c"), ("a + b_c",)])
    run = learned(of_three, tmp_path / "run", domains={"longer": 1})
    module = run.meta_model.module
    assert isinstance(module, MultiDomainClassifier)
    assert module.readouts.domains == ("a + b_c", "a + b_c'")
    assert "| a \\+ b\\_c, a \\+ b\\_c'; a new task" in (run.path / "meta-model" / "card.md").read_text()
    assert "note: 2 kinds of images, so 14 steps of learning: a + b_c, a + b_c'" in capsys.readouterr().err


def test_a_run_stopped_while_readouts_are_made_ends_bit_equal(
    zoo: Zoo, by_domain: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopping(*_: Any) -> Tensor:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(domain_readouts, "domain_recogniser", stopping)
        with pytest.raises(KeyboardInterrupt):
            learned(zoo, tmp_path / "run")
    assert content(learned(zoo, tmp_path / "run").path) == content(by_domain.path)


def test_the_skill_of_models_is_that_of_those_kept(zoo: Zoo, by_domain: Run) -> None:
    folder = RunFolder(by_domain.path)
    whole = folder.read_tensors(SKILL)["skill"]
    kept = skill_of(cast(Workspace, SimpleNamespace(folder=folder, zoo=[zoo.contracts[3], zoo.contracts[1]])))
    torch.testing.assert_close(kept, whole[[3, 1]][:, [3, 1]], equal_nan=True)
    assert bool(whole.isnan().any())
    assert not bool(whole.isnan().all())


def test_a_run_that_kept_no_skill_goes_on_as_it_began(zoo: Zoo, tmp_path: Path) -> None:
    began = cast(Workspace, SimpleNamespace(folder=RunFolder(tmp_path), zoo=zoo))
    assert domains.find_kinds(began, domains.DomainRecipe()) == {}


@pytest.mark.parametrize(
    ("named", "changes", "most"),
    [
        ("aabbcc", {}, 3),
        ("aabbc", {}, 2),
        ("aabc", {}, 1),
        ("aaaa", {}, 1),
        ("aabbcc", {"kinds": 2}, 2),
        ("aabbcc", {"by": "nothing"}, 1),
    ],
)
def test_a_plan_knows_how_many_kinds_there_can_be(named: str, changes: dict[str, Any], most: int) -> None:
    contracts = [cast(ModelContract, SimpleNamespace(domain=name)) for name in named]
    recipe = domains.DomainRecipe.model_validate(changes)
    assert domains.most_kinds(contracts, recipe) == most
    assert domains.lengthened(LearningRecipe(steps=100), most, recipe).steps == 50 + 50 * most


def test_every_further_kind_is_learned_for_longer(zoo: Zoo, by_domain: Run, tmp_path: Path) -> None:
    longer = learned(zoo, tmp_path, domains={"longer": 0.5})
    assert [run.metrics()[-1]["step"] for run in (by_domain, longer)] == [7, 10]


def test_domains_that_are_alike_are_read_as_one(zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []

    def of_one_kind(skill: Tensor, names: list[str], alike: float) -> list[tuple[str, ...]]:
        seen.append(skill)
        assert (names, alike) == ([contract.domain for contract in zoo], 0.7)
        return [("colours", "grey")]

    monkeypatch.setattr(domains, "kinds_of_images", of_one_kind)
    run = learned(zoo, tmp_path, domains={"alike": 0.7, "longer": 9})
    assert seen[0].shape == (5, 5)
    assert isinstance(run.meta_model.module, ImageClassifier)
    assert RunFolder(run.path).read_json(domains.DOMAINS)["kinds"] == [["colours", "grey"]]
    assert run.metrics()[-1]["step"] == 7
