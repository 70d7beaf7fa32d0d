"""Runs killed with SIGKILL, or asked to stop, in processes of their own; resumed, they end bit-equal."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml
from training_helpers import OPTIONS, build, content

from metazoo.training import Run, train
from metazoo.zoo import Zoo

if sys.platform == "win32":
    pytest.skip("needs fork and SIGKILL", allow_module_level=True)

# One interpreter imports the library and forks a child a case, so that the import is paid for once.
_HARNESS = """
import json, os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
import metazoo.training, metazoo.cli.training
from metazoo.cli import main
from metazoo.learn.group_learning import GroupLearner
from metazoo.methods import stages
from metazoo.recover import contact_sheet, stage
from metazoo.run.folder import RunFolder
from metazoo.taskspace import probe

# What torch and others load at their first use, so that the children need not.
torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])
torch.func.vmap(lambda value: value + 1)(torch.zeros(2))
image = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
contact_sheet(Path(sys.argv[4]), image, torch.zeros(1, dtype=torch.int64), ["none"], title="a sheet")

def at(owner, name, count, number, before=True):
    # Send this process a signal before or after the call of that count.
    real, seen = getattr(owner, name), [0]
    def patched(*arguments, **keywords):
        seen[0] += 1
        if seen[0] == count and before:
            os.kill(os.getpid(), number)
        result = real(*arguments, **keywords)
        if seen[0] == count and not before:
            os.kill(os.getpid(), number)
        return result
    setattr(owner, name, patched)

owners = {"recover_images": stage, "shift_and_flip": probe, "step": GroupLearner, "_descend": GroupLearner,
          "calibrate": GroupLearner, "save_checkpoint": RunFolder, "drop_checkpoints": RunFolder, "replace": os,
          "unlink": Path}
zoo, options, cases = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
stages._STEPS_BETWEEN_CHECKPOINTS = 2
outcome = {}
for folder, name, count, number, before in cases:
    child = os.fork()
    if child == 0:
        os.close(2)
        os.open(os.devnull, os.O_WRONLY)
        at(owners[name], name, count, number, before)
        one = ["--workers", "1", "--threads", "1"]
        os._exit(main(["train", "--zoo", zoo, "--out", folder, "--config", options, *one]))
    outcome[folder] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(json.dumps(outcome))
"""
_KILL, _TERMINATE = 9, 15


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return build(tmp_path_factory.mktemp("training") / "zoo")


@pytest.fixture(scope="module")
def whole(zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(zoo, out=tmp_path_factory.mktemp("whole") / "run", config=OPTIONS, workers=1, threads=1)


def stopped(zoo: Zoo, parent: Path, cases: list[tuple[str, int, int, bool]]) -> list[tuple[Path, int]]:
    """The folder and the exit status of one run a case, each stopped at its call."""
    options = parent / "options.yaml"
    options.write_text(yaml.safe_dump(OPTIONS))
    folders = [parent / f"{number}" for number in range(len(cases))]
    arguments = [[str(folder), *case] for folder, case in zip(folders, cases, strict=True)]
    done = subprocess.run(
        [
            sys.executable, "-W", "ignore::DeprecationWarning", "-c", _HARNESS,
            zoo.folder, options, json.dumps(arguments), parent / "sheet.png",
        ],
        capture_output=True, text=True, check=False, timeout=3000,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    status: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return [(folder, status[str(folder)]) for folder in folders]


# During recovery, in the training of the probe, in learning before the first checkpoint, within a step and after a
# checkpoint, after the last step, after the meta-model is there, and at some of the run's 50 or so renames.
CASES = [
    *((name, count, _KILL, before) for name, count, before in (
        ("recover_images", 3, False),
        ("recover_images", 7, True),
        ("shift_and_flip", 2, True),
        ("step", 2, True),
        ("_descend", 6, False),
        ("calibrate", 1, False),
        ("replace", 3, True),
        ("replace", 33, True),
        ("save_checkpoint", 2, False),
        ("drop_checkpoints", 1, True),
    )),
    ("recover_images", 2, _TERMINATE, True),
    ("shift_and_flip", 1, _TERMINATE, True),
    ("step", 6, _TERMINATE, True),
]  # fmt: skip


@pytest.fixture(scope="module")
def runs(zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int, int, bool], tuple[Path, int]]:
    return dict(zip(CASES, stopped(zoo, tmp_path_factory.mktemp("stopped"), CASES), strict=True))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_stopped_run_goes_on_and_ends_bit_equal(
    zoo: Zoo, whole: Run, runs: dict[tuple[str, int, int, bool], tuple[Path, int]], case: tuple[str, int, int, bool]
) -> None:
    folder, status = runs[case]
    assert status == (-9 if case[2] == _KILL else 143)
    run = train(zoo, out=folder, config=OPTIONS, workers=1, resume=True, threads=1)
    assert content(run.path) == content(whole.path)


@pytest.mark.slow
def test_a_run_killed_at_any_rename_goes_on_and_ends_bit_equal(zoo: Zoo, whole: Run, tmp_path: Path) -> None:
    cases = [("replace", count, _KILL, before) for count in range(1, 60) for before in (True, False)]
    cases += [("unlink", count, _KILL, before) for count in range(1, 60, 3) for before in (True, False)]
    outcomes = stopped(zoo, tmp_path, cases)
    assert Counter(status for _, status in outcomes)[-9] > 60
    for (folder, status), case in zip(outcomes, cases, strict=True):
        assert status in (0, -9), case
        run = train(zoo, out=folder, config=OPTIONS, workers=1, resume=True, threads=1)
        assert content(run.path) == content(whole.path), case
