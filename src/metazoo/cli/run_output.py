"""Tables of a run on standard output, apart from `output`, since reports import heavy libraries."""

from metazoo.cli.output import print_table
from metazoo.execution.progress import message
from metazoo.report.sections import sections_of
from metazoo.runs.record import Run
from metazoo.zoo import Zoo


def print_sections(run: Run, zoo: Zoo, *, about_models: bool) -> bool:
    """Print the tables of a run, and its warnings on standard error; False if it has recorded none.

    Args:
        run: a run on `zoo`.
        zoo: current zoo of the run.
        about_models: whether to print the tables on single models, or the others.
    """
    contents = [content for _, content in sections_of(run, zoo, about_models=about_models)]
    for content in contents:
        for table in content.tables:
            print_table(table)
        for warning in content.warnings:
            message(f"warning: {warning}")
    return bool(contents)
