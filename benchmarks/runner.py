"""Running suites, and the record that is kept of it."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.measure import ONCE, Case, Effort, Settings, Suite, Way, compare, growth
from benchmarks.peak_memory import PeakMemory, peak_of_way

Record = dict[str, Any]
"""What JSON holds; `tables` shows it."""


def run_suite(
    suite: Suite,
    settings: Settings,
    effort: Effort,
    *,
    memory: bool = True,
    after_case: Callable[[Record], object] = lambda _: None,
) -> Record:
    """Measure all cases of a suite.

    Args:
        suite: see there.
        settings: what its cases depend on.
        effort: of a case that is not to be done once.
        memory: whether to start a process for every way of the cases that ask for its peak memory.
        after_case: told the record of each case when it is done.
    """
    records: list[Record] = []
    for place, case in enumerate(suite.cases(settings)):
        ways = case.prepare()
        peaks: dict[str, int] = {}
        if case.once:
            ways = {name: way if name in case.estimates else _watched(way, name, peaks) for name, way in ways.items()}
        found = compare(ways, ONCE if case.once else effort)
        if case.memory and memory:
            peaks = {
                name: peak_of_way(suite.name, place, number, quick=settings.quick) for number, name in enumerate(ways)
            }
        records.append(_record(case) | {
            "ways": [
                {"name": name, **dataclasses.asdict(times), "peak_memory": peaks.get(name)}
                for name, times in found.items()
            ]
        })  # fmt: skip
        after_case(records[-1])
    return {"about": suite.about, "cases": records, "growth": list(_growth(records))}


def _watched(way: Way, name: str, peaks: dict[str, int]) -> Way:
    def watched() -> float:
        with PeakMemory() as memory:
            seconds = way()
        peaks[name] = memory.peak
        return seconds

    return watched


def _record(case: Case) -> Record:
    return {key: getattr(case, key) for key in ("name", "units", "unit", "axis", "size")}


def _growth(records: list[Record]) -> Iterator[Record]:
    """The exponent of every way over every axis that at least two cases lie on."""
    axes = dict.fromkeys((record["axis"], record["ways"][0]["name"]) for record in records if record["axis"])
    for axis, reference in axes:
        along = [r for r in records if r["axis"] == axis and r["ways"][0]["name"] == reference]
        sizes = [record["size"] for record in along]
        if len(set(sizes)) < 2:
            continue
        for number, way in enumerate(along[0]["ways"]):
            costs = [record["ways"][number]["seconds"]["median"] for record in along]
            yield {"axis": axis, "sizes": sizes, "way": way["name"], "exponent": growth(sizes, costs)}
