"""`metazoo track`."""

from argparse import Namespace

from metazoo.report.track import track_run


def track(options: Namespace) -> None:
    """Send a run and its results to trackers."""
    for given, sent in zip(options.to, track_run(options.run, options.to, results=options.results), strict=True):
        print(f"{given}: {sent}")
