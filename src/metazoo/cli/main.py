"""Entry point: parse, run, and turn whatever goes wrong into one sentence and an exit code."""

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

_LEARNING = {"demo:demo", "measure_commands:evaluate", "train_commands:train", "zoo_commands:build"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 1 a failed job, 2 wrong use, 130 or 143 stopped by a signal."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    _escape_what_cannot_be_encoded()
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
            # Here, and not at the end of Python, it can still be noticed that the reader has gone.
            sys.stdout.flush()
    except MetazooError as error:
        return _report(error, str(error), error.exit_code, debug)
    except KeyboardInterrupt as error:
        return _report(error, "stopped", Interrupted("").exit_code, debug)
    except BrokenPipeError:
        # Whoever read the output has gone, as `head` does; Python must not complain of it once more at its end.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        text = f"unexpected {type(error).__name__}: {' '.join(str(error).split())[:500]}; call again with --debug"
        return _report(error, text, 1, debug)


def _escape_what_cannot_be_encoded() -> None:
    # A file's name may be any bytes, and a terminal may be of an old encoding.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _report(error: BaseException, text: str, exit_code: int, debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
    print(f"metazoo: {printable(' '.join(text.split()))}", file=sys.stderr, flush=True)
    return exit_code
