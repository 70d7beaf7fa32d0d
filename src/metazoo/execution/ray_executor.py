"""Executor with processes of a Ray cluster; the only module that uses Ray (extra `metazoo[ray]`).

All machines of the cluster need the same paths of zoo and run folder. Ray itself retries nothing: this executor repeats
a unit whose process or machine is lost a few times, with equal results.
"""

import contextlib
import os
import signal
import sys
import tempfile
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, final

from metazoo.errors import RunError, UsageError
from metazoo.execution.executor import Executor
from metazoo.execution.process_memory import keep_freed_memory
from metazoo.execution.tasks import Work, do_packed

_ATTEMPTS = 3
_SECONDS_BETWEEN_CHECKS = 0.5
_STORE_BYTES = 256 << 20
# Paths of its sockets are up to 64 bytes longer, and the system accepts 107.
_LONGEST_FOLDER = 43
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # units share GPUs and choose their device
    "RAY_OBJECT_STORE_ALLOW_SLOW_STORAGE": "1",
}


@final
class RayExecutor(Executor):
    """Processes of the connected Ray cluster, or else of a new one on this machine.

    Args:
        workers: number of single-threaded units that run at once; at least the number of CPUs of the cluster.

    Raises:
        UsageError: Ray is not installed, or `workers` is below 1.
    """

    def __init__(self, workers: int) -> None:
        super().__init__(workers)
        if find_spec("ray") is None:
            raise UsageError(
                "executor ray", "Ray is missing", "install the extra `metazoo[ray]`, or use the executor local"
            )
        self._is_connected = self._is_own = False

    @property
    def is_warm(self) -> bool:  # noqa: D102
        return self._is_connected

    def close(self) -> None:
        """Shut down the cluster if this executor has started it."""
        if self._is_own:
            import ray

            with _host_as_before():
                ray.shutdown()
        self._is_connected = self._is_own = False

    def _connect(self) -> None:
        with _host_as_before():
            import ray

            if not ray.is_initialized():
                folder = os.environ.get("RAY_TMPDIR") or str(Path(tempfile.gettempdir()) / "ray")
                if len(os.fsencode(folder)) > _LONGEST_FOLDER:
                    raise UsageError(
                        f"temporary folder {folder} of Ray",
                        f"path longer than {_LONGEST_FOLDER} bytes",
                        "set RAY_TMPDIR to a shorter one",
                    )
                # Ray starts processes from others, which read their path from the environment.
                os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
                try:
                    ray.init(
                        address="local",
                        num_cpus=self.capacity,
                        include_dashboard=False,
                        object_store_memory=_STORE_BYTES,
                        configure_logging=False,
                        log_to_driver=False,
                    )
                except Exception as error:
                    reason = " ".join(str(error).split())[:300].rstrip(".")
                    raise RunError("Ray", f"cannot start: {reason}", "call again, or use --executor local") from error
                self._is_own = True
            self.capacity = max(self.capacity, int(ray.cluster_resources().get("CPU", 0)))
        self._is_connected = True

    def _spread(self, work: Work[Any, Any], indices: range, check: Callable[[], None]) -> Iterator[tuple[int, Any]]:
        if not self._is_connected:
            self._connect()
        import ray
        from ray.exceptions import RayError, RayTaskError

        largest = max((int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]), default=1)
        submit = ray.remote(max_retries=0, num_cpus=max(1, min(work.threads, largest)))(_do_packed).remote
        waiting, attempts = deque(indices), Counter[int]()
        running: dict[Any, int] = {}
        try:
            while waiting or running:
                while waiting and len(running) < 2 * self.capacity:  # so that no process waits for its next unit
                    index = waiting.popleft()
                    running[submit(work.packed(index))] = index
                for reference in ray.wait(list(running), timeout=_SECONDS_BETWEEN_CHECKS)[0]:
                    index = running.pop(reference)
                    try:
                        answer = ray.get(reference)
                    except RayTaskError as error:
                        raise RunError(work.name(index), f"failed in a process of Ray: {error.cause}") from error
                    except RayError as error:
                        attempts[index] += 1
                        if attempts[index] == _ATTEMPTS:
                            raise RunError(
                                work.name(index),
                                f"{_ATTEMPTS} processes of Ray ended, perhaps out of memory ({type(error).__name__})",
                                "use fewer workers",
                            ) from error
                        waiting.appendleft(index)
                    else:
                        yield index, work.unpacked(index, answer)
                check()
        finally:
            for reference in running:
                ray.cancel(reference, force=True)


def _do_packed(task: bytes) -> bytes:
    keep_freed_memory()
    return do_packed(task)


@contextlib.contextmanager
def _host_as_before() -> Iterator[None]:
    """Set environment variables for Ray within the block, and undo its changes of this process."""
    environment, handler = dict(os.environ), signal.getsignal(signal.SIGTERM)
    os.environ.update(_ENVIRONMENT)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(environment)
        if threading.current_thread() is threading.main_thread() and handler is not None:
            signal.signal(signal.SIGTERM, handler)
