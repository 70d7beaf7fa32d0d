"""Runs of `metazoo train` that are killed, stopped or refused by the file system at an exact moment; also a program.

A moment is `KIND NAME`, NAME relative to the run folder: `mkdir`, `create` (a file, under the name that it will take),
`append`, `sync`, `rename` (to that name), `unlink`, and `call` or `return` of a function in `_watched`. A disturbance
is `ACTION MOMENT #COUNT`: it comes just before the moment of that count (1 if left out) that matches MOMENT, which may
hold `*`. The state after a moment is the state before the next one, so that nothing is left out. The actions:

    kill    SIGKILL; a file that was about to be created or appended to gets half a line
    stop    SIGTERM
    full    this and all else that takes space fails from now on: No space left on device
    locked  this and all else that changes the folder fails from now on: Read-only file system
    limit   no file can grow beyond 100 bytes from now on, by the system's own limit
    pause   wait there until the processes that follow have ended
    after   SIGKILL from outside, so many seconds after the start: `after 0.25`
    trace   nothing; every moment goes to standard error

`future` or `past` before the action moves the clock and the time stamps of all files by 20 years for that process.
"""

import errno
import fnmatch
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KINDS = ("mkdir ", "create ", "append ", "sync ", "rename ", "unlink ", "call ", "return ")
"""How the line of a moment begins."""
_AUDITED = {"os.mkdir": "mkdir", "os.rename": "rename", "os.remove": "unlink", "open": "create"}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_TEMPORARY = re.compile(r"\.(.+)\.\d+\.tmp")
_REFUSALS = {"full": errno.ENOSPC, "locked": errno.EROFS}
_CLOCKS = {"future": 20 * 365 * 86400, "past": -20 * 365 * 86400}
_MOST_BYTES = 100
_UNLABELLED: list[str] = []
"""Arguments of every run of this program."""


@dataclass(frozen=True)
class Outcome:
    """What came of one process.

    Attributes:
        code: exit code, or the negative signal.
        error: what it wrote to standard error.
        temporaries: names of the temporary files that were left.
        unsound: what is wrong with the files that the manifest lists; empty if nothing.
    """

    code: int
    error: str
    temporaries: list[str]
    unsound: str


def disturbed(
    zoo: Path,
    options: dict[str, Any],
    parent: Path,
    chains: Mapping[str, Sequence[str]],
    workers: int = 1,
    plugins: Sequence[str] = (),
    unlabelled: Path | None = None,
) -> dict[str, list[Outcome]]:
    """Run one process after the other on each run folder, each with its disturbance, and at last one without.

    One interpreter imports the library and forks a child for each process, so that the import is paid for once.

    Args:
        zoo: the folder of the zoo.
        options: of the runs.
        parent: of the run folders; that of a run without any disturbance is `whole`.
        chains: the disturbances by the name of the run folder.
        workers: of the runs but `whole`, which has one.
        plugins: packages that the runs load.
        unlabelled: source of unlabelled images.

    Returns:
        The outcome of every process, that of one that was told to wait at the end of its chain.
    """
    request = {"zoo": str(zoo), "options": options, "parent": str(parent), "chains": chains, "workers": workers}
    request["plugins"] = [*plugins]
    request["unlabelled"] = [] if unlabelled is None else ["--unlabelled", str(unlabelled)]
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", __file__],
        input=json.dumps(request), capture_output=True, text=True, check=False, timeout=3600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    return {name: [Outcome(**outcome) for outcome in found[name]] for name in chains}


