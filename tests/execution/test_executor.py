import functools
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import torch
from executor_units import AwkwardError, behave

from metazoo.errors import Interrupted, RunError, UsageError, ZooError
from metazoo.execution.executor import default_workers, map_units

posix = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")


def product(scale: torch.Tensor, seed: int) -> tuple[int, int, torch.Tensor]:
    """A sum whose last bits depend on the number of threads, the process, and that number."""
    random = torch.Generator().manual_seed(seed)
    left, right = torch.randn(200, 700, generator=random), torch.randn(700, 300, generator=random)
    image = torch.randn(4, 3, 32, 32, generator=random)
    filters = torch.randn(8, 3, 3, 3, generator=random)
    total = (left @ right).sum() + torch.nn.functional.conv2d(image, filters).mean()
    return os.getpid(), torch.get_num_threads(), total * scale


def test_results_do_not_depend_on_the_number_of_workers_and_threads_are_restored() -> None:
    function = functools.partial(product, torch.full((3,), 0.1))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        inline = {}
        for index, result in map_units(function, range(6), 1, threads=3):
            assert torch.get_num_threads() == 2  # the consumer's own, also between units
            inline[index] = result
        spread = dict(map_units(function, range(6), workers=2, threads=3))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert {process for process, _, _ in inline.values()} == {os.getpid()}
    assert len({process for process, _, _ in spread.values()} - {os.getpid()}) == 2
    for index in range(6):
        assert inline[index][1] == spread[index][1] == 3
        assert torch.equal(inline[index][2], spread[index][2])
    assert [result[1] for _, result in map_units(function, range(1), 4)] == [1]


def test_results_come_as_they_are_finished_and_every_error_names_its_unit(tmp_path: Path) -> None:
    units = [f"await:{tmp_path / 'mark'}", "sleep:0", f"mark:{tmp_path / 'mark'}"]
    indices = [index for index, _ in map_units(behave, units, 2)]
    assert sorted(indices) == [0, 1, 2]
    assert indices[0] == 1

    for unit, message in {
        "error": "unit error failed: IndexError: deep inside",
        "unpicklable": "unit unpicklable or its result cannot travel between processes",
        "torch": "unit torch imports torch too late to set its threads; import it at the top of the module",
    }.items():
        with pytest.raises(RunError) as caught:
            list(map_units(behave, [unit, "sleep:30"], 2, name_of=lambda unit: f"unit {unit}"))
        assert str(caught.value).startswith(message)
        if unit == "error":
            assert "in behave" in "".join(caught.value.__notes__)
    assert _children() == []


@pytest.mark.parametrize("workers", [1, 2])
def test_errors_of_the_library_come_through_unchanged(workers: int) -> None:
    with pytest.raises(Interrupted, match=r"^enough$") as caught:
        list(map_units(behave, ["stop", "stop"], workers))
    assert caught.value.exit_code == 143
    with pytest.raises(AwkwardError if workers == 1 else RunError, match=r"^this and that$"):
        list(map_units(behave, ["awkward", "awkward"], workers))


@pytest.mark.parametrize(("unit", "error"), [("error", "IndexError: deep inside"), ("exit", "SystemExit: 3")])
def test_inline_errors_name_the_unit_after_earlier_results_are_handed_over(unit: str, error: str) -> None:
    results = map_units(behave, ["sleep:0", unit], 1, name_of=lambda unit: f"unit {unit}")
    assert next(results) == (0, "sleep")
    with pytest.raises(RunError, match=f"^unit {unit} failed: {error}$"):
        next(results)
    with pytest.raises(ZooError, match=r"^model\.safetensors holds NaN; remove the model$"):
        list(map_units(behave, ["zoo"], 2))


@posix
def test_a_dead_worker_is_reported_with_its_unit() -> None:
    for unit, message in (
        (f"kill:{signal.SIGKILL.value}", "want of memory; use fewer workers"),
        ("abort", "by SIGABRT"),
    ):
        with pytest.raises(RunError, match=f"the process of {unit} .*{message}"):
            list(map_units(behave, ["sleep:30", unit], 2))
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
        results = map_units(behave, ["interrupts", "sleep:60", "sleep:60"], 2)
        assert next(results) == (0, "interrupts")
    finally:
        enough.set()
        thread.join()
    assert sorted(interrupted) == sorted(child.pid for child in _children())
    assert len(interrupted) == 2
    started = time.monotonic()
    results.close()  # type: ignore[attr-defined]
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
            list(map_units(behave, ["sleep:0", "sleep:0", "sleep:0", "sleep:0", "sleep:60"], workers, check=check))
        assert max(calls) == (0 if workers == 1 else 2)
        assert _children() == []


def test_wrong_use_is_refused() -> None:
    for workers, threads in ((0, 1), (1, 0), (-1, 1)):
        with pytest.raises(UsageError, match="must be 1 or more"):
            list(map_units(behave, ["sleep:0"], workers, threads=threads))
    with pytest.raises(RunError, match=r"first cannot be sent to a worker process.*module-level function"):
        list(map_units(lambda unit: unit, ["first", "second"], 2))
    assert list(map_units(behave, [], 2)) == []
    assert _children() == []


def test_default_workers_is_what_this_process_may_use() -> None:
    assert default_workers() == len(psutil.Process().cpu_affinity() or [1])


def _children() -> list[psutil.Process]:
    """Worker processes, without the resource tracker that multiprocessing keeps for the life of the program."""
    return [child for child in psutil.Process().children() if "spawn_main" in " ".join(_command(child))]


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


_PARENT = """
import sys
sys.path.insert(0, {here!r})
import functools
import executor_units
from metazoo.errors import Interrupted
from metazoo.execution.executor import map_units
from metazoo.execution.signals import graceful

if __name__ == "__main__":
    try:
        with graceful() as stop:
            function = functools.partial(executor_units.note_and_wait, sys.argv[1])
            list(map_units(function, [0, 1], 2, check=stop.check))
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
    assert output == f"stopped by {number.name}; what was finished is kept, call again to go on\n"
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


@posix
def test_a_script_without_a_main_guard_ends_with_an_explanation(tmp_path: Path) -> None:
    script = tmp_path / "unguarded.py"
    script.write_text("from metazoo.execution.executor import map_units\nprint(list(map_units(abs, [-1, -2], 2)))\n")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False, timeout=90)
    assert done.returncode == 1
    assert 'must keep its calls under `if __name__ == "__main__":`' in done.stderr
