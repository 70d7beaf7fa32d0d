"""Running suites, and the record that is kept of it."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
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
    only: str = "",
    memory: bool = True,
    after_case: Callable[[Record], object] = lambda _: None,
) -> Record:
    """Measure all cases of a suite.

    Args:
        suite: see there.
        settings: what its cases depend on.
        effort: of a case that is not to be done once.
        only: a part of the names of the cases wanted.
        memory: whether to start a process for every way of the cases that ask for its peak memory.
        after_case: told the record of the suite after each case, to keep what is there if the rest is broken off.
    """
    records: list[Record] = []
    suite_record: Record = {"about": suite.about, "cases": records, "growth": []}
    for place, case in enumerate(suite.cases(settings)):
        if only not in case.name:
            continue
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
        suite_record["growth"] = growth_of(records)
        after_case(suite_record)
    return suite_record


def _watched(way: Way, name: str, peaks: dict[str, int]) -> Way:
    def watched() -> float:
        with PeakMemory() as memory:
            seconds = way()
        peaks[name] = memory.peak
        return seconds

    return watched


def _record(case: Case) -> Record:
    return {key: getattr(case, key) for key in ("name", "units", "unit", "axis", "size")}


def growth_of(records: Sequence[Record]) -> list[Record]:
    """The exponent of every way over every axis that at least two cases lie on."""
    return list(_growth(records))


def _growth(records: Sequence[Record]) -> Iterator[Record]:
    axes = dict.fromkeys((record["axis"], record["ways"][0]["name"]) for record in records if record["axis"])
    for axis, reference in axes:
        along = [r for r in records if r["axis"] == axis and r["ways"][0]["name"] == reference]
        sizes = [record["size"] for record in along]
        if len(set(sizes)) < 2:
            continue
        for number, way in enumerate(along[0]["ways"]):
            costs = [record["ways"][number]["seconds"]["median"] for record in along]
            yield {"axis": axis, "sizes": sizes, "way": way["name"], "exponent": growth(sizes, costs)}
