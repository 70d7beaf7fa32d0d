"""What can be typed. Nothing heavy is imported here."""

import argparse
from typing import Any, NoReturn

from metazoo.cli import options
from metazoo.cli.adding import add_recovered_images, adding
from metazoo.cli.measuring import measuring
from metazoo.cli.values import natural, number, positive
from metazoo.errors import UsageError


class _Parser(argparse.ArgumentParser):
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see `{self.prog} --help`")


def build_parser() -> argparse.ArgumentParser:
    """The parser of every command; the parsed `command` names the function that does it, as `module:function`."""
    parser = _Parser(
        prog="metazoo",
        description="Data-free meta-learning: from a zoo of pre-trained classifiers to one few-shot learner.",
        epilog="With --debug anywhere, an error shows where it arose.",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and stop")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _demo(commands)
    zoo = commands.add_parser("zoo", help="build a zoo, look into it, check it", description="Build and keep a zoo.")
    _zoo(zoo.add_subparsers(metavar="COMMAND", required=True))
    methods = commands.add_parser(
        "methods",
        help="list the methods and their settings, or every option of one",
        description="List the methods and their settings. With a METHOD or --setting, write all options of one, each "
        "with its value and what it means, as a file that `metazoo train --config` takes.",
    )
    methods.add_argument("method", metavar="METHOD", nargs="?", help="whose options to list (default: tgr)")
    methods.add_argument("--setting", help="of the method (default: default)")
    methods.set_defaults(command="training:methods")
    _train(commands)
    measuring(commands)
    _adapt(commands)
    return parser


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any, **__: Any) -> NoReturn:
        # Looked up only here: reading the installed packages takes time.
        from importlib.metadata import version

        print(f"metazoo {version('metazoo')}")
        parser.exit()


def _demo(commands: Any) -> None:
    demo = commands.add_parser(
        "demo",
        help="the whole way on embedded data, in a few minutes",
        description="Build a zoo of glyph classifiers, learn a meta-model without data, and measure it honestly.",
    )
    demo.add_argument("--out", default="runs/demo", help="folder for all that is made (default: %(default)s)")
    demo.add_argument("--seed", type=natural, default=0, help="of all randomness (default: %(default)s)")
    options.workers(demo)
    demo.set_defaults(command="demo:demo")


def _zoo(commands: Any) -> None:
    build = commands.add_parser(
        "build",
        help="train small models on classes drawn from a data set",
        description="Bring OUT to hold --models models of this kind; what is there already is left alone.",
    )
    build.add_argument("out", metavar="OUT", help="zoo folder, made if missing")
    build.add_argument("--data", required=True, help=options.DATA_HELP)
    build.add_argument(
        "--arch", default="conv4", help="architecture, such as thin-resnet or resnet10 (default: %(default)s)"
    )
    build.add_argument("--models", type=positive, required=True, help="how many models of this kind OUT shall hold")
    build.add_argument("--ways", type=positive, default=5, help="classes of each model (default: %(default)s)")
    build.add_argument("--seed", type=natural, default=0, help="of all randomness (default: %(default)s)")
    build.add_argument("--domain", help="kind of images (default: the name of the data)")
    build.add_argument("--epochs", type=positive, default=60, help="passes over the images (default: %(default)s)")
    build.add_argument("--batch-size", type=positive, default=128, help="images a step (default: %(default)s)")
    build.add_argument("--learning-rate", type=number, help="of the first epochs (default: 0.01)")
    build.add_argument(
        "--shift", type=natural, help="mirror images at random and shift them by up to so many pixels (default: do not)"
    )
    build.add_argument("--width", type=positive, help="of the architecture (default: its own)")
    build.add_argument(
        "--input-size",
        type=positive,
        help="side in pixels (default: that of a pack; 84 for mini-imagenet and cub; else 32)",
    )
    build.add_argument(
        "--channels", type=int, choices=(1, 3), default=3, help="1: models see grey (default: %(default)s)"
    )
    add_recovered_images(build)
    options.images_per_class(build)
    options.workers(build)
    options.device(build)
    build.set_defaults(command="zoo:build")
    adding(commands)
    for name, text in (("inspect", "list the models"), ("verify", "load and try every model; exit 0 if all are sound")):
        command = commands.add_parser(name, help=text, description=f"{text.capitalize()}.")
        command.add_argument("zoo", metavar="ZOO", help="zoo folder")
        if name == "verify":
            command.add_argument(
                "--images", help="a few labelled images, to see whether mean and std are right: " + options.DATA_HELP
            )
            command.add_argument("--seconds", type=number, default=120.0, help="that one model may take (default: 120)")
            command.add_argument("--memory", type=number, metavar="MB", help="likewise (default: most of what is free)")
        else:
            command.add_argument(
                "--run", help="a run on this zoo: show how far it trusts each model, and whom it has selected"
            )
        command.set_defaults(command=f"zoo:{name}")
    change = commands.add_parser(
        "set",
        help="say what may be done with images recovered from models",
        description="Say what runs may do with the images that they recover from models; resumed ones obey too.",
    )
    change.add_argument("zoo", metavar="ZOO", help="zoo folder")
    change.add_argument(
        "names", metavar="MODEL", nargs="*", help="name, as `metazoo zoo inspect` lists it (all if none)"
    )
    add_recovered_images(change, required=True)
    change.set_defaults(command="zoo:change")
    remove = commands.add_parser("remove", help="take models out", description="Take models out and delete them.")
    remove.add_argument("zoo", metavar="ZOO", help="zoo folder")
    remove.add_argument("names", metavar="MODEL", nargs="+", help="name, as `metazoo zoo inspect` lists it")
    remove.set_defaults(command="zoo:remove")


