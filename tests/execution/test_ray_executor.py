"""Real clusters of Ray on this machine; each takes ten seconds or more to start."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from error_checks import raises
from executor_units import behave
from training_helpers import OPTIONS, content, untrained

from metazoo.errors import Interrupted, RunError, UsageError, ZooError
from metazoo.execution import ray_executor
from metazoo.execution.executor import executor_for
from metazoo.execution.ray_executor import RayExecutor
from metazoo.runs.train import train

ray = pytest.importorskip("ray")


def host() -> tuple[dict[str, str], list[object]]:
    """State of this process that a library must not change."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
    return environment, [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


@pytest.fixture(scope="module")
def executor() -> Iterator[RayExecutor]:
    before = host()
    with executor_for("ray", 2) as executor:
        assert isinstance(executor, RayExecutor)
        assert not ray.is_initialized()
        assert len(list(executor.map(behave, ["sleep:0"]))) == 1
        assert host() == before
        yield executor
    assert not ray.is_initialized()
    assert host() == before


def test_units_run_elsewhere_and_errors_come_through(executor: RayExecutor, tmp_path: Path) -> None:
    units = [f"await:{tmp_path / 'mark'}", "pid", f"mark:{tmp_path / 'mark'}", *["pid"] * 20]
    found = dict(executor.map(behave, units))
    assert len(found) == 23
    assert (found[0], found[2]) == ("await", "mark")
    assert os.getpid() not in found.values()
    with pytest.raises(ZooError, match="remove the model"):
        list(executor.map(behave, ["pid", "zoo"]))
    with raises(RunError, subject="unit error", problem="IndexError: deep inside") as caught:
        list(executor.map(behave, ["error"], name_of=lambda unit: f"unit {unit}"))
    assert "in behave" in "".join(caught.value.__notes__)
    assert executor.is_warm


def test_a_run_is_bit_equal_to_one_of_this_process(executor: RayExecutor, tmp_path: Path) -> None:
    zoo = untrained(tmp_path / "zoo")
    here = train(zoo, out=tmp_path / "here", config=OPTIONS, workers=1)
    there = train(zoo, out=tmp_path / "there", config=OPTIONS, executor=executor)
    assert content(here.path) == content(there.path)


def test_a_unit_whose_process_dies_is_repeated_but_not_for_ever(executor: RayExecutor, tmp_path: Path) -> None:
    (tmp_path / "left").write_text("2")
    units = ["pid", f"die:{tmp_path / 'left'}", "pid"]
    found = dict(executor.map(behave, units))
    assert found[1] == "die"
    assert len(found) == 3
    (tmp_path / "left").write_text("3")
    with raises(RunError, subject="unit die:", problem="WorkerCrashedError"):
        list(executor.map(behave, units, name_of=lambda unit: f"unit {unit}"))


def test_a_stop_does_not_end_the_cluster(executor: RayExecutor) -> None:
    calls = []

    def check() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise Interrupted("stop")

    with pytest.raises(Interrupted):
        list(executor.map(behave, ["sleep:600"] * 9, check=check))
    assert [result for _, result in executor.map(behave, ["sleep:0"])] == ["sleep"]


def test_ray_that_cannot_run_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(ray_executor, "find_spec", lambda _: None)
        with raises(UsageError, subject="ray", remedy="`metazoo[ray]`"):
            RayExecutor(2)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setenv("RAY_TMPDIR", f"/tmp/{'x' * 39}")
    with raises(UsageError, subject="x" * 39, problem="43 bytes", remedy="RAY_TMPDIR"):
        list(RayExecutor(2).map(behave, ["pid"]))


_LOST = """
import sys, threading, time
from pathlib import Path
sys.path.insert(0, {here!r})
import ray
from executor_units import behave
from metazoo.execution.ray_executor import RayExecutor, _host_as_before
from ray.cluster_utils import Cluster

marks = Path(sys.argv[1])
with _host_as_before():
    cluster = Cluster(initialize_head=True, head_node_args=dict(num_cpus=0, object_store_memory=80 << 20))
    nodes = [cluster.add_node(num_cpus=1, object_store_memory=80 << 20) for _ in range(2)]
    cluster.wait_for_nodes()
    ray.init(address=cluster.address, log_to_driver=False)

def kill():
    while not list(marks.glob("*.at-work")):
        time.sleep(0.01)
    (first,) = {{path.read_text() for path in marks.glob("*.at-work")}} & {{node.node_id for node in nodes}}
    next(node for node in nodes if node.node_id == first).kill_raylet()
    (marks / "killed").touch()

units = [f"at-work:{{marks / 'killed'}}"] + [f"square:{{number}}" for number in range(8)]
threading.Thread(target=kill).start()
with RayExecutor(1) as executor:
    found = dict(executor.map(behave, units))
assert ray.is_initialized()  # the executor has not started it
assert found == {{0: "at-work"}} | {{number + 1: number**2 for number in range(8)}}, found
print("attempts:", len((marks / "attempts").read_text()))
with _host_as_before():
    ray.shutdown()
    cluster.shutdown()
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Ray makes clusters for tests on Linux only")
def test_nothing_is_lost_with_a_machine(tmp_path: Path) -> None:
    script = tmp_path / "lost.py"
    script.write_text(_LOST.format(here=str(Path(__file__).parent)))
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "attempts: 2" in done.stdout.splitlines()
