"""The command line. Commands are imported when called, so that `--help` stays quick."""

from metazoo.cli.main import main

__all__ = ["main"]