def _train(commands: Any) -> None:
    train = commands.add_parser(
        "train",
        help="learn a meta-model from a zoo, without data",
        description="Learn one meta-model from a zoo, without a single training image.",
    )
    train.add_argument("--zoo", required=True, help="zoo folder")
    train.add_argument("--out", required=True, help="run folder, made if missing")
    train.add_argument("--method", help="see `metazoo methods` (default: tgr)")
    train.add_argument("--setting", help="of the method (default: default)")
    train.add_argument(
        "--config", help="YAML file with the options that differ from the setting (of a resumed run: as it was begun)"
    )
    train.add_argument("--seed", type=natural, help="of all randomness (default: 0)")
    train.add_argument(
        "--no-images",
        dest="images",
        action="store_false",
        help="make no picture of recovered images, whatever the models allow; a resumed run keeps to it",
    )
    train.add_argument("--resume", action="store_true", help="go on with the run in OUT, or begin it")
    train.add_argument("--plan", action="store_true", help="say what time, memory and disk it would take, and stop")
    train.add_argument("--threads", type=positive, help="of torch for learning (default: 1, or as the run was begun)")
    options.workers(train)
    options.device(train, ", or as the run was begun")
    train.add_argument(
        "--precision",
        choices=options.PRECISIONS,
        help="of frozen models; the meta-model learns in float32 (default: bfloat16 on a GPU, else float32, or as the "
        "run was begun)",
    )
    train.set_defaults(command="training:train")


def _adapt(commands: Any) -> None:
    adapt = commands.add_parser(
        "adapt",
        help="make a classifier of new classes from a few images of each",
        description="Make a classifier from a folder with one folder a class and a few images in each.",
    )
    adapt.add_argument("subject", metavar="RUN_OR_ZOO", help="folder of a run, a zoo or a meta-model")
    adapt.add_argument("--support", required=True, help="folder with one folder a class")
    adapt.add_argument("--out", required=True, help="classifier folder to write")
    adapt.add_argument("--overwrite", action="store_true", help="replace a classifier that is at OUT already")
    options.head(adapt)
    options.threads(adapt)
    options.device(adapt)
    adapt.set_defaults(command="adaptation:adapt")
    predict = commands.add_parser(
        "predict", help="classify images", description="Classify images with a classifier that adapt has made."
    )
    predict.add_argument("classifier", metavar="CLASSIFIER", help="folder that adapt has made")
    predict.add_argument("images", metavar="IMAGE_OR_FOLDER", nargs="+", help="folders are searched at any depth")
    predict.add_argument(
        "--format",
        choices=("table", "csv", "jsonl"),
        default="table",
        help="table, csv: the class; jsonl: the probability of every class (default: %(default)s)",
    )
    options.threads(predict)
    options.device(predict)
    predict.set_defaults(command="adaptation:predict")
