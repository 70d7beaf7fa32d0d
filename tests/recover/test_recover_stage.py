import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from error_checks import raises
from recover_helpers import LETTERS, spec_of, trained

from metazoo.bank import Bank, OptionValue
from metazoo.errors import ArtefactError, Interrupted, RunError, UsageError, ZooError
from metazoo.execution.local_executor import LocalExecutor
from metazoo.recover import units as units_module
from metazoo.recover.budget import RecoveryBudget
from metazoo.recover.health import health_rows
from metazoo.recover.pixels import RecoveryConfig
from metazoo.recover.zoo_recovery import plan_recovery, recover_zoo
from metazoo.zoo import Zoo

CONFIG = RecoveryConfig(iterations=3)
BUDGET = RecoveryBudget(images_per_class=6, bucket_size=10, stored_side=18)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def zoo(zoo_folder: Path) -> Zoo:
    return Zoo.open(zoo_folder)


@pytest.fixture(scope="module")
def whole(zoo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Bank:
    """Bank of the whole zoo, recovered in this process without interruption."""
    bank = Bank.create(tmp_path_factory.mktemp("whole"))
    recover_zoo(Zoo.open(zoo_folder), bank, CONFIG, BUDGET, 7)
    return bank


def test_every_bucket_is_stored_with_its_health(zoo: Zoo, whole: Bank) -> None:
    assert whole.teachers == ("colour", "grey", "large")
    shapes = {name: tuple(whole.images_of(name)[0].shape) for name in whole.teachers}
    # stored smaller than 20 pixels
    assert shapes == {"colour": (24, 3, 16, 16), "grey": (30, 1, 16, 16), "large": (24, 3, 18, 18)}
    assert all(whole.images_of(name)[1].bincount().unique().tolist() == [6] for name in whole.teachers)
    assert [row.images for row in health_rows(whole)] == [24, 30, 24]
    made_with = whole.made_with("grey")
    assert made_with["weights_sha256"] == zoo.contract("grey").weights_sha256
    assert (made_with["iterations"], made_with["seed"], made_with["canvas"]) == (3, 7, "leaves")


def test_the_plan_matches_the_bank(zoo: Zoo, whole: Bank, tmp_path: Path) -> None:
    plan = plan_recovery(zoo, BUDGET)
    assert (plan.teachers, plan.classes, plan.images, plan.buckets, plan.stored_buckets) == (3, 13, 78, 9, 0)
    assert plan.bytes == pytest.approx(whole.total_bytes, rel=0.01)
    assert plan_recovery(zoo, BUDGET, whole).stored_buckets == 9
    assert plan_recovery(zoo, BUDGET, Bank.create(tmp_path)).stored_buckets == 0
    assert plan_recovery(zoo, RecoveryBudget(generation=1), whole).stored_buckets == 0
    few = plan_recovery(zoo, RecoveryBudget(classes_per_teacher=2, images_per_class=10))
    assert (few.classes, few.images, few.buckets) == (6, 60, 3)


def test_two_workers_store_the_same_bytes_as_one(zoo: Zoo, whole: Bank, tmp_path: Path) -> None:
    with LocalExecutor(2) as executor:
        recover_zoo(zoo, Bank.create(tmp_path), CONFIG, BUDGET, 7, executor=executor)
    assert files(tmp_path) == files(whole.folder)


def test_interrupted_and_called_again_the_bank_ends_the_same(zoo: Zoo, whole: Bank, tmp_path: Path) -> None:
    bank, stored = Bank.create(tmp_path), []
    while len(stored) < 9:
        steps = 0

        def check() -> None:
            nonlocal steps
            steps += 1
            if steps == 15:  # within the third or fourth bucket
                raise Interrupted("enough")

        try:
            recover_zoo(zoo, bank, CONFIG, BUDGET, 7, check=check)
        except Interrupted:
            assert units_module._held == []
        stored.append(plan_recovery(zoo, BUDGET, bank).stored_buckets)
        if stored[-1] == 9:
            break
        bank = Bank.open(tmp_path)
        (tmp_path / "grey" / ".generation-0000.json.999999999.tmp").parent.mkdir(exist_ok=True)
        (tmp_path / "grey" / ".generation-0000.json.999999999.tmp").write_text("half")
    assert len(stored) > 2
    assert stored == sorted(set(stored))
    assert files(tmp_path) == files(whole.folder)
    before = files(tmp_path)
    recover_zoo(zoo, bank, CONFIG, BUDGET, 7)  # nothing is left to do
    assert files(tmp_path) == before


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_killed_at_any_moment_and_called_again_the_bank_ends_the_same(zoo: Zoo, whole: Bank, tmp_path: Path) -> None:
    script = f"""
import os, signal
from metazoo.bank import Bank, bank
from metazoo.recover import RecoveryBudget, RecoveryConfig, recover_zoo
from metazoo.zoo import Zoo
real, written = bank.write_index, []
def write_index(path, index):
    written.append(path)
    if len(written) == 4:  # the fourth shard exists, but no index has it
        os.kill(os.getpid(), signal.SIGKILL)
    real(path, index)
bank.write_index = write_index
config = RecoveryConfig.model_validate_json({CONFIG.model_dump_json()!r})
budget = RecoveryBudget.model_validate_json({BUDGET.model_dump_json()!r})
recover_zoo(Zoo.open({str(zoo.folder)!r}), Bank.create({str(tmp_path)!r}), config, budget, 7)
"""
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert process.returncode == -signal.SIGKILL, process.stderr
    bank = Bank.open(tmp_path)
    bank.verify()
    assert plan_recovery(zoo, BUDGET, bank).stored_buckets == 3
    assert len(list(tmp_path.rglob("*.safetensors"))) == 4
    recover_zoo(zoo, bank, CONFIG, BUDGET, 7)
    assert files(tmp_path) == files(whole.folder)


def test_a_further_generation_has_other_images_of_the_same_classes(zoo: Zoo, whole: Bank, tmp_path: Path) -> None:
    bank = Bank.open(shutil.copytree(whole.folder, tmp_path / "bank"))
    further = BUDGET.model_copy(update={"generation": 1})
    recover_zoo(zoo, bank, RecoveryConfig(iterations=2), further, 7)
    after = files(tmp_path / "bank")
    assert all(after[name] == content for name, content in files(whole.folder).items())
    for name in bank.teachers:
        (images, labels), (others, other_labels) = bank.images_of(name, 0), bank.images_of(name)
        assert torch.equal(labels, other_labels)
        assert not torch.equal(images, others)


def test_buckets_teachers_and_seeds_do_not_share_their_randomness(zoo: Zoo, whole: Bank, tmp_path: Path) -> None:
    other = Bank.create(tmp_path)
    recover_zoo(zoo, other, CONFIG, BUDGET, 8)
    seen = [images for bank in (whole, other) for images in bank.images_of("colour")[0].split(8)]
    assert len({bytes(images.numpy()) for images in seen}) == 6


def test_images_of_different_options_are_not_mixed(zoo: Zoo, whole: Bank) -> None:
    before = files(whole.folder)
    for config, budget, seed, problem in (
        (RecoveryConfig(iterations=4), BUDGET, 7, "iterations 3, not 4"),
        (CONFIG, BUDGET.model_copy(update={"bucket_size": 11}), 7, "bucket_size 10, not 11"),
        (CONFIG, BUDGET, 8, "seed 7, not 8"),
    ):
        with raises(RunError, subject="'colour'", problem=problem, remedy="generation 1"):
            recover_zoo(zoo, whole, config, budget, seed)
    recover_zoo(zoo, whole, CONFIG, BUDGET.model_copy(update={"disk_megabytes": 9}), 7)
    assert files(whole.folder) == before


def test_images_made_before_an_option_existed_were_made_with_its_default(
    zoo: Zoo, whole: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_with = Bank.made_with

    def without(bank: Bank, name: str, generation: int) -> dict[str, OptionValue]:
        return {key: value for key, value in made_with(bank, name, generation).items() if key != "dropped_tokens"}

    monkeypatch.setattr(Bank, "made_with", without)
    before = files(whole.folder)
    recover_zoo(zoo, whole, CONFIG, BUDGET, 7)
    assert files(whole.folder) == before
    with raises(RunError, subject="'colour'", problem="dropped_tokens 0.0, not 0.5"):
        recover_zoo(zoo, whole, CONFIG.model_copy(update={"dropped_tokens": 0.5}), BUDGET, 7)


def test_a_teacher_that_was_trained_again_is_noticed(zoo: Zoo, whole: Bank) -> None:
    contract = zoo.contract("colour").model_copy(update={"weights_sha256": "1" * 64})
    with raises(RunError, subject="'colour'", problem="weights_sha256"):
        recover_zoo(Zoo(zoo.folder, [contract]), whole, CONFIG, BUDGET, 7)


def test_too_much_for_the_disk_is_refused_before_anything_is_recovered(
    zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RecoveryConfig, "inversions", pytest.fail)
    bank = Bank.create(tmp_path)
    budget = RecoveryBudget(images_per_class=500, disk_megabytes=4)
    with raises(UsageError, subject="disk_megabytes", problem="5 MB, more than 4", remedy="images_per_class"):
        recover_zoo(zoo, bank, CONFIG, budget, 0)
    # Stored images count as well.
    bank.add("other", 0, 0, torch.zeros(100, 3, 64, 64, dtype=torch.uint8), torch.zeros(100, dtype=torch.int64))
    with raises(UsageError, subject="disk_megabytes", problem="1 MB, more than 1"):
        recover_zoo(zoo, bank, CONFIG, BUDGET.model_copy(update={"disk_megabytes": 1}), 0)
    assert bank.teachers == ("other",)


def test_a_damaged_or_unsound_model_is_named(tmp_path: Path) -> None:
    zoo = Zoo.create(tmp_path / "zoo")
    classifier = trained(spec_of(), steps=1)
    with torch.no_grad():
        classifier.network.head.weight.fill_(3e38)
    for name in ("huge", "lost"):
        zoo.store(name, classifier, class_names=tuple(LETTERS[:4]), domain="letters")
    bank = Bank.create(tmp_path / "bank")
    with raises(ZooError, subject="model 'huge'", problem="not finite", remedy="zoo remove"):
        recover_zoo(zoo, bank, CONFIG, BUDGET, 0)
    (tmp_path / "zoo" / "models" / "lost.safetensors").unlink()
    zoo.remove(["huge"])
    with pytest.raises(ArtefactError) as caught:
        recover_zoo(zoo, bank, CONFIG, BUDGET, 0)
    assert "lost" in str(caught.value)
    assert bank.teachers == ()


def test_progress_counts_stored_and_new_buckets(
    zoo: Zoo, whole: Bank, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bank = Bank.open(shutil.copytree(whole.folder, tmp_path / "bank"))
    recover_zoo(zoo, bank, CONFIG, BUDGET, 7)
    assert capsys.readouterr().err == ""
    recover_zoo(zoo, bank, CONFIG, BUDGET, 7, progress=True)
    assert "recovering: 9/9, done in" in capsys.readouterr().err
