"""Types of option values, and options shared by several commands. It imports nothing heavy."""

import argparse
import re
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from metazoo import choices
from metazoo.errors import UsageError
from metazoo.text import local_path as path

STANDARD_INPUT = "-"


class Parser(argparse.ArgumentParser):
    """Parser that takes only complete option names and raises a UsageError for wrong use."""

    def __init__(self, **keywords: Any) -> None:
        super().__init__(**keywords, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Raise a UsageError; see `argparse.ArgumentParser.error`."""
        option = re.fullmatch(r"argument ([^:]+): (.+)", message, re.DOTALL)
        subject, problem = option.groups() if option else (self.prog, message)
        raise UsageError(subject, problem, f"see `{self.prog} --help`")

    def argument(self, name: str, metavar: str, text: str, kind: Callable[[str], Any] = path, **keywords: Any) -> None:
        """Add a positional argument, by default a path."""
        self.add_argument(name, metavar=metavar, type=kind, help=text, **keywords)

    def option(
        self, flag: str, text: str, kind: Callable[[str], Any] = str, default: Any = None, **keywords: Any
    ) -> None:
        """Add an option with a value; the help text ends with the default, if there is one.

        Args:
            flag: name with its dashes.
            text: help text, starting with a noun.
            kind: type of the value.
            default: value without the option.
            **keywords: further arguments of `add_argument`.
        """
        shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
        text = text if default is None else f"{text} (default: {shown})"
        self.add_argument(flag, type=kind, default=default, help=text, **keywords)

    def switch(self, flag: str, text: str, **keywords: Any) -> None:
        """Add an option without a value, True if given; its help text is an imperative."""
        self.add_argument(flag, help=text, **{"action": "store_true", **keywords})


def command(commands: Any, name: str, function: str, text: str, description: str = "", epilog: str = "") -> Parser:
    """Add a command.

    Args:
        commands: subparsers of the group.
        name: word to type.
        function: implementation as `module:function` within `metazoo.cli`.
        text: line in the list of commands, without a full stop.
        description: first paragraph of the command's help; `text` if empty.
        epilog: last paragraph of the command's help.
    """
    line = text[0].lower() + text[1:]
    parser = commands.add_parser(name, help=line, description=description or f"{text}.", epilog=epilog)
    parser.set_defaults(command=function)
    return parser


def data(parser: Parser, flag: str = "--data", text: str = "Images", **keywords: Any) -> None:
    """Add the option for labelled images."""
    parser.option(flag, f"{text}: {choices.DATA}", path, **keywords)


def head(parser: Parser, *, automatic: bool = False) -> None:
    """Add the options for learning a new task.

    Args:
        parser: parser of the command.
        automatic: whether `auto` chooses the head.
    """
    # Heads of plug-ins are in the registry, which is imported only if a plug-in was loaded.
    loaded = sys.modules.get("metazoo.features.heads")
    names = tuple(choices.HEADS) if loaded is None else loaded.HEADS.names()
    described = "; ".join(f"{name}: {text}" for name, text in choices.HEADS.items())
    if automatic:
        names = (*names, choices.AUTO_HEAD)
        described += f"; {choices.AUTO_HEAD}: head and batch norm with the least loss on held-out support images"
    head_text = f"Head that learns a task. {described}"
    parser.option("--head", head_text, default=choices.DEFAULT_HEAD, choices=names, metavar="HEAD")
    parser.option(
        "--batch-norm",
        "Statistics of batch normalisation. running: stored; support: of the support images; query: of each query "
        "batch (transductive)",
        default=choices.BATCH_NORM_MODES[0],
        choices=choices.BATCH_NORM_MODES,
    )
    parser.switch(
        "--mirror",
        "Average the features of each image and its mirror image; better for photographs, worse for characters and "
        "signs",
    )
    parser.option("--domain", "Domain of the images, for a meta-model of several domains (default: recognised)")


def images_per_class(parser: Parser) -> None:
    """Add the option for the number of glyph images."""
    parser.option("--images-per-class", "Images of each glyph", positive, 100)


class _FormerName(argparse.Action):
    """Former name of an option in version 0.1, which warns."""

    def __call__(self, _: object, namespace: argparse.Namespace, values: Any, option: str | None = None) -> None:
        print(f"warning: {option} is now called --{self.dest}; the former name will be removed", file=sys.stderr)
        setattr(namespace, self.dest, values)


def preset(parser: Parser) -> None:
    """Add the option for the preset of a method."""
    parser.option("--preset", "Preset of the method (default: default)")
    parser.option("--setting", "Name of --preset in version 0.1", dest="preset", action=_FormerName)


def seed(parser: Parser) -> None:
    """Add the option for the seed."""
    parser.option("--seed", "Seed of all randomness", natural, 0)


def threads(parser: Parser) -> None:
    """Add the option for the threads of torch."""
    parser.option("--threads", "Number of torch threads", positive, 1)


def workers(parser: Parser) -> None:
    """Add the option for the number of worker processes."""
    parser.option("--workers", "Number of worker processes (default: one per core, at most 4 on a GPU)", positive)


def executor(parser: Parser) -> None:
    """Add the options for worker processes and their executor."""
    workers(parser)
    parser.option(
        "--executor",
        "Executor of the worker processes. local: this machine; ray: a Ray cluster (needs the extra ray)",
        default=choices.EXECUTORS[0],
        choices=choices.EXECUTORS,
    )


def device(parser: Parser, more: str = "") -> None:
    """Add the option for the device.

    Args:
        parser: parser of the command.
        more: text after the default.
    """
    parser.option("--device", f"Device: cpu, cuda or cuda:1 (default: the first GPU, else the CPU{more})")


def trackers(parser: Parser, flag: str, text: str, **keywords: Any) -> None:
    """Add the option for trackers."""
    parser.option(
        flag,
        f"{text}: tensorboard, tensorboard:FOLDER (default: the folder tracking of the run), trackio, trackio:PROJECT, "
        "mlflow, or mlflow:URI (default: MLFLOW_TRACKING_URI, else mlflow.db). Each needs the extra of its name. "
        "Repeatable",
        action="append",
        metavar="TRACKER",
        **keywords,
    )


def recovered_images(parser: Parser, **keywords: Any) -> None:
    """Add the option for the use of recovered images."""
    parser.option(
        "--recovered-images",
        "Use of images recovered from the models. show: a run keeps and shows them; keep: a run keeps them without "
        "showing them; discard: a run deletes them when it has finished (default: show)",
        choices=choices.PERMISSIONS,
        **keywords,
    )


def output_format(parser: Parser, *names: str, more: str = "") -> None:
    """Add the option for the format of the output; the first of `names` is the default."""
    parser.option("--format", f"Format of the output{more}", default=names[0], choices=names)


def _typed(convert: Callable[[str], Any], allowed: Callable[[Any], bool], description: str) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        try:
            value = convert(text)
        except ValueError:
            value = None
        if value is None or not allowed(value):
            raise argparse.ArgumentTypeError(f"{text!r} is not {description}")
        return value

    return parse


natural = _typed(int, lambda value: 0 <= value < 2**63, "a whole number of at least 0")
positive = _typed(int, lambda value: 1 <= value < 2**31, "a whole number of at least 1")
number = _typed(float, lambda value: 0 < value < float("inf"), "a number above 0")
share = _typed(float, lambda value: 0 < value < 1, "a number between 0 and 1")
numbers = _typed(
    lambda text: tuple(int(part) for part in text.split(",")),
    lambda values: all(0 < value < 2**31 for value in values) and len(set(values)) == len(values),
    "a list of different whole numbers, such as 1,5",
)
decimals = _typed(
    lambda text: tuple(float(part) for part in text.split(",")),
    lambda values: all(abs(value) < 1e6 for value in values),
    "a list of numbers, such as 0.485,0.456,0.406",
)


def _argument(text: str) -> Any:
    """Value of one argument: a number, a truth value, a word, or several values joined by `+`."""
    if "+" in text:
        return tuple(_argument(part) for part in text.split("+"))
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(text.lower(), text)


arguments = _typed(
    lambda text: {
        key.strip(): _argument(value.strip()) for key, value in (part.split("=") for part in text.split(","))
    },
    lambda values: all(key.isidentifier() for key in values),
    "a list of arguments, such as depth=28,width=10",
)
