"""A record as text."""

from collections.abc import Iterator
from itertools import groupby

from benchmarks.runner import Record


def case_lines(case: Record) -> Iterator[str]:
    """One case for a terminal."""
    yield f"  {case['name']}"
    for way in case["ways"]:
        peak = f"  {memory(way['peak_memory'])}" if way["peak_memory"] else ""
        yield (
            f"    {way['name']:<76} {duration(way['seconds']['median']):>9}"
            f"  {rate(case, way):>22}  {ratio(way['ratio'])}{peak}"
        )


def growth_lines(suite: Record) -> Iterator[str]:
    """How the cost of each way grows, an axis a line."""
    for (axis, sizes), rows in groupby(suite["growth"], lambda row: (row["axis"], tuple(row["sizes"]))):
        exponents = "; ".join(f"{row['way']}: {row['exponent']:.2f}" for row in rows)
        yield f"exponent over {axis} ({', '.join(f'{size:g}' for size in sizes)}): {exponents}"


def markdown(record: Record) -> str:
    """Everything as Markdown."""
    parts = [machine_line(record["machine"])]
    for name, suite in record["suites"].items():
        has_memory = any(way["peak_memory"] for case in suite["cases"] for way in case["ways"])
        head = ["", "time", "rate", "times as fast", *["peak memory"] * has_memory]
        lines = [f"## {name}", "", suite["about"], "", _row(head), _row(["---"] * len(head))]
        for case in suite["cases"]:
            lines.append(_row([f"**{case['name']}**", *[""] * (len(head) - 1)]))
            for way in case["ways"]:
                cells = [way["name"], duration(way["seconds"]["median"]), rate(case, way), ratio(way["ratio"])]
                lines.append(_row([*cells, *[memory(way["peak_memory"])] * has_memory]))
        if suite["growth"]:
            lines += ["", *(f"- Growth, {line}" for line in growth_lines(suite))]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def machine_line(machine: Record) -> str:
    """What was measured on, in one sentence."""
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    return (
        f"{machine['processor']}, {machine['cores']} cores, {machine['gpu'] or 'no GPU'}, {machine['threads']} thread, "
        f"{machine['memory'] / 1e9:.0f} GB; Python {machine['python']}, {versions}; {machine['date']}."
    )


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def duration(seconds: float) -> str:
    """Three digits and a unit."""
    for name, size, most in (("ms", 1e-3, 1), ("s", 1, 180), ("min", 60, 7200), ("h", 3600, 172_800)):
        if seconds < most:
            return f"{digits(seconds / size)} {name}"
    return f"{digits(seconds / 86_400)} days"


def rate(case: Record, way: Record) -> str:
    """Units a second, where they say something."""
    if not case["unit"]:
        return ""
    return f"{digits(case['units'] / way['seconds']['median'])} {case['unit']}/s"


def ratio(spread: Record) -> str:
    """Median and range of what the reference took over what this took."""
    if spread["least"] == spread["most"]:
        return digits(spread["median"])
    return f"{digits(spread['median'])} ({digits(spread['least'])} to {digits(spread['most'])})"


def memory(peak: float | None) -> str:
    """In megabytes."""
    return f"{peak / 1e6:,.0f} MB" if peak else ""


def digits(value: float) -> str:
    """Three digits, without an exponent where the number is large."""
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}".rstrip(".")
