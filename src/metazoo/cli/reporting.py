"""`metazoo report`."""

from argparse import Namespace

from metazoo.errors import MetazooError
from metazoo.report import write_report
from metazoo.run.progress import message
from metazoo.run_record import Run
from metazoo.zoo import Zoo


def report(options: Namespace) -> None:
    """Write the page of a run."""
    run = Run.open(options.run)
    zoo = _zoo_of(run) if options.zoo is None else Zoo.open(options.zoo)
    out = write_report(run, options.out, results=options.results, zoo=zoo, images=options.images)
    print(f"{out}: a report of {out.stat().st_size / 1e6:.1f} MB; open it in a browser")


def _zoo_of(run: Run) -> Zoo | None:
    # A run does not need its zoo any more, so it may be gone.
    try:
        return Zoo.open(run.description["zoo"]["path"])
    except MetazooError as error:
        message(f"note: nothing is said of single models and no image is shown ({error}); --zoo says where the zoo is")
        return None
