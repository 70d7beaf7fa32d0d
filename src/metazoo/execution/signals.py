"""Ending cleanly when asked to: SIGINT and SIGTERM are noticed between units of work, and within long ones."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from types import FrameType

from metazoo.errors import Interrupted


class StopRequest:
    """Whether somebody has asked this process to stop.

    Args:
        remedy: advice on how to continue.
    """

    def __init__(self, remedy: str = "call again to continue") -> None:
        self._signal: int | None = None
        self._remedy = remedy

    def record(self, number: int, _frame: FrameType | None) -> None:
        """Signal handler: the first request is remembered, a second one ends the work at once.

        Raises:
            Interrupted: this is the second request.
        """
        if self._signal is not None:
            raise Interrupted("stopped at once; the unit of work in progress is lost", 128 + number)
        self._signal = number

    def check(self) -> None:
        """Call it wherever the state on disk is whole.

        Raises:
            Interrupted: a stop was asked for; exit code 130 after SIGINT, 143 after SIGTERM.
        """
        if self._signal is not None:
            name = signal.Signals(self._signal).name
            raise Interrupted(f"stopped by {name}: finished work is kept; {self._remedy}", 128 + self._signal)


_active: StopRequest | None = None
_check: ContextVar[Callable[[], None] | None] = ContextVar("check", default=None)


def check_stop() -> None:
    """Raise what ends the unit of work at hand; to be called within long units, wherever leaving them does no harm.

    A unit that runs in a process of its own is ended from outside, so there nothing happens.
    """
    check = _check.get()
    if check is not None:
        check()


@contextlib.contextmanager
def stopped_by(check: Callable[[], None]) -> Iterator[None]:
    """Let `check_stop` call `check` for the length of the block, in this thread."""
    token = _check.set(check)
    try:
        yield
    finally:
        _check.reset(token)


@contextlib.contextmanager
def graceful(remedy: str = "call again to continue") -> Iterator[StopRequest]:
    """Catch SIGINT and SIGTERM for the length of the block (in the main thread; elsewhere nothing is caught).

    A block within another shares its request, and a request that no `check` has answered is answered at the end of the
    outermost one, so that stages one after the other cannot swallow it.

    Args:
        remedy: advice on how to continue, which ends the message; that of the outermost block counts.

    Raises:
        Interrupted: see `StopRequest.check`.
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
            # None: the handler was not set by Python, which cannot put it back either
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
    request.check()


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Hold SIGINT and SIGTERM back from this thread for the length of the block (POSIX; elsewhere nothing happens).

    A process started within holds them back altogether until it calls `let_through`: neither can end it half-started.
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
    """Take in SIGINT and SIGTERM that were held back when this process was started."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
