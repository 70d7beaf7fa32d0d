"""Entry point of the command line: parse, run, and report an error as one line and an exit code."""

import contextlib
import importlib
import io
import os
import sys
import traceback
from collections.abc import Sequence

from metazoo.cli.parser import build_parser, early_options
from metazoo.errors import Interrupted, MetazooError
from metazoo.execution.process_memory import keep_freed_memory
from metazoo.plugins import load_plugin
from metazoo.text import printable

_LEARNING = {
    "demo:demo",
    "measure_commands:evaluate",
    "study_commands:study",
    "train_commands:train",
    "zoo_commands:build",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 success, 1 failure, 2 wrong use, 130 or 143 stopped by a signal."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    _escape_unencodable()
    try:
        try:
            early, rest = early_options().parse_known_args(given)
            for name in early.plugin:
                load_plugin(name)
            options = build_parser().parse_args(rest)
            if options.command in _LEARNING:
                keep_freed_memory()
            module, _, function = options.command.partition(":")
            return int(getattr(importlib.import_module(f"metazoo.cli.{module}"), function)(options) or 0)
        finally:
            # A closed pipe is noticed here; at the exit of Python it would be too late.
            sys.stdout.flush()
    except MetazooError as error:
        return _report(error, str(error), error.exit_code, debug)
    except KeyboardInterrupt as error:
        return _report(error, "stopped", Interrupted("").exit_code, debug)
    except BrokenPipeError:
        # The reader, such as `head`, has closed the pipe; Python must not report it again at its exit.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        text = f"unexpected {type(error).__name__}: {' '.join(str(error).split())[:500]}; repeat with --debug"
        return _report(error, text, 1, debug)


def _escape_unencodable() -> None:
    # File names may be any bytes, and the terminal may not use UTF-8.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _report(error: BaseException, text: str, exit_code: int, debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
    print(f"metazoo: {printable(' '.join(text.split()))}", file=sys.stderr, flush=True)
    return exit_code
