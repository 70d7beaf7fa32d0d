import functools
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from error_checks import raises
from executor_units import AwkwardError, behave

from metazoo import plugins
from metazoo.errors import Interrupted, RunError, UsageError, ZooError
from metazoo.execution import local_executor
from metazoo.execution.executor import default_workers, executor_for, in_order
from metazoo.execution.local_executor import LocalExecutor
from metazoo.execution.signals import check_stop

posix = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")


def product(scale: torch.Tensor, seed: int) -> tuple[int, int, torch.Tensor]:
    """A sum whose last bits depend on the number of threads, with the process and that number."""
    random = torch.Generator().manual_seed(seed)
    left, right = torch.randn(200, 700, generator=random), torch.randn(700, 300, generator=random)
    image = torch.randn(4, 3, 32, 32, generator=random)
    filters = torch.randn(8, 3, 3, 3, generator=random)
    total = (left @ right).sum() + torch.nn.functional.conv2d(image, filters).mean()
    return os.getpid(), torch.get_num_threads(), total * scale


def mapped(units: list[str], workers: int = 2, **options: Any) -> list[Any]:
    with LocalExecutor(workers) as executor:
        return list(executor.map(behave, units, **options))


def test_results_do_not_depend_on_the_number_of_workers_and_threads_are_restored() -> None:
    function = functools.partial(product, torch.full((3,), 0.1))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        inline = {}
        for index, result in LocalExecutor(1).map(function, range(6), threads=3):
            assert torch.get_num_threads() == 2  # the number of the consumer, also between units
            inline[index] = result
        with LocalExecutor(6) as executor:
            spread = dict(executor.map(function, range(6), threads=3))
            # This process does all units if only one runs at once.
            assert [result[:2] for _, result in executor.map(function, range(1))] == [(os.getpid(), 1)]
            assert {result[0] for _, result in executor.map(function, range(3), threads=4)} == {os.getpid()}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert {process for process, _, _ in inline.values()} == {os.getpid()}
    assert len({process for process, _, _ in spread.values()} - {os.getpid()}) == 2
    for index in range(6):
        assert inline[index][1] == spread[index][1] == 3
        assert torch.equal(inline[index][2], spread[index][2])


def test_results_come_as_they_are_finished_and_every_error_names_its_unit(tmp_path: Path) -> None:
    units = [f"await:{tmp_path / 'mark'}", "sleep:0", f"mark:{tmp_path / 'mark'}"]
    indices = [index for index, _ in mapped(units)]
    assert sorted(indices) == [0, 1, 2]
    assert indices[0] == 1
    assert list(in_order(iter([(1, "b"), (2, "c"), (0, "a"), (3, "d")]))) == ["a", "b", "c", "d"]

    for unit, problem in {"error": "IndexError: deep inside", "unpicklable": "pickled", "torch": "torch"}.items():
        with raises(RunError, subject=f"unit {unit}", problem=problem) as caught:
            mapped([unit, "sleep:30"], name_of=lambda unit: f"unit {unit}")
        if unit == "error":
            assert "in behave" in "".join(caught.value.__notes__)
    assert _children() == []


@pytest.mark.parametrize("workers", [1, 2])
def test_errors_of_the_library_come_through_unchanged(workers: int) -> None:
    with pytest.raises(Interrupted, match=r"^enough$") as caught:
        mapped(["stop", "stop"], workers)
    assert caught.value.exit_code == 143
    with pytest.raises(AwkwardError if workers == 1 else RunError, match=r"^this and that$"):
        mapped(["awkward", "awkward"], workers)


@pytest.mark.parametrize(("unit", "error"), [("error", "IndexError: deep inside"), ("exit", "SystemExit: 3")])
def test_inline_errors_name_the_unit_after_earlier_results(unit: str, error: str) -> None:
    results = LocalExecutor(1).map(behave, ["sleep:0", unit], name_of=lambda unit: f"unit {unit}")
    assert next(results) == (0, "sleep")
    with raises(RunError, subject=f"unit {unit}", problem=error):
        next(results)
    with pytest.raises(ZooError, match=r"^model\.safetensors holds NaN; remove the model$"):
        mapped(["zoo"])