class _Disturbance:
    """Counts the moments of this process, and acts at the one that was asked for."""

    def __init__(self, folder: Path, zoo: Path, words: str) -> None:
        self.moments: list[str] = []
        self._folder, self._zoo = folder, zoo
        self._action, _, rest = words.partition(" ")
        self._pattern, _, count = rest.partition(" #")
        self._left = int(count or 1)
        self._refusal = 0
        self._acting = False
        self._latest = ""
        sys.addaudithook(self._audit)
        # A kill takes nothing back that the system has been given, so nothing need reach the disk.
        os.fsync = lambda _: self._reach("sync", self._latest)
        for name, owner in _watched().items():
            self._watch(owner, name)

    def _watch(self, owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def watched(*arguments: Any, **keywords: Any) -> Any:
            self._reach("call", name)
            result = real(*arguments, **keywords)
            self._reach("return", name)
            return result

        setattr(owner, name, watched)

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        kind = _AUDITED.get(event)
        if kind is None or self._acting or (kind == "create" and not arguments[2] & _WRITING):
            return
        given = arguments[1 if kind == "rename" else 0]
        if not isinstance(given, str | os.PathLike):
            return
        path = Path(given)
        if path.is_relative_to(self._zoo):
            raise OSError(errno.EROFS, "a run must not write to its zoo")
        changes_nothing = path.exists() == (kind == "mkdir") if kind in ("mkdir", "unlink") else False
        if not path.is_relative_to(self._folder) or changes_nothing:
            return
        target = path.relative_to(self._folder)
        self._latest = "/".join(_TEMPORARY.sub(r"\1", part) for part in target.parts) or "."
        self._reach("append" if kind == "create" and path.suffix == ".jsonl" else kind, self._latest, path)

    def _reach(self, kind: str, name: str, path: Path | None = None) -> None:
        moment = f"{kind} {name}"
        self.moments.append(moment)
        if fnmatch.fnmatchcase(moment, self._pattern):
            self._left -= 1
            if self._left == 0:
                self._acting = True
                self._act(kind, path)
                self._acting = False
        fails = kind not in ("call", "return") and (kind != "unlink" or self._refusal != errno.ENOSPC)
        if self._refusal and fails:
            raise OSError(self._refusal, os.strerror(self._refusal))

    def _act(self, kind: str, path: Path | None) -> None:
        if self._action == "kill":
            # A file without a name is opened by its folder, and nothing is left of it.
            if path is not None and kind in ("create", "append") and not path.is_dir():
                with path.open("ab") as file:
                    file.write(b'{"half": "a li')
            os.kill(os.getpid(), signal.SIGKILL)
        elif self._action == "stop":
            os.kill(os.getpid(), signal.SIGTERM)
        elif self._action == "pause":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif self._action == "limit":
            resource.setrlimit(resource.RLIMIT_FSIZE, (_MOST_BYTES, _MOST_BYTES))
        else:
            self._refusal = _REFUSALS[self._action]


def _watched() -> dict[str, Any]:
    """The owner of each function whose calls are moments."""
    from metazoo.learn.curriculum import CurriculumLearner
    from metazoo.learn.group_learning import GroupLearner
    from metazoo.learn.update_rules import MemberStep
    from metazoo.taskspace import probe

    others = {"shift_and_flip": probe, "descend": MemberStep, "episode": CurriculumLearner}
    return {**others, **dict.fromkeys(("step", "calibrate"), GroupLearner)}


class _Process:
    """A forked child that trains, under one disturbance."""

    def __init__(self, folder: Path, zoo: Path, options: Path, words: str, workers: int) -> None:
        self._folder = folder
        self._output, theirs = os.pipe()
        self._process = os.fork()
        if self._process == 0:
            os.dup2(theirs, 2)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os._exit(_train_disturbed(folder, zoo, options, words, workers))
        os.close(theirs)
        action, _, moment = words.partition(" ")
        if action == "after":
            time.sleep(float(moment))
            os.kill(self._process, signal.SIGKILL)
        if action == "pause":
            os.waitpid(self._process, os.WUNTRACED)

    def end(self) -> dict[str, Any]:
        """Let it go on if it waits, and say what came of it; see `Outcome`."""
        os.kill(self._process, signal.SIGCONT)
        with os.fdopen(self._output) as output:
            error = output.read()
        code = os.waitstatus_to_exitcode(os.waitpid(self._process, 0)[1])
        temporaries = [path.name for path in self._folder.rglob(".*.tmp")]
        return {"code": code, "error": error, "temporaries": temporaries, "unsound": _unsound(self._folder)}


def _train_disturbed(folder: Path, zoo: Path, options: Path, words: str, workers: int) -> int:
    clock, _, rest = words.partition(" ")
    if clock in _CLOCKS:
        _move_clock(folder, _CLOCKS[clock])
    disturbance = _Disturbance(folder, zoo, rest if clock in _CLOCKS else words)
    code = _train(folder, zoo, options, workers)
    if words == "trace":
        print(*disturbance.moments, sep="\n", file=sys.stderr, flush=True)
    return code


def _train(folder: Path, zoo: Path, options: Path, workers: int = 1) -> int:
    from metazoo.cli import main

    command = ["train", "--zoo", str(zoo), "--out", str(folder), "--config", str(options), "--resume"]
    return main([*command, *_UNLABELLED, "--workers", str(workers), "--threads", "1"])


def _move_clock(folder: Path, seconds: int) -> None:
    now, now_ns = time.time, time.time_ns
    time.time, time.time_ns = lambda: now() + seconds, lambda: now_ns() + seconds * 10**9
    for path in folder.rglob("*"):
        os.utime(path, (now() + seconds, now() + seconds))


def _unsound(folder: Path) -> str:
    from metazoo.errors import MetazooError
    from metazoo.storage.run_folder import RunFolder

    try:
        if (folder / "manifest.json").exists():
            RunFolder(folder).verify()
    except MetazooError as error:
        return str(error)
    return ""


def _main() -> None:
    import torch

    from metazoo.pipeline import curriculum_stage, learning_stage
    from metazoo.plugins import load_plugin

    torch.set_num_threads(1)
    learning_stage._STEPS_BETWEEN_CHECKPOINTS = 2
    curriculum_stage._SECONDS_BETWEEN_CHECKPOINTS = 0.0
    request = json.load(sys.stdin)
    parent, zoo = Path(request["parent"]), Path(request["zoo"])
    _UNLABELLED.extend(request["unlabelled"])
    for name in request["plugins"]:
        load_plugin(name)
    options = parent / "options.yaml"
    options.write_text(json.dumps(request["options"]))
    # In this process: the children then have what torch and others load at their first use.
    assert _train(parent / "whole", zoo, options) == 0
    outcome: dict[str, list[dict[str, Any]]] = {}
    for name, chain in request["chains"].items():
        waiting: list[_Process] = []
        outcome[name] = []
        for words in [*chain, ""]:
            process = _Process(parent / name, zoo, options, words, request["workers"])
            if words.startswith("pause "):
                waiting.append(process)
            else:
                outcome[name].append(process.end())
        outcome[name] += [process.end() for process in waiting]
    print(json.dumps(outcome))


if __name__ == "__main__":
    _main()
