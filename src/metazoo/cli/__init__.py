"""The command line. What a command does is imported when it is called, so that `--help` stays quick."""

from metazoo.cli.main import main

__all__ = ["main"]
