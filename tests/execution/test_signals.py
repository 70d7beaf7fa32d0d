import os
import signal
import threading

import pytest

from metazoo.errors import Interrupted
from metazoo.execution.signals import graceful, held_back


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_request_is_answered_at_the_next_check(number: signal.Signals, exit_code: int) -> None:
    before = signal.getsignal(number)
    finished = []

    def work() -> None:
        with graceful() as stop:
            for unit in range(3):
                stop.check()
                if unit == 1:
                    os.kill(os.getpid(), number)
                finished.append(unit)

    with pytest.raises(Interrupted, match=f"{number.name}.*call again") as caught:
        work()
    assert finished == [0, 1]
    assert caught.value.exit_code == exit_code
    assert signal.getsignal(number) is before


def test_a_second_request_ends_at_once() -> None:
    reached = []

    def work() -> None:
        with graceful():
            os.kill(os.getpid(), signal.SIGINT)
            reached.append("after the first")
            os.kill(os.getpid(), signal.SIGTERM)
            reached.append("after the second")

    with pytest.raises(Interrupted, match="lost") as caught:
        work()
    assert reached == ["after the first"]
    assert caught.value.exit_code == 143


def test_nothing_happens_without_a_request() -> None:
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with graceful() as stop:
        stop.check()
        assert signal.getsignal(signal.SIGINT) == stop.record
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers


def test_a_request_without_a_check_is_answered_at_the_end_of_the_outermost_block() -> None:
    reached = []

    def work() -> None:
        with graceful() as outer:
            with graceful() as inner:
                assert inner is outer
                os.kill(os.getpid(), signal.SIGTERM)
            reached.append("after the inner block")
        reached.append("after the outer block")

    with pytest.raises(Interrupted, match="SIGTERM"):
        work()
    assert reached == ["after the inner block"]


def test_an_error_inside_is_not_replaced_and_handlers_are_restored() -> None:
    before = signal.getsignal(signal.SIGINT)

    def work() -> None:
        with graceful():
            os.kill(os.getpid(), signal.SIGINT)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    assert signal.getsignal(signal.SIGINT) is before
    with graceful() as stop:
        stop.check()


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="needs POSIX signal masks")
def test_held_back_signals_arrive_after_the_block() -> None:
    reached = []

    def work() -> None:
        with graceful() as stop:
            with held_back():
                signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
                stop.check()
                reached.append("still held back")
            assert not {signal.SIGINT, signal.SIGTERM} & signal.pthread_sigmask(signal.SIG_BLOCK, set())
            stop.check()
            reached.append("never arrived")

    with pytest.raises(Interrupted, match="SIGTERM"):
        work()
    assert reached == ["still held back"]


def test_other_threads_catch_nothing() -> None:
    before = signal.getsignal(signal.SIGINT)
    seen = []

    def work() -> None:
        with graceful() as stop:
            stop.check()
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]
