"""Options that several commands take. Nothing heavy is imported here."""

import argparse
import sys
from collections.abc import Callable
from typing import Any

from metazoo.plugins import unknown_name

# Those of `metazoo.features` and `metazoo.execution`, which bring in torch; a test compares them.
HEADS = (
    "nearest-mean",
    "nearest-mean-euclidean",
    "ridge",
    "logistic",
    "soft-k-means-balanced",
    "soft-k-means-free",
    "fine-tune",
    "fine-tune-own",
)
DEFAULT_HEAD = "logistic"
BATCH_NORM_MODES = ("running", "support", "query")
PRECISIONS = ("float32", "bfloat16")
EXECUTORS = ("local", "ray")
DATA_HELP = (
    "an .npz pack, a folder with one folder a class, glyphs, glyphs:SCRIPT,SCRIPT, or a part (train, val, test) of "
    "cifar-fs, mini-imagenet or cub in the folder ROOT, such as cifar-fs/train:ROOT"
)


def _head_name(text: str) -> str:
    # Only a plug-in, loaded before, can have registered another one, and that brings the registry in.
    loaded = sys.modules.get("metazoo.features.heads")
    known = HEADS if loaded is None else loaded.HEADS.names()
    if text not in known:
        raise argparse.ArgumentTypeError(unknown_name("head", text, known))
    return text


def head(command: argparse.ArgumentParser) -> None:
    """How a new task is learned."""
    command.add_argument(
        "--head",
        type=_head_name,
        default=DEFAULT_HEAD,
        help="nearest-mean (by cosine), nearest-mean-euclidean: class means of the features; ridge, logistic: a linear "
        "classifier on them; soft-k-means-balanced, soft-k-means-free: means refined by the queries (transductive), as "
        "many of each class or in any proportion; fine-tune: some steps of the whole network; fine-tune-own: likewise, "
        "from the head that is stored with it (default: %(default)s)",
    )
    command.add_argument(
        "--batch-norm",
        choices=BATCH_NORM_MODES,
        default=BATCH_NORM_MODES[0],
        help="running: stored statistics; support: those of the support; query: each batch its own, transductive "
        "(default: %(default)s)",
    )
    command.add_argument(
        "--mirror",
        action="store_true",
        help="features are means over an image and its mirror image: better for photographs, worse where left and "
        "right matter, as in characters and signs",
    )
    command.add_argument(
        "--domain",
        help="what the images are, of the domains of a meta-model of several (default: what they look like)",
    )


def images_per_class(command: argparse.ArgumentParser) -> None:
    """Of the glyphs."""
    command.add_argument(
        "--images-per-class", type=positive, default=100, help="pictures of each glyph (default: %(default)s)"
    )


class _FormerName(argparse.Action):
    """An option by its name in version 0.1, which warns."""

    def __call__(self, _: object, namespace: argparse.Namespace, values: Any, option: str | None = None) -> None:
        print(f"warning: {option} is now called --{self.dest}, and will be removed", file=sys.stderr)
        setattr(namespace, self.dest, values)


def preset(command: argparse.ArgumentParser) -> None:
    """Add the option for the preset of a method."""
    command.add_argument("--preset", help="of the method (default: default)")
    command.add_argument("--setting", dest="preset", action=_FormerName, help="the name of --preset in version 0.1")


def threads(command: argparse.ArgumentParser) -> None:
    """Of torch."""
    command.add_argument("--threads", type=positive, default=1, help="threads of torch (default: %(default)s)")


def workers(command: argparse.ArgumentParser) -> None:
    """Of independent work."""
    command.add_argument(
        "--workers",
        type=positive,
        help="processes, threads of learning (default: one a core, at most 4 on a GPU)",
    )


def executor(command: argparse.ArgumentParser) -> None:
    """Where independent work runs."""
    workers(command)
    command.add_argument(
        "--executor",
        choices=EXECUTORS,
        default=EXECUTORS[0],
        help="local: processes of this machine; ray: those of Ray, for which the extra ray is needed "
        "(default: %(default)s)",
    )


def device(command: argparse.ArgumentParser, more: str = "") -> None:
    """Where tensors are; `more` is said of the default."""
    command.add_argument("--device", help=f"cpu, cuda or cuda:1 (default: the first GPU, else the CPU{more})")


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
