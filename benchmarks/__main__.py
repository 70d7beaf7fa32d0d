"""What metazoo costs beside the published way to do the same: `make bench`, or `python -m benchmarks [SUITE ...]`.

The ways of a case take turns; the median ratio to the first of them counts, not the seconds. See docs/speed.md.
"""

import argparse
import datetime
import json
from pathlib import Path

import torch

from benchmarks.machine import describe_machine
from benchmarks.measure import ONCE, Effort, Settings
from benchmarks.runner import Record, growth_of, run_suite
from benchmarks.suites import SUITES
from benchmarks.tables import case_lines, growth_lines, machine_line, markdown
from metazoo.execution.process_memory import keep_freed_memory

FORMAT_VERSION = 1


def main(arguments: list[str] | None = None) -> None:
    parser = _parser()
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.suites if name not in SUITES]:
        parser.error(f"there is no suite {unknown[0]!r}; choose from {', '.join(SUITES)}")
    if options.show:
        print(markdown(_joined([json.loads(path.read_text(encoding="utf-8")) for path in options.show])))
        return
    torch.set_num_threads(1)
    keep_freed_memory()
    settings = Settings(options.quick, options.whole)
    effort = ONCE if options.quick else Effort(rounds=options.rounds, seconds=options.seconds)
    record: Record = {"format_version": FORMAT_VERSION, "machine": describe_machine(), "quick": options.quick}
    record["suites"] = {}
    print(machine_line(record["machine"]))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for name in options.suites or (["whole"] if options.whole else SUITES):
        print(f"\n{name}: {SUITES[name].about}", flush=True)

        def keep(suite: Record, name: str = name) -> None:
            print("\n".join(case_lines(suite["cases"][-1])), flush=True)
            record["suites"][name] = suite
            options.out.write_text(json.dumps(record, indent=2), encoding="utf-8")

        memory = not (options.quick or options.no_memory)
        suite = run_suite(SUITES[name], settings, effort, only=options.only, memory=memory, after_case=keep)
        print(*(f"  {line}" for line in growth_lines(suite)), sep="\n", flush=True)
    print(f"\n{markdown(record)}" if options.markdown else f"\nkept in {options.out}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    now = datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S")
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=f"all if none is named: {', '.join(SUITES)}")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, once: tries the code, measures nothing")
    parser.add_argument("--whole", type=Path, metavar="ZOO", help="the zoo of the suite `whole`, not a small one")
    parser.add_argument("--only", default="", metavar="TEXT", help="no other cases than those with TEXT in their names")
    parser.add_argument("--rounds", type=int, default=Effort.rounds, help="most rounds of a case (%(default)s)")
    parser.add_argument("--seconds", type=float, default=Effort.seconds, help="after which 3 rounds do (%(default)g)")
    parser.add_argument("--no-memory", action="store_true", help="leave out peak memory, which takes more processes")
    parser.add_argument("--out", type=Path, default=Path(f"runs/benchmarks/{now}.json"), help="JSON (%(default)s)")
    parser.add_argument("--markdown", action="store_true", help="print tables as docs/speed.md has them")
    parser.add_argument(
        "--show", type=Path, nargs="+", metavar="JSON", help="print the tables of earlier runs, no more"
    )
    return parser


def _joined(records: list[Record]) -> Record:
    """Several runs on one machine as one; of a case that was run twice the later counts."""
    suites: dict[str, Record] = {}
    for record in records:
        for name, suite in record["suites"].items():
            known = {case["name"]: case for case in suites.get(name, {"cases": []})["cases"]}
            cases = list((known | {case["name"]: case for case in suite["cases"]}).values())
            suites[name] = suite | {"cases": cases, "growth": growth_of(cases)}
    return records[-1] | {"suites": suites}


if __name__ == "__main__":
    main()
