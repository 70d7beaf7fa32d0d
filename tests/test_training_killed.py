"""Runs that are killed, stopped or refused by the file system at exact moments; resumed, they end bit-equal."""

import random
import sys
from pathlib import Path

import pytest
from training_helpers import FREE_OPTIONS, OPTIONS, PUBLISHED_OPTIONS, PURER_OPTIONS, TDR_OPTIONS, content, untrained

from metazoo.runs.record import Run
from metazoo.zoo import Zoo

if sys.platform == "win32":
    pytest.skip("needs fork and SIGKILL", allow_module_level=True)

from disturbed_runs import KINDS, Outcome, disturbed

# Every file that a run writes, at every stage of a write, and between writes; see `disturbed_runs` for the words.
CHAINS = {
    "description": (
        "kill mkdir .",
        "kill rename .lock-owner.json",
        "locked create .lock",
        "full create config.yaml",
        "kill sync config.yaml",
        "kill rename config.yaml",
        "limit create config.yaml",
        "kill create run.json",
        "full sync run.json",
        "kill create manifest.json",
        "locked rename manifest.json",
        "kill rename manifest.json #2",
    ),
    "recovery": (
        "kill mkdir bank",
        "kill rename bank/bank.json",
        "kill create bank/*.safetensors",
        "full rename bank/*.safetensors",
        "kill rename bank/*/generation-0000.json",
        "kill rename bank/*/generation-0000.json #2",
        "full mkdir bank/*",
        "kill sync bank/*.safetensors #2",
        "stop sync bank/*.safetensors",
        "locked sync bank/*.safetensors",
        "kill create recovered/*.png #2",
        "limit create recovered/*.png #2",
        "full rename recovery.json",
        "kill rename recovery.json",
    ),
    "task space": (
        "kill call shift_and_flip #2",
        "stop call shift_and_flip",
        "kill create taskspace",
        "full create taskspace",
        "limit create taskspace",
        "kill sync taskspace/fisher.safetensors",
        "kill rename manifest.json",
        "kill rename taskspace/fisher.safetensors",
        "kill rename taskspace/distance.safetensors",
        "limit append metrics.jsonl",
        "kill append metrics.jsonl",
        "kill create taskspace/groups.json",
        "locked append metrics.jsonl",
        "full sync taskspace/groups.json",
    ),
    "learning": (
        "kill call step #2",
        "stop call step #2",
        "kill unlink checkpoints/*2.safetensors",
        "full create checkpoints/*",
        "locked rename checkpoints/*",
        "kill append metrics.jsonl",
    ),
    "checkpoints": (
        "kill rename checkpoints/*2.safetensors",
        "stop call step",
        "kill return descend",
        "kill rename manifest.json",
        "full append metrics.jsonl",
        "kill create checkpoints/*7.safetensors",
        "kill unlink checkpoints/*",
    ),
    "meta-model": (
        "kill return calibrate",
        "kill create meta-model/README.md",
        "full rename meta-model/README.md",
        "kill rename meta-model/model.safetensors",
        "limit create meta-model/model.safetensors",
        "kill create meta-model/bundle.json",
        "kill sync meta-model/bundle.json #2",
        "kill rename meta-model",
        "full create manifest.json",
        "kill rename meta-model",
        "kill rename manifest.json",
        "kill unlink checkpoints/*",
        "kill create bank/*/generation-0000.json",
        "full rename bank/*/generation-0000.json",
        "kill unlink bank/*.safetensors",
        "kill unlink .lock-owner.json",
    ),
    "clock": (
        "future kill create run.json",
        "past kill create bank/*.safetensors #3",
        "future full create recovered/*",
        "past kill rename taskspace/fisher.safetensors",
        "future kill sync checkpoints/*",
        "past kill append metrics.jsonl",
        "future kill create meta-model/*",
    ),
    "two writers": ("pause create recovered/*.png",),
}
_REASONS = {"full": "No space left on device", "locked": "Read-only file system", "limit": "File too large"}


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return untrained(tmp_path_factory.mktemp("untrained") / "zoo")


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("disturbed")


# Always tested; the others belong to `make torture`.
FIRST_CHAINS = ("learning", "two writers")
EACH_CHAIN = [
    pytest.param(name, marks=[] if name in FIRST_CHAINS else pytest.mark.torture)
    for name in CHAINS
    if name != "two writers"
]


@pytest.fixture(scope="module")
def outcomes(zoo: Zoo, parent: Path, request: pytest.FixtureRequest) -> dict[str, list[Outcome]]:
    is_torture = any(item.get_closest_marker("torture") for item in request.session.items)
    chains = {name: CHAINS[name] for name in CHAINS if is_torture or name in FIRST_CHAINS}
    return disturbed(zoo.folder, OPTIONS, parent, chains)


def check_end(parent: Path, name: str, last: Outcome) -> None:
    assert (last.code, last.temporaries) == (0, []), last.error
    assert content(parent / name) == content(parent / "whole")


@pytest.mark.parametrize("name", EACH_CHAIN)
def test_a_disturbed_run_is_resumed_and_ends_bit_equal(
    parent: Path, outcomes: dict[str, list[Outcome]], name: str
) -> None:
    *disturbances, last = outcomes[name]
    for words, outcome in zip(CHAINS[name], disturbances, strict=True):
        action = next(word for word in words.split() if word not in ("future", "past"))
        assert outcome.unsound == "", words
        assert outcome.code == {"kill": -9, "stop": 143}.get(action, 1), (words, outcome.error)
        if action in _REASONS:
            error = outcome.error.splitlines()[-1]
            assert ": cannot be written (" in error or ": cannot be locked (" in error, words
            assert _REASONS[action] in error, words
            assert action == "locked" or outcome.temporaries == [], words
    check_end(parent, name, last)


