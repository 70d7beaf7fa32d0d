"""Judging and embedding as units of work, compared with the same in one piece in this process."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from training_helpers import untrained

from metazoo.audit import nearest_mean_skill, partners_of
from metazoo.bank import Bank, ResidentBank, ResidentBanks
from metazoo.data.images import evenly_of_each, first_of_each
from metazoo.errors import Interrupted, ZooError
from metazoo.execution.executor import Executor
from metazoo.execution.local_executor import THIS_PROCESS, LocalExecutor
from metazoo.pipeline import embedding_stage
from metazoo.pipeline.audit_stage import TrustConfig, apply_trust, judge_models
from metazoo.pipeline.embedding_stage import embed_and_group
from metazoo.pipeline.layout import BANK, EMBEDDINGS, PROBE, SKILL
from metazoo.pipeline.layout import TRUST as TRUST_RECORD
from metazoo.pipeline.shared_config import GroupingConfig
from metazoo.pipeline.workspace import Workspace
from metazoo.recover import RecoveryBudget, RecoveryConfig, recover_zoo
from metazoo.storage.metrics import MetricsLog
from metazoo.storage.run_folder import RunFolder
from metazoo.taskspace import FisherEmbeddings, ProbeConfig, train_probe
from metazoo.zoo import Zoo

SIDE, SEED = 18, 3
TRUST = TrustConfig(images_per_class=3, partners=3)
PROBE_CONFIG = ProbeConfig(width=4, input_size=20, steps=3, batch_size=8, fisher_images=7)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return untrained(tmp_path_factory.mktemp("zoo") / "zoo", ("some",) * 5)


@pytest.fixture(scope="module")
def bank(zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> Bank:
    bank = Bank.create(tmp_path_factory.mktemp("bank") / "bank")
    recover_zoo(zoo, bank, RecoveryConfig(iterations=2), RecoveryBudget(images_per_class=5, bucket_size=6), SEED)
    return bank


@pytest.fixture(scope="module")
def warm() -> Iterator[Executor]:
    with LocalExecutor(2) as executor:
        yield executor


def warmed(executor: Executor) -> Executor:
    """Executor whose processes are running, so that they get short units."""
    list(executor.map(abs, [-1, -2]))
    assert executor.is_warm
    return executor


def workspace(
    zoo: Zoo, bank: Bank, folder: Path, executor: Executor, check: Callable[[], None] = lambda: None
) -> tuple[Workspace, ResidentBanks]:
    if not folder.exists():
        shutil.copytree(bank.folder, folder / BANK)
    run = RunFolder(folder)
    banks = ResidentBanks(Bank.open(folder / BANK))
    return Workspace(zoo, run, MetricsLog(folder / "m.jsonl"), SEED, check, False, executor=executor), banks


def skill_in_one_piece(zoo: Zoo, bank: Bank) -> Tensor:
    resident, teachers = ResidentBank.load(bank, [contract.name for contract in zoo], SIDE), zoo.teachers()
    skill = torch.full((len(zoo), len(zoo)), float("nan"), dtype=torch.float64)
    for judge, subjects in enumerate(partners_of(len(zoo), TRUST.partners, SEED)):
        for subject in subjects:
            own = resident.indices_of(subject)
            indices = own.start + first_of_each(resident.labels[own], TRUST.images_per_class)
            with torch.no_grad():
                found = teachers[judge].features(resident.pixels(indices))
            skill[subject, judge] = nearest_mean_skill(found, resident.labels[indices])
    return skill


@pytest.mark.parametrize("workers", [1, 2])
def test_models_judge_each_other_as_in_one_piece(
    zoo: Zoo, bank: Bank, warm: Executor, tmp_path: Path, workers: int
) -> None:
    executor = THIS_PROCESS if workers == 1 else warmed(warm)
    space, banks = workspace(zoo, bank, tmp_path / "run", executor)
    judge_models(space, banks, TRUST, SIDE)
    found, expected = space.folder.read_tensors(SKILL)["skill"], skill_in_one_piece(zoo, bank)
    assert torch.equal(found.nan_to_num(2), expected.nan_to_num(2))
    assert len(found[found.isfinite()].unique()) > 2
    assert int(found.isfinite().sum()) == 15


def test_copies_are_named_and_share_the_weight_of_one_model(tmp_path: Path) -> None:
    zoo = untrained(tmp_path / "zoo", ("some",) * 3)
    first, names = zoo.contracts[0], [contract.name for contract in zoo]
    for name in ("x", "y"):
        zoo.store(name, zoo.teacher(first.name).classifier, class_names=first.class_names, domain="some")
    bank = Bank.create(tmp_path / "bank")
    recover_zoo(zoo, bank, RecoveryConfig(iterations=1), RecoveryBudget(images_per_class=3, bucket_size=6), SEED)
    space, banks = workspace(zoo, bank, tmp_path / "run", THIS_PROCESS)
    weigh = TRUST.model_copy(update={"mode": "weigh", "threshold": 1e-9})
    _, weights = apply_trust(space, banks, weigh, SIDE)
    record = space.folder.read_json(TRUST_RECORD)
    assert record["duplicates"] == [[first.name, "x", "y"]]
    assert f"{first.name}, x, y" in record["warning"]
    assert weights is not None
    expected = {name: 1 / 3 if name in record["duplicates"][0] else 1.0 for name in (*names, "x", "y")}
    torch.testing.assert_close(weights, torch.tensor([expected[contract.name] for contract in zoo]))


@pytest.mark.parametrize("workers", [1, 2])
def test_models_are_embedded_as_in_one_piece_after_a_stop_too(
    zoo: Zoo, bank: Bank, warm: Executor, tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = {contract.name: contract.spec.classes for contract in zoo}
    resident = ResidentBank.load(bank, list(counts), PROBE_CONFIG.input_size)
    probe = train_probe(resident, counts, PROBE_CONFIG, SEED)
    expected = []
    for index, name in enumerate(counts):
        own = resident.indices_of(index)
        images, labels = resident.images[own], resident.labels[own]
        shown = evenly_of_each(labels, PROBE_CONFIG.fisher_images)
        expected.append(probe.embed(name, images[shown], labels[shown], PROBE_CONFIG))

    left = PROBE_CONFIG.steps + 4

    def check() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise Interrupted("stop")

    space, banks = workspace(zoo, bank, tmp_path / "run", THIS_PROCESS, check)
    with pytest.raises(Interrupted):
        embed_and_group(space, banks, PROBE_CONFIG, GroupingConfig(groups=2))
    assert space.folder.has(PROBE)
    assert not space.folder.has(EMBEDDINGS)
    monkeypatch.setattr(embedding_stage, "train_probe", pytest.fail)
    executor = THIS_PROCESS if workers == 1 else warmed(warm)
    space, banks = workspace(zoo, bank, tmp_path / "run", executor)
    embed_and_group(space, banks, PROBE_CONFIG, GroupingConfig(groups=2))
    found = FisherEmbeddings.load(space.folder.path / EMBEDDINGS)
    assert found.names == tuple(counts)
    for name in expected[0].tensors:
        rows = torch.stack([embedding.tensors[name].flatten() for embedding in expected])
        assert torch.equal(torch.as_tensor(found.tensors[name][:]), rows)
    assert not (space.folder.path / PROBE).exists()


def test_a_unit_names_its_models_by_their_contents(zoo: Zoo, tmp_path: Path) -> None:
    def opened_anew() -> list[str]:
        zoo.reference(zoo.contracts[0]).open()  # a process remembers one list
        return [contract.name for contract in reference.open()]

    own = Zoo.open(shutil.copytree(zoo.folder, tmp_path / "zoo"))
    first, second = own.contracts[:2]
    reference = own.reference(first, second)
    own.permit([first.name], "keep")  # which changes no model
    own.remove([own.contracts[2].name])
    assert opened_anew() == [first.name, second.name]
    teacher = own.teacher(first.name)
    own.remove([second.name])
    with pytest.raises(ZooError, match=f"{second.name}.* missing"):
        opened_anew()
    own.store(second.name, teacher.classifier, class_names=first.class_names, domain="other")
    with pytest.raises(ZooError, match=f"{second.name}.* changed"):
        reference.open()
    assert [contract.name for contract in own.reference(first).open()] == [first.name]


def test_the_list_of_a_zoo_is_read_once(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    references = [zoo.reference(contract) for contract in zoo]
    references[0].open()
    monkeypatch.setattr("metazoo.zoo.zoo_folder.read_contracts", pytest.fail)
    assert [next(iter(reference.open())) for reference in references] == list(zoo)
