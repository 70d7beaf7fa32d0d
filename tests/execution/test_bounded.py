import sys
import time
from typing import Any

import psutil
import pytest
from bounded_units import do

from metazoo.errors import Interrupted, RunError, ZooError
from metazoo.execution.bounded import ExceededError, Limits, map_bounded

LIMITS = Limits(seconds=60, megabytes=200)


def answers(*acts: tuple[str, float], limits: Limits = LIMITS, **options: Any) -> list[Any]:
    return list(map_bounded(do, iter(acts), limits, **options))


def test_one_process_serves_many_units_and_errors_are_answers() -> None:
    first, unsound, again = answers(("pid", 0), ("raise", 0), ("pid", 0))
    assert first == again
    assert isinstance(unsound, ZooError)
    assert str(unsound) == "unsound"
    assert not psutil.pid_exists(first)
    assert answers() == []


def test_a_unit_over_its_time_is_ended_and_the_next_one_gets_another_process() -> None:
    start = time.monotonic()
    first, late, again = answers(("pid", 0), ("sleep", 1000), ("pid", 0), limits=Limits(seconds=1, megabytes=200))
    assert isinstance(late, ExceededError)
    assert "1 s" in str(late)
    assert first != again
    assert not psutil.pid_exists(first)
    assert time.monotonic() - start < 60


def test_a_process_that_ends_is_reported() -> None:
    first, dead, again = answers(("pid", 0), ("abort", 0), ("pid", 0))
    assert isinstance(dead, ExceededError)
    assert "signal (6)" in str(dead)
    assert first != again


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems do not refuse memory")
def test_memory_beyond_the_limit_is_refused_again_and_again() -> None:
    few, much, more, pid, few_again = answers(("take", 50), ("take", 1e6), ("take", 400), ("pid", 0), ("take", 150))
    assert (few, few_again) == (50_000_000, 150_000_000)
    for error in (much, more):
        assert isinstance(error, RunError)
        assert not isinstance(error, ExceededError)
        assert "MemoryError" in str(error)
    assert isinstance(pid, int)


def test_memory_that_cannot_be_refused_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    held = iter([0, 0, 0])
    monkeypatch.setattr("metazoo.execution.bounded._resident", lambda _: next(held, 10**12))
    (error,) = answers(("sleep", 1000))
    assert "200 MB" in str(error)


def test_a_stop_ends_it() -> None:
    calls = []

    def check() -> None:
        calls.append(1)
        if len(calls) > 100:
            raise Interrupted("stop")

    with pytest.raises(Interrupted):
        list(map_bounded(do, (("pid", 0) for _ in range(1000)), LIMITS, check=check))


def test_the_limit_of_memory_is_a_part_of_the_free_memory() -> None:
    assert 0 < Limits().bytes < psutil.virtual_memory().total
    assert Limits(megabytes=3).bytes == 3_000_000
