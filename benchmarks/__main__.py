"""Side-by-side measurements of what makes metazoo quick: `make bench`, or `python benchmarks [--out FILE]`.

Every row compares two ways to do the same thing, interleaved in one run; the ratio counts, not the seconds.
"""

import argparse
import json
from pathlib import Path

from speed import SUITES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("suites", nargs="*", choices=[*SUITES, []], help="all if none is named")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    options = parser.parse_args()
    figures = {}
    for name in options.suites or SUITES:
        print(f"\n{name}", flush=True)
        figures[name] = SUITES[name]()
        for row, (seconds, baseline) in figures[name].items():
            print(f"  {row:<64} {1e3 * seconds:8.1f} ms  {baseline / seconds:5.2f} x the first", flush=True)
    if options.out is not None:
        options.out.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
