"""Clean stop at SIGINT and SIGTERM, between units of work and within long ones."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from types import FrameType

from metazoo.errors import Interrupted


class StopRequest:
    """State of a request to stop this process.

    Args:
        remedy: advice on how to continue.
    """

    def __init__(self, remedy: str = "call again to continue") -> None:
        self._signal: int | None = None
        self._remedy = remedy

    def record(self, number: int, _frame: FrameType | None) -> None:
        """Handle a signal: record the first one, and stop at once at the second one.

        Raises:
            Interrupted: it is the second signal.
        """
        if self._signal is not None:
            raise Interrupted("stopped at once; the unit of work in progress is lost", 128 + number)
        self._signal = number

    def check(self) -> None:
        """Stop if requested; call it whenever the state on disk is consistent.

        Raises:
            Interrupted: a stop was requested; exit code 130 after SIGINT, 143 after SIGTERM.
        """
        if self._signal is not None:
            name = signal.Signals(self._signal).name
            raise Interrupted(f"stopped by {name}: finished work is kept; {self._remedy}", 128 + self._signal)


_active: StopRequest | None = None
_check: ContextVar[Callable[[], None] | None] = ContextVar("check", default=None)


def check_stop() -> None:
    """Stop the current unit of work if requested; call it within long units, where leaving them is harmless.

    Nothing happens in a worker process, which is ended from outside.
    """
    check = _check.get()
    if check is not None:
        check()


@contextlib.contextmanager
def stopped_by(check: Callable[[], None]) -> Iterator[None]:
    """Let `check_stop` call `check` within the block, in this thread."""
    token = _check.set(check)
    try:
        yield
    finally:
        _check.reset(token)


@contextlib.contextmanager
def graceful(remedy: str = "call again to continue") -> Iterator[StopRequest]:
    """Catch SIGINT and SIGTERM within the block, in the main thread only.

    Nested blocks share one request. At the end of the outermost block, a request is answered that no `check` has
    answered, so that it is never lost.

    Args:
        remedy: advice on how to continue, for the message; not used in nested blocks.

    Raises:
        Interrupted: a stop was requested, see `StopRequest.check`.
    """
    global _active
    if threading.current_thread() is not threading.main_thread():
        yield StopRequest(remedy)
        return
    if _active is not None:
        yield _active
        return
    request = _active = StopRequest(remedy)
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for number in previous:
            signal.signal(number, request.record)
        yield request
    finally:
        _active = None
        for number, handler in previous.items():
            # None: the handler was not set by Python, which cannot restore it
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
    request.check()


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Block SIGINT and SIGTERM in this thread within the block (POSIX; otherwise nothing happens).

    A process started within the block inherits this until it calls `let_through`, so that no signal ends it while it
    starts.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def let_through() -> None:
    """Unblock SIGINT and SIGTERM, which were blocked when this process was started."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
