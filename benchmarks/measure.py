"""Timing several ways to do one thing, interleaved, so that what else the machine does strikes all alike."""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

Way = Callable[[], float]
"""Does the work of a case, or a share of it, and returns the seconds that all of it takes.

Seconds are those of the processor: with one thread, what one waits for on an idle core, whoever else is at work. What
other processes do is timed by `waited` instead.
"""


@dataclass(frozen=True)
class Settings:
    """What suites ask before they name their cases.

    Attributes:
        quick: whether the sizes are to be so small that nothing but the code is tried.
        zoo: a folder for the whole run, or None for a small one made up.
    """

    quick: bool = False
    zoo: Path | None = None


@dataclass(frozen=True)
class Case:
    """One thing done in several ways.

    Attributes:
        name: of the problem.
        prepare: the ways by name, the reference first; whatever they share is made here and not timed.
        units: how much of `unit` the work is, for rates.
        unit: in the plural, such as "images"; where it is empty, no rate is shown.
        axis: what `size` counts; cases of one suite with the same axis show how the cost grows.
        size: of the problem, above 0.
        memory: whether the peak memory of each way is measured too, each in a process of its own.
        once: whether to do each way once only, because it takes long and is long enough to be steady; the memory is
            then measured meanwhile.
        estimates: ways that only estimate the seconds, so that their memory says nothing.
    """

    name: str
    prepare: Callable[[], dict[str, Way]]
    units: float = 1
    unit: str = ""
    axis: str | None = None
    size: float | None = None
    memory: bool = False
    once: bool = False
    estimates: tuple[str, ...] = ()


@dataclass(frozen=True)
class Suite:
    """Cases that belong together, and a sentence on what they compare."""

    name: str
    about: str
    cases: Callable[[Settings], list[Case]]


@dataclass(frozen=True)
class Effort:
    """`rounds` of a case, but only `least` once they have taken `seconds`; `warm_up`: each way once before them."""

    rounds: int = 7
    least: int = 3
    seconds: float = 60.0
    warm_up: bool = True


ONCE = Effort(rounds=1, least=1, warm_up=False)


@dataclass(frozen=True)
class Spread:
    """Median and range of what the rounds gave."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True)
class Timed:
    """Seconds of one way, and `ratio`: how many times as long the reference took in the same round."""

    seconds: Spread
    ratio: Spread


def timed(function: Callable[[], object], share: float = 1.0) -> Way:
    """`function` does `share` of the work, all parts of which cost alike."""

    def way() -> float:
        start = time.process_time()
        function()
        return (time.process_time() - start) / share

    return way


def waited(function: Callable[[], object]) -> Way:
    """By the clock on the wall."""

    def way() -> float:
        start = time.perf_counter()
        function()
        return time.perf_counter() - start

    return way


def extrapolated(run: Callable[[Callable[[], None]], object], steps: int) -> Way:
    """A way of `steps` steps of which `run` does the first few.

    It calls what it is given before each of them, at least 2; what comes before the first and after the last counts as
    it is, what is missing as steps of mean length.
    """

    def way() -> float:
        marks: list[float] = []
        start = time.process_time()
        run(lambda: marks.append(time.process_time()))
        seconds = time.process_time() - start
        return seconds + (steps - len(marks)) * (marks[-1] - marks[0]) / (len(marks) - 1)

    return way


def compare(ways: dict[str, Way], effort: Effort) -> dict[str, Timed]:
    """Time the ways in turn, round by round; the first is what the others are compared with."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    if effort.warm_up:
        for way in ways.values():
            way()
    start = time.perf_counter()
    for done in count():
        if done == effort.rounds or (done >= effort.least and time.perf_counter() - start > effort.seconds):
            break
        for name, way in ways.items():
            seconds[name].append(way())
    reference = next(iter(seconds.values()))
    return {
        name: Timed(Spread.of(own), Spread.of([other / mine for other, mine in zip(reference, own, strict=True)]))
        for name, own in seconds.items()
    }


def growth(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """The exponent e of the power law costs = c sizes^e that fits best: least squares of the logarithms."""
    x, y = [math.log(size) for size in sizes], [math.log(cost) for cost in costs]
    return statistics.linear_regression(x, y).slope
