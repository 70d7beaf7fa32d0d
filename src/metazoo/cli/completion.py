"""`metazoo completion`."""

import argparse
from argparse import Namespace

import shtab

from metazoo.cli.parser import build_parser
from metazoo.text import local_path


def completion(options: Namespace) -> None:
    """Print the completion script of a shell."""
    parser = build_parser()
    _complete_paths(parser)
    print(shtab.complete(parser, shell=options.shell))


def _complete_paths(parser: argparse.ArgumentParser) -> None:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                _complete_paths(inner)
        elif action.type is local_path:
            action.complete = shtab.FILE  # pyright: ignore[reportAttributeAccessIssue]
