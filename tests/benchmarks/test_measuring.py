"""Timing, ratios, growth and memory, on work whose cost is known."""

import sys
import time

import pytest

from benchmarks.measure import ONCE, Case, Effort, Settings, Suite, compare, extrapolated, growth, timed, waited
from benchmarks.peak_memory import peak_of_command
from benchmarks.runner import run_suite
from benchmarks.tables import digits, duration, markdown


def test_ways_take_turns_after_one_round_to_warm_up() -> None:
    calls: list[str] = []

    def way(name: str, seconds: float) -> float:
        calls.append(name)
        return seconds

    found = compare({"reference": lambda: way("r", 6.0), "ours": lambda: way("o", 2.0)}, Effort(rounds=2, least=1))
    assert calls == ["r", "o"] * 3
    assert found["ours"].ratio.median == 3.0
    assert found["reference"].ratio.median == 1.0


def test_a_ratio_is_of_one_round_so_a_slow_round_strikes_both() -> None:
    reference, ours = iter([9.0, 2.0, 40.0, 4.0]), iter([9.0, 1.0, 10.0, 2.0])
    found = compare({"reference": lambda: next(reference), "ours": lambda: next(ours)}, Effort(rounds=3))
    assert (found["ours"].ratio.least, found["ours"].ratio.median, found["ours"].ratio.most) == (2.0, 2.0, 4.0)
    assert (found["ours"].seconds.least, found["ours"].seconds.median, found["ours"].seconds.most) == (1.0, 2.0, 10.0)


@pytest.mark.parametrize(("seconds", "rounds"), [(0.0, 3), (3600.0, 7)])
def test_no_more_than_the_least_rounds_once_time_is_up(seconds: float, rounds: int) -> None:
    calls: list[int] = []
    compare({"only": timed(lambda: calls.append(0))}, Effort(rounds=7, least=3, seconds=seconds, warm_up=False))
    assert len(calls) == rounds


def test_a_share_is_taken_for_the_whole() -> None:
    busy = timed(lambda: sum(range(100_000)))()
    assert timed(lambda: sum(range(100_000)), 1 / 1000)() > 50 * busy > 0


def test_only_missing_steps_are_added(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "process_time", lambda: clock[0])

    def run(check: object) -> None:
        assert callable(check)
        clock[0] += 10  # to get ready
        for _ in range(3):
            check()
            clock[0] += 2
        clock[0] += 5  # to tidy up

    assert extrapolated(run, 100)() == 10 + 100 * 2 + 5


def test_sleep_costs_no_processor_but_is_waited_for() -> None:
    assert timed(lambda: time.sleep(0.05))() < 0.05 <= waited(lambda: time.sleep(0.05))()


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.5])
def test_growth_of_a_power_law_is_its_exponent(exponent: float) -> None:
    sizes = [3, 10, 70]
    assert growth(sizes, [0.2 * size**exponent for size in sizes]) == pytest.approx(exponent)


def test_peak_memory_is_that_of_the_child_and_its_children() -> None:
    child = "import time; held = bytearray({}); held[::4096] = bytes([1]) * len(held[::4096]); time.sleep(0.3)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child.format(10**8)!r}])"
    idle = peak_of_command([sys.executable, "-c", child.format(1)])
    assert peak_of_command([sys.executable, "-c", parent]) >= idle + 0.9e8


def test_a_record_shows_rates_ratios_growth_and_memory() -> None:
    def case(size: int) -> Case:
        ways = {"reference": lambda: 8.0 * size**2, "ours": lambda: 4.0 * size}
        return Case(f"size {size}", lambda: ways, 12, "images", "side", size)

    suite = Suite("made-up", "What is compared.", lambda _: [case(1), case(3)])
    record = run_suite(suite, Settings(), ONCE)
    assert [row["exponent"] for row in record["growth"]] == pytest.approx([2.0, 1.0])
    machine = {"processor": "P", "cores": 2, "threads": 1, "gpu": None, "memory": 8e9, "python": "3", "versions": {}}
    text = markdown({"machine": machine | {"date": "D"}, "suites": {"made-up": record}})
    assert "| ours | 4.00 s | 3.00 images/s | 2.00 |" in text
    assert "exponent over side (1, 3): reference: 2.00; ours: 1.00" in text
    record["cases"][0]["ways"][0]["peak_memory"] = 123_456_789
    assert "| 123 MB |" in markdown({"machine": machine | {"date": "D"}, "suites": {"made-up": record}})


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.00123, "1.23 ms"), (59.96, "60.0 s"), (600, "10.0 min"), (86_400, "24.0 h"), (864_000, "10.0 days")],
)
def test_durations_have_three_digits_and_a_unit(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_large_numbers_have_no_exponent() -> None:
    assert (digits(1234.5), digits(99.96), digits(0.01)) == ("1,234", "100", "0.0100")