def test_a_second_writer_is_refused_and_the_first_one_unharmed(
    parent: Path, outcomes: dict[str, list[Outcome]]
) -> None:
    second, first = outcomes["two writers"]
    assert second.code == 1
    assert "two writers: is in use by process " in second.error
    check_end(parent, "two writers", first)


# Two domains that are never merged, so that the run continues with a model of each.
OF_DOMAINS = {**OPTIONS, "domains": {"alike": 1e6, "images": 8}}
DOMAIN_CHAINS = {
    "domains": (
        "kill create taskspace/domains.json",
        "full sync taskspace/domains.json",
        "kill rename taskspace/domains.json",
    ),
    "per-domain models": (
        "kill call step #9",
        "stop call step #2",
        "kill return calibrate",
        "locked create checkpoints/*",
        "kill unlink checkpoints/*",
        "kill create meta-model/model.safetensors",
        "full create meta-model/bundle.json",
    ),
}


@pytest.fixture(scope="module")
def two_domains(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return untrained(tmp_path_factory.mktemp("two-domains") / "zoo", ("ships", "ships", "birds", "birds"))


# `test_training_domains.py` always stops such a run.
@pytest.mark.torture
@pytest.mark.parametrize("name", DOMAIN_CHAINS)
def test_a_disturbed_run_of_two_domains_is_resumed_too(two_domains: Zoo, tmp_path: Path, name: str) -> None:
    outcomes = disturbed(two_domains.folder, OF_DOMAINS, tmp_path, {name: DOMAIN_CHAINS[name]})
    assert len(Run.open(tmp_path / "whole").meta_model.networks) >= 2
    for name, (*disturbances, last) in outcomes.items():
        for words, outcome in zip(DOMAIN_CHAINS[name], disturbances, strict=True):
            assert outcome.unsound == "", words
            assert outcome.code == {"kill": -9, "stop": 143}.get(words.split()[0], 1), (words, outcome.error)
        check_end(tmp_path, name, last)


# `make torture`: a kill at every moment of a run, a disk that is full at every moment, and kills at any time.
_PARTS = 4
_CONFIGS = {
    "default": {"preset": "default", **OPTIONS},
    "published": {"preset": "published", **PUBLISHED_OPTIONS},
    "free": {"method": "free", "preset": "published", **FREE_OPTIONS},
    "domains": OF_DOMAINS,
    "purer": PURER_OPTIONS,
    "tdr": TDR_OPTIONS,
}


def _zoo_for(config: str, zoo: Zoo, two_domains: Zoo) -> Path:
    return (two_domains if config == "domains" else zoo).folder


@pytest.mark.torture
@pytest.mark.parametrize("config", _CONFIGS)
def test_runs_of_several_processes_killed_at_any_time_end_as_one_of_a_single_one(
    zoo: Zoo, two_domains: Zoo, tmp_path: Path, config: str
) -> None:
    draw = random.Random(0)
    chains = {f"after {number}": tuple(f"after {draw.uniform(0, 12):.3f}" for _ in range(4)) for number in range(4)}
    outcomes = disturbed(_zoo_for(config, zoo, two_domains), _CONFIGS[config], tmp_path, chains, workers=2)
    for name, (*disturbances, last) in outcomes.items():
        assert {outcome.code for outcome in disturbances} <= {0, -9}, name
        assert {outcome.unsound for outcome in disturbances} == {""}, name
        check_end(tmp_path, name, last)


@pytest.mark.torture
@pytest.mark.parametrize("config", _CONFIGS)
@pytest.mark.parametrize("part", range(_PARTS))
def test_a_run_killed_or_refused_at_any_moment_is_resumed_and_ends_bit_equal(
    zoo: Zoo, two_domains: Zoo, tmp_path: Path, config: str, part: int
) -> None:
    options, folder = _CONFIGS[config], _zoo_for(config, zoo, two_domains)
    (tmp_path / "traced").mkdir()
    traced = disturbed(folder, options, tmp_path / "traced", {"traced": ("trace",)})["traced"][0]
    moments = sum(line.startswith(KINDS) for line in traced.error.splitlines())
    draw = random.Random(part)
    chains: dict[str, tuple[str, ...]] = {}
    for moment in range(1 + part, moments + 1, _PARTS):
        later = [draw.randrange(moments // 2) + 1 for _ in range(2)]
        chains[f"kill {moment}"] = (f"kill * #{moment}", *(f"kill * #{count}" for count in later))
        chains[f"full {moment}"] = (f"full * #{moment}", f"locked * #{later[0]}", f"kill * #{later[1]}")
    for number in range(10):
        chains[f"after {number}"] = (*(f"after {draw.uniform(0, 0.5):.3f}" for _ in range(2)),)
    outcomes = disturbed(folder, options, tmp_path, chains)
    for name, (*disturbances, last) in outcomes.items():
        assert {outcome.code for outcome in disturbances} <= {0, 1, -9}, name
        assert {outcome.unsound for outcome in disturbances} == {""}, name
        assert disturbances[0].code == -9 or not name.startswith("kill"), name
        check_end(tmp_path, name, last)
    assert sum(outcome.code == -9 for chain in outcomes.values() for outcome in chain) > 50
