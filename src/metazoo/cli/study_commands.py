"""`metazoo study`."""

import json
from argparse import Namespace

from metazoo.cli.output import print_table
from metazoo.errors import UsageError
from metazoo.study import StudyFile, read_study, run_study
from metazoo.study.study_file import EXAMPLE
from metazoo.study.tables import study_tables


def study(options: Namespace) -> int:
    """Run a study and print its tables; exit code 1 if a cell has failed."""
    if options.schema or options.example:
        print(json.dumps(StudyFile.model_json_schema(), indent=2) if options.schema else EXAMPLE, end="\n")
        return 0
    if options.study is None or options.out is None:
        raise UsageError("study", "missing STUDY.yaml or --out", "see `metazoo study --help`")
    sources = {}
    for given in options.source or ():
        name, equals, source = given.partition("=")
        if not name or not equals:
            raise UsageError("--source", f"{given!r} is not NAME=SOURCE", "write --source val=photos")
        sources[name] = source
    results = run_study(
        read_study(options.study, sources),
        options.out,
        workers=options.workers,
        executor=options.executor,
        device=options.device,
        hours=options.budget,
        progress=True,
    )
    for table in study_tables(results):
        print_table(table)
    print(f"{options.out}: {results.progress_line()}; see table.md, table.html, table.csv and results.csv")
    return 1 if results.errors else 0
