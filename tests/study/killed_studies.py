"""Studies whose process, or one of whose workers, is killed at random moments; also a program.

One interpreter imports the library and forks a child for each attempt, so that the import is paid for once.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

_MOST_CALLS = 6
"""Calls without a kill that a study may need to end: a killed worker's cell has failed, and is tried again."""


def killed_studies(study: dict[str, Any], parent: Path, workers: int, kills: int, victims: list[str]) -> dict[str, Any]:
    """Do a study once undisturbed, in `whole`, and killed ones, in `killed-NUMBER`, until all kills are done.

    Args:
        study: content of a study file.
        parent: folder of the studies.
        workers: number of processes; `whole` has one.
        kills: number of kills in all.
        victims: `study` for its own process, `worker` for one of its children, drawn for each kill.

    Returns:
        Number of `kills` by victim, names of the `studies`, `calls` that each needed at the end, and `problems` of the
        tables after a kill.
    """
    request = {"study": study, "parent": str(parent), "workers": workers, "kills": kills, "victims": victims}
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", __file__],
        input=json.dumps(request), capture_output=True, text=True, check=False, timeout=3600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def _begin(study: dict[str, Any], out: Path, workers: int) -> int:
    """Fork a child that does the study; its exit code is 0 if all cells are measured."""
    process = os.fork()
    if process == 0:
        from metazoo.study import run_study

        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        code = 4
        try:
            code = 0 if run_study(study, out, workers=workers, device="cpu").finished else 3
        finally:
            os._exit(code)
    return process


def _ended(process: int) -> int | None:
    found, status = os.waitpid(process, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def _kill(process: int, victim: str, draw: random.Random) -> str:
    """Kill the study or one of its workers, and wait for the end of the study; says who was killed."""
    workers = psutil.Process(process).children() if victim == "worker" else []
    if workers:
        draw.choice(workers).kill()
    else:
        os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return "worker" if workers else "study"


def _problem(out: Path) -> str:
    """Problem of a study as it was left; empty if its tables can be read."""
    from metazoo.errors import MetazooError
    from metazoo.study import StudyResults, read_study, runner
    from metazoo.study.tables import study_tables

    if not (out / "study.yaml").exists():
        return ""
    try:
        study = read_study(out / "study.yaml")
        folders = {name: runner._zoo_folder(name, zoo, out) for name, zoo in study.zoos.items()}
        study_tables(StudyResults.read(study, runner.cells_of(study, out, folders)))
    except MetazooError as error:
        return str(error)
    return ""


def _main() -> None:
    import torch

    from metazoo.pipeline import learning_stage
    from metazoo.study import run_study

    torch.set_num_threads(1)
    learning_stage._STEPS_BETWEEN_CHECKPOINTS = 2
    request = json.load(sys.stdin)
    study, parent, workers = request["study"], Path(request["parent"]), request["workers"]
    # In this process: the children then have what torch and others load at their first use.
    assert run_study(study, parent / "whole", workers=1, device="cpu").finished
    shutil.rmtree(parent / "whole")
    start = time.monotonic()
    for process in [_begin(study, parent / "whole", 1)]:
        assert os.waitpid(process, 0)[1] == 0
    draw, whole = random.Random(workers), time.monotonic() - start
    whole *= 1 if workers == 1 else 2  # workers take time to start
    kills, calls, problems, number = dict.fromkeys(request["victims"], 0), list[int](), list[str](), 0
    while sum(kills.values()) < request["kills"]:
        out, number, code = parent / f"killed-{number}", number + 1, None
        while code != 0 and sum(kills.values()) < request["kills"]:
            process, end = _begin(study, out, workers), time.monotonic() + draw.uniform(0, whole)
            code = _ended(process)
            while code is None and time.monotonic() < end:
                time.sleep(0.005)
                code = _ended(process)
            if code is None:
                kills[_kill(process, draw.choice(request["victims"]), draw)] += 1
            problems += filter(None, [_problem(out)])
        calls.append(0)
        while code != 0 and calls[-1] < _MOST_CALLS:
            calls[-1] += 1
            code = os.waitstatus_to_exitcode(os.waitpid(_begin(study, out, workers), 0)[1])
    studies = [f"killed-{index}" for index in range(number)]
    print(json.dumps({"kills": kills, "studies": studies, "calls": calls, "problems": problems}))


if __name__ == "__main__":
    _main()
