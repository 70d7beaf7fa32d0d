"""Processes killed with SIGKILL at every stage of a write, and at random moments."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from metazoo.storage.artefacts import remove_stale_temporaries, write_bytes

if sys.platform == "win32":
    pytest.skip("needs fork and SIGKILL", allow_module_level=True)

OLD, NEW = b"old" * 50_000, b"new" * 60_000
STAGES = ["before fsync", "after fsync", "before replace", "after replace", "before folder fsync", "after folder fsync"]

# One interpreter imports the library once and forks a child per case.
_HARNESS = """
import json, os, random, signal, stat, sys, time
from pathlib import Path
from metazoo.storage.artefacts import write_bytes
from metazoo.storage.tensor_files import write_tensors

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def arm(stage):
    when, call = stage.split(" ", 1)
    fsync, replace = os.fsync, os.replace
    def patched_fsync(descriptor):
        here = call == ("folder fsync" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "fsync")
        if here and when == "before":
            die()
        fsync(descriptor)
        if here:
            die()
    def patched_replace(source, target):
        if call == "replace" and when == "before":
            die()
        replace(source, target)
        if call == "replace":
            die()
    os.fsync, os.replace = patched_fsync, patched_replace

def in_child(act):
    child = os.fork()
    if child == 0:
        act()
        os._exit(0)
    return child

def killed(child):
    status = os.waitpid(child, 0)[1]
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
"""


_CASES = """
random_folder, stage_folder, first_folder = (Path(argument) for argument in sys.argv[1:4])
stages, old, new = json.loads(sys.argv[4]), b"old" * 50_000, b"new" * 60_000

def at_stage(number, stage):
    arm(stage)
    write_bytes(stage_folder / str(number) / "data.bin", new)

def first():
    arm("before replace")
    write_tensors(first_folder / "sub" / "model.safetensors", {})

def endlessly():
    while True:
        for version in (new, old):
            write_bytes(random_folder / "data.bin", version)

children = [in_child(lambda: at_stage(number, stage)) for number, stage in enumerate(stages)]
outcome = {"children": children, "killed at a stage": [killed(child) for child in children]}
outcome["killed at first"] = killed(in_child(first))
moments, outcome["whole"], outcome["killed at random"] = random.Random(0), [], []
for _ in range(60):
    child = in_child(endlessly)
    time.sleep(moments.uniform(0.0, 0.03))
    os.kill(child, signal.SIGKILL)
    outcome["killed at random"].append(killed(child))
    outcome["whole"].append((random_folder / "data.bin").read_bytes() in (old, new))
print(json.dumps(outcome))
"""


@dataclass(frozen=True)
class Killed:
    at_random: Path
    at_stage: Path
    at_first: Path
    outcome: dict[str, Any]


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Killed:
    folders = [tmp_path_factory.mktemp(name) for name in ("random", "stage", "first")]
    write_bytes(folders[0] / "data.bin", OLD)
    for number in range(len(STAGES)):
        write_bytes(folders[1] / f"{number}" / "data.bin", OLD)
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", _HARNESS + _CASES, *folders, json.dumps(STAGES)],
        capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return Killed(folders[0], folders[1], folders[2], json.loads(done.stdout))


def test_a_kill_at_any_stage_leaves_the_old_file_or_the_new_one(cases: Killed) -> None:
    assert cases.outcome["killed at a stage"] == [True] * len(STAGES)
    for number, (stage, child) in enumerate(zip(STAGES, cases.outcome["children"], strict=True)):
        folder = cases.at_stage / f"{number}"
        replaced = STAGES.index(stage) >= STAGES.index("after replace")
        temporaries = [] if replaced else [f".data.bin.{child}.tmp"]
        assert (folder / "data.bin").read_bytes() == (NEW if replaced else OLD), stage
        assert sorted(path.name for path in folder.iterdir()) == [*temporaries, "data.bin"], stage
        assert remove_stale_temporaries(folder) == len(temporaries)
        assert [path.name for path in folder.iterdir()] == ["data.bin"], stage


def test_a_kill_during_the_first_write_leaves_no_file_of_that_name(cases: Killed) -> None:
    assert cases.outcome["killed at first"] is True
    assert not (cases.at_first / "sub" / "model.safetensors").exists()
    assert remove_stale_temporaries(cases.at_first) == 1
    assert list((cases.at_first / "sub").iterdir()) == []


def test_kills_at_random_moments_one_after_the_other_never_show_half_a_file(cases: Killed) -> None:
    assert cases.outcome["killed at random"] == [True] * 60
    assert cases.outcome["whole"] == [True] * 60
    remove_stale_temporaries(cases.at_random)
    assert [path.name for path in cases.at_random.iterdir()] == ["data.bin"]