@posix
def test_processes_stay_from_one_map_to_the_next_and_dead_or_failed_ones_are_replaced() -> None:
    with LocalExecutor(2) as executor:

        def processes() -> set[Any]:
            return {result for _, result in executor.map(behave, ["pid"] * 30)} | {child.pid for child in _children()}

        assert not executor.is_warm
        first = processes()
        assert len(first) == 2
        assert executor.is_warm
        assert processes() == first
        victim = min(first)
        os.kill(victim, signal.SIGKILL)
        os.waitid(os.P_PID, victim, os.WEXITED | os.WNOWAIT)  # wait for its last thread, without reaping it
        second = processes()
        assert len(second) == 2
        assert len(second & first) == 1
        with raises(RunError, problem="deep inside"):
            list(executor.map(behave, ["error", "sleep:30"]))
        assert _children() == []
        assert processes() & second == set()
    assert _children() == []
    executor.close()


def test_idle_processes_end_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_executor, "_SECONDS_IDLE", 0.2)
    with LocalExecutor(2) as executor:
        assert len(list(executor.map(behave, ["sleep:0.3"] * 4))) == 4  # longer than idle processes wait
        assert _gone(_children())
        assert not executor.is_warm
        assert len(list(executor.map(behave, ["sleep:0"] * 4))) == 4


def test_an_executor_serves_one_map_at_a_time() -> None:
    with LocalExecutor(2) as executor:
        former = executor.map(behave, ["sleep:0", "sleep:0", "sleep:60"])
        next(former)
        with raises(UsageError, subject="executor", problem="map"):
            list(executor.map(behave, ["sleep:0", "sleep:0"]))
        former.close()
        assert len(list(executor.map(behave, ["sleep:0", "sleep:0"]))) == 2


def test_short_units_run_here_until_processes_pay() -> None:
    def processes(executor: LocalExecutor, units: list[str]) -> list[Any]:
        return [result for _, result in executor.map(behave, units, short=True)]

    with LocalExecutor(2) as executor:
        assert processes(executor, ["pid"] * 50) == [os.getpid()] * 50
        assert _children() == []
        many = processes(executor, ["slow-pid:0.05"] * 220)  # 11 seconds in one process
        assert many[0] == os.getpid()
        assert set(many[100:]) <= {child.pid for child in _children()}
        assert os.getpid() not in processes(executor, ["pid"] * 3)  # since processes have started


@posix
def test_a_dead_worker_is_reported_with_its_unit() -> None:
    for unit, problem in ((f"kill:{signal.SIGKILL.value}", "out of memory"), ("abort", "SIGABRT")):
        with raises(RunError, subject=unit, problem=problem):
            mapped(["sleep:30", unit])
        assert _children() == []


@posix
def test_workers_ignore_interrupts_and_end_when_the_iterator_is_left() -> None:
    interrupted: set[int] = set()
    enough = threading.Event()

    def interrupt() -> None:  # from the moment a worker's interpreter starts
        while not enough.wait(0.001):
            for child in _children():
                child.send_signal(signal.SIGINT)
                interrupted.add(child.pid)

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        results = LocalExecutor(2).map(behave, ["interrupts", "sleep:60", "sleep:60"])
        assert next(results) == (0, "interrupts")
    finally:
        enough.set()
        thread.join()
    assert sorted(interrupted) == sorted(child.pid for child in _children())
    assert len(interrupted) == 2
    started = time.monotonic()
    results.close()
    assert time.monotonic() - started < 10
    assert _children() == []


def test_a_check_that_raises_ends_the_workers() -> None:
    calls = []

    def check() -> None:
        calls.append(len(_children()))
        if len(calls) > 4:
            raise Interrupted("stop")

    for workers in (1, 2):
        calls.clear()
        with pytest.raises(Interrupted, match=r"^stop$"):
            mapped(["sleep:0", "sleep:0", "sleep:0", "sleep:0", "sleep:60"], workers, check=check)
        assert max(calls) == (0 if workers == 1 else 2)
        assert _children() == []


def test_a_unit_can_check_for_a_stop_in_every_process() -> None:
    calls = []
    assert len(mapped(["stop-asked", "stop-asked"], 1, check=lambda: calls.append(1))) == 2
    assert len(calls) == 4  # before each and within each
    check_stop()
    assert len(calls) == 4

    def check() -> None:
        calls.append(1)
        if len(calls) == 2:
            raise Interrupted("stop")

    for workers in (1, 2):
        calls.clear()
        with pytest.raises(Interrupted, match=r"^stop$"):
            mapped(["stop-asked", "sleep:60"], workers, check=check)


def test_wrong_use_is_refused() -> None:
    for workers in (0, -1):
        with raises(UsageError, subject="workers", problem=str(workers)):
            LocalExecutor(workers)
    with raises(UsageError, subject="threads", problem="0"):
        mapped(["sleep:0"], threads=0)
    with LocalExecutor(2) as executor:
        with raises(RunError, subject="first", problem="pickled", remedy="module-level function"):
            list(executor.map(lambda unit: unit, ["first", "second"]))
        with executor_for(executor, 1) as same:
            assert same is executor
        assert list(executor.map(behave, [])) == []
    with raises(UsageError, subject="executor", problem="'dask'", remedy="local, ray"):
        executor_for("dask", 2)  # type: ignore[arg-type]
    assert _children() == []


