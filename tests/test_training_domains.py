"""Merged domains and per-domain models of a run."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from scipy.ndimage import convolve
from torch import Tensor
from training_helpers import OPTIONS, SIDE, build, content, untrained

from metazoo.bank import Bank, ResidentBank, ResidentBanks
from metazoo.execution.compute import CPU
from metazoo.execution.randomness import generator, seed_of
from metazoo.features.domain_router import fitted_recogniser
from metazoo.features.embedders import MultiDomainClassifier
from metazoo.learn.group_learning import GroupLearner, Student
from metazoo.learn.learning_config import LearningConfig
from metazoo.methods.tgr import TgrConfig
from metazoo.models import ImageClassifier
from metazoo.pipeline import audit_stage, distillation, domain_models
from metazoo.pipeline.audit_stage import skill_of
from metazoo.pipeline.domain_models import softened, with_domain_models
from metazoo.pipeline.layout import BANK, DOMAINS, GROUPING, SKILL, TRUST
from metazoo.pipeline.learning_stage import teacher_targets
from metazoo.pipeline.workspace import Workspace
from metazoo.runs.record import Run
from metazoo.runs.train import train
from metazoo.storage.metrics import MetricsLog
from metazoo.storage.run_folder import RunFolder
from metazoo.taskspace import FixedGrouping, Partition
from metazoo.zoo import ModelContract, Zoo

FIRST = "blocks.0.0.weight"


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return build(tmp_path_factory.mktemp("domains") / "zoo", grey=2)


@pytest.fixture(scope="module")
def by_domain(zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return learned(zoo, tmp_path_factory.mktemp("by-domain"))


def learned(zoo: Zoo, out: Path, **changes: Any) -> Run:
    domains = {"specialise": 0.4, "learning_rate": 0.5, "alike": 9.0, **changes.pop("domains", {})}
    return train(zoo, out=out, config={**OPTIONS, "domains": domains, **changes}, workers=1, resume=True)


@pytest.mark.parametrize("trust", [{"mode": "keep"}, {"mode": "weigh", "threshold": 1.0}])
def test_per_domain_models_continue_from_the_meta_model_with_the_models_of_their_domain(
    zoo: Zoo, tmp_path: Path, trust: dict[str, Any]
) -> None:
    plain, run = (
        learned(zoo, tmp_path / by, trust=trust, domains={"by": by}).meta_model.module for by in ("nothing", "contract")
    )
    assert isinstance(plain, ImageClassifier)
    assert isinstance(run, MultiDomainClassifier)
    folder, names = RunFolder(tmp_path / "contract"), [contract.name for contract in zoo]
    groups = Partition.from_record(folder.read_json(GROUPING), names).groups
    scores = torch.tensor([row["score"] for row in folder.read_json(TRUST)["models"]])
    bank, shown = Bank.open(folder.path / BANK), []
    config = Run.open(folder.path).config.options
    assert isinstance(config, TgrConfig)
    options = config.learning.model_copy(update={"steps": 3, "learning_rate": 0.005})
    everything = zoo.teachers()
    sizes = [teacher.classifier.network.feature_size for teacher in everything]
    whole = Student(plain.spec, sizes, [teacher.contract.spec.classes for teacher in everything], 0)
    weights = scores.pow(8).clamp(min=1e-6).float() if trust["mode"] == "weigh" else None
    resident, partition = ResidentBank.load(bank, names, SIDE), Partition(groups, "dispersed")
    targets = teacher_targets(everything, CPU)
    learner = GroupLearner(whole, resident, FixedGrouping(partition), targets, config.learning, 0, weights=weights)
    for _ in range(config.learning.steps):
        learner.step()
    learner.calibrate()
    for domain in ("colours", "grey"):
        own = [index for index, contract in enumerate(zoo) if contract.domain == domain]
        left = [tuple(own.index(index) for index in group if index in own) for group in groups]
        grouping = FixedGrouping(Partition(tuple(group for group in left if group), "dispersed"))
        weights = scores[own].pow(8).clamp(min=1e-6) if trust["mode"] == "weigh" else None
        resident = ResidentBank.load(bank, [names[index] for index in own], SIDE)
        teachers, seed = [zoo.teacher(names[index]) for index in own], seed_of(0, "specialist", domain)
        student = whole.part(own)
        targets = teacher_targets(teachers, CPU)
        learner = GroupLearner(student, resident, grouping, targets, options, seed, weights=weights)
        for _ in range(3):
            learner.step()
        learner.calibrate()
        domain_model = run.networks[len(shown)]
        with torch.no_grad():  # not by parameters: a bias before batch norm follows rounding, and changes nothing
            images = resident.pixels(torch.arange(len(resident)))
            random = generator(0, "softness", domain)
            soft = softened(images, (2 * torch.rand(len(images), generator=random) - 1).clamp(min=0))
            expected = student.classifier.eval().features(images)
            torch.testing.assert_close(domain_model.features(images), expected, rtol=1e-3, atol=1e-4)
            assert not torch.allclose(plain.features(images), expected, rtol=1e-2, atol=1e-2)
            shown.append(torch.cat([network.features(soft) for network in run.networks[:2]], 1))
        first, started_from = (module.network.state_dict()[FIRST] for module in (domain_model, plain))
        assert not torch.allclose(first, started_from, atol=1e-4)
        number = len(own) if weights is None else float(weights.sum() ** 2 / weights.square().sum())
        assert run.recogniser.general[len(shown) - 1] == pytest.approx(2 / number**2 if number > 2**0.5 else 1)
    assert torch.equal(run.networks[2].network.state_dict()[FIRST], plain.network.state_dict()[FIRST])
    recogniser = fitted_recogniser(("colours", "grey"), shown)
    assert run.recogniser.domains == recogniser.domains
    torch.testing.assert_close(run.recogniser.weight, recogniser.weight, rtol=1e-3, atol=1e-3)


def test_any_method_may_continue_its_learning_by_domain(zoo: Zoo, by_domain: Run, tmp_path: Path) -> None:
    start = by_domain.meta_model.networks[2]
    calls: list[tuple[list[str], list[int], str, int]] = []

    def shifted(part: Workspace, own: Sequence[int], stage: str) -> ImageClassifier:
        calls.append(([contract.name for contract in part.zoo], [*own], stage, part.seed))
        other = deepcopy(start)
        with torch.no_grad():
            other.network.get_parameter(FIRST).add_(len(calls))
        return other

    workspace = Workspace(
        zoo, RunFolder(tmp_path), MetricsLog(tmp_path / "metrics.jsonl"), 5, lambda: None, progress=False
    )
    banks, domains = ResidentBanks(Bank.open(by_domain.path / BANK)), {"grey": [4, 3], "colours": [0, 2]}
    module = with_domain_models(workspace, banks, start, domains, shifted, 40)
    names = [contract.name for contract in zoo]
    assert calls == [
        ([names[3], names[4]], [3, 4], "specialist-1", seed_of(5, "specialist", "grey")),
        ([names[0], names[2]], [0, 2], "specialist-2", seed_of(5, "specialist", "colours")),
    ]
    weights = [network.network.state_dict()[FIRST] - start.network.state_dict()[FIRST] for network in module.networks]
    assert [round(float(weight.mean()), 4) for weight in weights] == [1, 2, 0]
    assert module.recogniser.domains == ("grey", "colours")
    assert module.recogniser.general == pytest.approx((0.5, 0.5))


def test_domains_are_in_the_card_and_can_be_turned_off(zoo: Zoo, by_domain: Run, tmp_path: Path) -> None:
    plain = learned(zoo, tmp_path, domains={"by": "nothing"})
    assert isinstance(plain.meta_model.module, ImageClassifier)
    cards = [(run.path / "meta-model" / "README.md").read_text() for run in (by_domain, plain)]
    assert ["| domains | colours, grey; a new task" in card for card in cards] == [True, False]
    for count, card in zip(("1,782", "588"), cards, strict=True):
        assert f"| parameters | {count}, without class head" in card
    steps = {row["stage"]: row["step"] for row in by_domain.metrics()}
    assert {stage: steps.get(stage) for stage in ("learning", "specialist-1", "specialist-2", "specialist-3")} == {
        "learning": 7, "specialist-1": 3, "specialist-2": 3, "specialist-3": None,
    }  # fmt: skip


def test_softened_images_lie_between_themselves_and_their_weighed_means() -> None:
    images = torch.rand(4, 3, 6, 5, generator=torch.Generator().manual_seed(0))
    kernel = torch.tensor([[[1, 2, 1], [2, 4, 2], [1, 2, 1]]]).double() / 16
    means = torch.stack(
        [torch.from_numpy(convolve(image.double(), kernel, mode="nearest")) for image in images]
    ).float()
    found = softened(images, torch.tensor([0, 0.25, 1, 1]))
    assert torch.equal(found[0], images[0])
    torch.testing.assert_close(found[1], 0.75 * images[1] + 0.25 * means[1])
    torch.testing.assert_close(found[2:], means[2:])


def test_fewer_images_are_spread_over_the_models_and_their_classes() -> None:
    bank = cast(ResidentBank, SimpleNamespace(indices_of=[slice(0, 10), slice(10, 14), slice(14, 44)].__getitem__))
    assert domain_models._indices(bank, [0, 2], 8).tolist() == [0, 3, 6, 9, 14, 23, 33, 43]
    assert domain_models._indices(bank, [1, 0], 100).tolist() == [10, 11, 12, 13, *range(10)]
    assert domain_models._indices(bank, [0, 1, 2], 2).tolist() == [0, 10, 14]


@pytest.mark.parametrize(
    ("weights", "share"),
    [
        ([1.0] * 2, 0.5),
        ([1.0] * 4, 0.125),
        ([1.0, 1.0, 1e-6], 0.5),
        ([1.0, 1e-6], 1.0),
        ([1.0] * 6, 1 / 18),
        ([1.0] * 7, 0),
    ],
)
def test_the_fewer_models_a_domain_has_the_more_the_general_network_counts(weights: list[float], share: float) -> None:
    assert domain_models._general_share(torch.tensor(weights)) == pytest.approx(share, rel=1e-4)


def test_one_domain_has_no_per_domain_model(zoo: Zoo, tmp_path: Path) -> None:
    colours = Zoo(zoo.folder, [contract for contract in zoo if contract.domain == "colours"])
    assert isinstance(learned(colours, tmp_path).meta_model.module, ImageClassifier)


def test_domains_of_a_single_model_have_none(zoo: Zoo, tmp_path: Path) -> None:
    fewer = Zoo(zoo.folder, zoo.contracts[:-1])
    assert [contract.domain for contract in fewer].count("grey") == 1
    run = learned(fewer, tmp_path, domains={})
    assert isinstance(run.meta_model.module, ImageClassifier)
    assert (run.metrics()[-1]["stage"], run.metrics()[-1]["step"]) == ("learning", 7)


@pytest.fixture(scope="module")
def of_three(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    """Two models each of three domains with awkward names."""
    folder = tmp_path_factory.mktemp("three")
    same, zoo = untrained(folder / "zoo"), Zoo.create(folder / "other")
    for contract, domain in zip(same, ("a", "b_c", "a + b_c"), strict=True):
        for copy in range(2):
            classifier = same.teacher(contract.name).classifier
            zoo.store(f"{contract.name}-{copy}", classifier, class_names=contract.class_names, domain=domain)
    return zoo


def test_too_many_domains_count_as_one_with_a_note(
    of_three: Zoo, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = learned(of_three, tmp_path / "run", domains={"kinds": 2})
    assert isinstance(run.meta_model.module, ImageClassifier)
    note = capsys.readouterr().err
    assert all(text in note for text in ("3 domains", "domains.kinds (2)"))
    assert run.metrics()[-1]["step"] == OPTIONS["learning"]["steps"]


def test_merged_domains_have_joined_names(
    of_three: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(audit_stage, "merge_domains", lambda *_: [("a", "b_c"), ("a + b_c",)])
    run = learned(of_three, tmp_path / "run", domains={"specialise": 0.6})
    module = run.meta_model.module
    assert isinstance(module, MultiDomainClassifier)
    assert module.recogniser.domains == ("a + b_c", "a + b_c'")
    assert "| a \\+ b\\_c, a \\+ b\\_c'; a new task" in (run.path / "meta-model" / "README.md").read_text()
    assert "note: 2 domains, each with 4 more steps: a + b_c, a + b_c'" in capsys.readouterr().err


# Number of calls before the stop: learning from all models, from either domain, fitting the recogniser.
@pytest.mark.parametrize("after", [1, 2, 3])
def test_a_run_stopped_among_its_per_domain_models_ends_bit_equal(
    zoo: Zoo, by_domain: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    calls: list[str] = []

    def stopping(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def called(*given: Any, **more: Any) -> Any:
            if len(calls) == after:
                raise KeyboardInterrupt
            calls.append(name)
            return function(*given, **more)

        return called

    with monkeypatch.context() as patch:
        for home, name in ((distillation, "learn_from_groups"), (domain_models, "fitted_recogniser")):
            patch.setattr(home, name, stopping(name, getattr(home, name)))
        with pytest.raises(KeyboardInterrupt):
            learned(zoo, tmp_path / "run")
    assert calls == ["learn_from_groups"] * after
    assert content(learned(zoo, tmp_path / "run").path) == content(by_domain.path)


def test_skills_are_those_of_the_models_kept(zoo: Zoo, by_domain: Run) -> None:
    folder = RunFolder(by_domain.path)
    whole = folder.read_tensors(SKILL)["skill"]
    kept = skill_of(cast(Workspace, SimpleNamespace(folder=folder, zoo=[zoo.contracts[3], zoo.contracts[1]])))
    torch.testing.assert_close(kept, whole[[3, 1]][:, [3, 1]], equal_nan=True)
    assert bool(whole.isnan().any())
    assert not bool(whole.isnan().all())


def test_a_run_without_recorded_skills_has_one_domain(zoo: Zoo, tmp_path: Path) -> None:
    began = cast(Workspace, SimpleNamespace(folder=RunFolder(tmp_path), zoo=zoo))
    assert audit_stage.find_merged_domains(began, audit_stage.DomainConfig()) == {}


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
def test_a_plan_knows_the_largest_number_of_merged_domains(named: str, changes: dict[str, Any], most: int) -> None:
    contracts = [cast(ModelContract, SimpleNamespace(domain=name)) for name in named]
    config = audit_stage.DomainConfig.model_validate(changes)
    assert audit_stage.most_merged_domains(contracts, config) == most


def test_a_per_domain_model_learns_for_a_share_of_the_steps_at_a_share_of_the_rate() -> None:
    config = audit_stage.DomainConfig(specialise=0.25, learning_rate=0.5)
    found = audit_stage.per_domain_learning(LearningConfig(steps=10, learning_rate=0.02), config)
    assert found == LearningConfig(steps=2, learning_rate=0.01)
    assert audit_stage.per_domain_learning(LearningConfig(steps=1), config).steps == 1


def test_similar_domains_are_merged(zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []

    def merged(skill: Tensor, names: list[str], alike: float) -> list[tuple[str, ...]]:
        seen.append(skill)
        assert (names, alike) == ([contract.domain for contract in zoo], 0.7)
        return [("colours", "grey")]

    monkeypatch.setattr(audit_stage, "merge_domains", merged)
    run = learned(zoo, tmp_path, domains={"alike": 0.7})
    assert seen[0].shape == (5, 5)
    assert isinstance(run.meta_model.module, ImageClassifier)
    assert RunFolder(run.path).read_json(DOMAINS)["kinds"] == [["colours", "grey"]]
    assert run.metrics()[-1]["step"] == 7