def test_default_workers_is_what_this_process_may_use() -> None:
    assert default_workers() == len(psutil.Process().cpu_affinity() or [1])


def test_workers_import_the_modules_that_have_registered_something(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "animals.py").write_text(
        "from metazoo.plugins import Registry\nimport executor_units\n"
        "executor_units.ANIMALS = Registry('animal')\nexecutor_units.ANIMALS.register('cat', 'meow')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(plugins, "_modules", {})
    with LocalExecutor(2) as executor:
        assert len(list(executor.map(behave, ["sleep:0"] * 2))) == 2  # processes start before the registration
        importlib.import_module("animals")
        assert plugins.registered_modules() == ("animals",)
        assert [result for _, result in executor.map(behave, ["animal:cat"] * 2)] == ["meow", "meow"]
        monkeypatch.setattr(plugins, "_modules", {"nowhere": None})
        with raises(RunError, subject="plugin 'nowhere'", problem="No module named 'nowhere'"):
            list(executor.map(behave, ["animal:cat"] * 2))


def _children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "execution.worker" in " ".join(_command(child))]


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _gone(processes: list[psutil.Process]) -> bool:
    deadline = time.monotonic() + 30
    while any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


_PARENT = """
import sys
sys.path.insert(0, {here!r})
import functools
import executor_units
from metazoo.errors import Interrupted
from metazoo.execution.local_executor import LocalExecutor
from metazoo.execution.signals import graceful

try:
    with graceful() as stop, LocalExecutor(2) as executor:
        function = functools.partial(executor_units.note_and_wait, sys.argv[1])
        list(executor.map(function, [0, 1], check=stop.check))
except Interrupted as error:
    print(error)
    sys.exit(error.exit_code)
"""


def _busy_parent(tmp_path: Path) -> tuple[subprocess.Popen[str], Path, list[psutil.Process]]:
    script, work = tmp_path / "parent.py", tmp_path / "work"
    work.mkdir()
    script.write_text(_PARENT.format(here=str(Path(__file__).parent)))
    parent = subprocess.Popen(
        [sys.executable, str(script), str(work)],
        start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 90
    while len(list(work.glob("*.pid"))) < 2 or any(not path.read_text() for path in work.glob("*.pid")):
        assert time.monotonic() < deadline
        assert parent.poll() is None, parent.communicate()
        time.sleep(0.05)
    return parent, work, [psutil.Process(int(path.read_text())) for path in work.glob("*.pid")]


@posix
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_a_signal_to_the_whole_group_ends_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    parent, work, workers = _busy_parent(tmp_path)
    os.killpg(parent.pid, number)
    output, errors = parent.communicate(timeout=30)
    assert number.name in output
    assert "call again" in output
    assert errors == ""
    assert parent.returncode == 128 + number
    assert not any(worker.is_running() for worker in workers)
    assert sorted(path.name for path in work.iterdir()) == ["0.pid", "1.pid"]


@posix
def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    parent, _, workers = _busy_parent(tmp_path)
    parent.kill()
    parent.communicate(timeout=30)
    _, alive = psutil.wait_procs(workers, timeout=15)
    assert alive == []


_SCRIPT = """
import os, sys
from metazoo.execution.local_executor import LocalExecutor
from metazoo.plugins import Registry

print("begun")
def own(unit):
    return os.getpid()
with LocalExecutor(2) as executor:
    foreign = [result for _, result in executor.map(abs, [-1, -2, -3])]
    torch_here = "torch" in sys.modules
    mine = {result for _, result in executor.map(own, [1, 2, 3])}
    Registry("animal").register("cat", "meow")
    again = [result for _, result in executor.map(abs, [-1, -2, -3])]
import json
print(json.dumps([sorted(foreign), torch_here, mine == {os.getpid()}, again]))
"""


@posix
def test_a_script_needs_no_main_guard_and_its_own_functions_run_in_it(tmp_path: Path) -> None:
    script = tmp_path / "unguarded.py"
    script.write_text(_SCRIPT)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True, timeout=90)
    begun, found = done.stdout.splitlines()
    assert begun == "begun"  # printed once, not by a worker
    assert json.loads(found) == [[1, 2, 3], False, True, [1, 2, 3]]
    assert done.stderr.count("\n") == 1
    assert "note: " in done.stderr
    assert "__main__" in done.stderr
