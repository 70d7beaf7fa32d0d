"""Parser of the command line. It imports nothing heavy."""

import argparse
from typing import Any, NoReturn

from metazoo import choices
from metazoo.cli import classifier_parser, measure_parser, options, zoo_parser
from metazoo.cli.options import Parser, command, natural, number, path, positive


def early_options() -> Parser:
    """Parser of the options that are accepted anywhere and read first."""
    parser = Parser(prog="metazoo", add_help=False)
    parser.switch("--debug", "Show the traceback of an error")
    parser.add_argument(
        "--plugin",
        metavar="PACKAGE",
        action="append",
        default=[],
        help="Package or module that registers architectures, methods or heads; repeatable",
    )
    return parser


def build_parser() -> Parser:
    """Parser of all commands; the parsed `command` is its function, as `module:function`."""
    parser = Parser(
        prog="metazoo",
        description="Data-free meta-learning: from a zoo of pre-trained classifiers to one few-shot learner.",
        epilog="--debug and --plugin are accepted anywhere in a command line.",
        parents=[early_options()],
    )
    parser.switch("--version", "Show the version", action=_Version, nargs=0)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _demo(commands)
    zoo = commands.add_parser(
        "zoo", help="build, inspect and check a zoo of models", description="Build, inspect and change a zoo of models."
    )
    zoo_parser.add_commands(zoo.add_subparsers(metavar="COMMAND", required=True))
    _methods(commands)
    _train(commands)
    measure_parser.add_commands(commands)
    _study(commands)
    classifier_parser.add_commands(commands)
    completion = command(
        commands,
        "completion",
        "completion:completion",
        "Print a script that completes commands and options in a shell",
        epilog="Example for bash: metazoo completion bash > ~/.local/share/bash-completion/completions/metazoo",
    )
    completion.add_argument("shell", choices=("bash", "zsh", "tcsh"), help="Shell of the script")
    return parser


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any, **__: Any) -> NoReturn:
        # Imported here because reading the installed packages takes time.
        from importlib.metadata import version

        print(f"metazoo {version('metazoo')}")
        parser.exit()


def _demo(commands: Any) -> None:
    demo = command(
        commands,
        "demo",
        "demo:demo",
        "Run the complete workflow on embedded data, in about five minutes",
        "Build a zoo of glyph classifiers, learn a meta-model without data, and measure it on unseen classes.",
    )
    demo.option("--out", "Output folder", path, "runs/demo")
    options.seed(demo)
    options.workers(demo)


def _study(commands: Any) -> None:
    study = command(
        commands,
        "study",
        "study_commands:study",
        "Compare methods, zoos and seeds on one protocol",
        "Train and measure every row of a study file on every zoo with every seed. Call it again to continue. The "
        "tables in OUT are written after every cell.",
        "Example of a file: see `metazoo study --example`. --schema prints the JSON schema.",
    )
    study.argument("study", "STUDY.yaml", "Study file", path, nargs="?")
    study.option("--out", "Study folder, made if missing", path)
    study.option(
        "--source",
        "Source of images that replaces one of the same name in the file, such as val=photos; repeatable",
        action="append",
        metavar="NAME=SOURCE",
    )
    study.option("--budget", "Hours after which no cell begins", number, metavar="HOURS")
    study.switch("--schema", "Print the JSON schema of study files")
    study.switch("--example", "Print an example of a study file")
    options.executor(study)
    options.device(study)


def _methods(commands: Any) -> None:
    methods = command(
        commands,
        "methods",
        "train_commands:methods",
        "List the methods and what each needs, or every option of one",
        "List the methods with their presets, what each needs of a zoo, and what its meta-model is made of. With "
        "METHOD or --preset, print all options with value and meaning, as a file for `metazoo train --config`.",
    )
    methods.argument("method", "METHOD", "Method whose options are printed (default: tgr)", str, nargs="?")
    options.preset(methods)
    options.output_format(methods, "table", "json", "markdown", more=" of the list")


def _train(commands: Any) -> None:
    train = command(
        commands,
        "train",
        "train_commands:train",
        "Learn a meta-model from a zoo, without data",
        "Learn one meta-model from a zoo, without training images.",
    )
    train.option("--zoo", "Zoo folder", path, required=True)
    train.option("--out", "Run folder, made if missing", path, required=True)
    train.option("--method", "Method, see `metazoo methods` (default: tgr)")
    options.preset(train)
    train.option(
        "--config", "YAML file with options that differ from the preset (default of a resumed run: its own)", path
    )
    train.option(
        "--set",
        "Option that differs from the preset and from --config, such as recovery.iterations=400; repeatable",
        action="append",
        metavar="KEY=VALUE",
    )
    train.option(
        "--reuse-images",
        "Run with the same zoo, seed and recovery options whose recovered images are reused",
        path,
        metavar="RUN",
    )
    train.add_argument(
        "--unlabelled",
        "--unlabeled",
        metavar="IMAGES",
        help="Images without labels to learn from: a folder with images at any depth, or labelled images as for "
        "`metazoo evaluate --data`, whose labels are ignored. The run is then label-free, not data-free; see options "
        "`unlabelled` of the method",
    )
    train.option("--seed", "Seed of all randomness (default: 0)", natural)
    train.switch(
        "--no-images",
        "Make no contact sheets of recovered images, whatever the models allow; resuming keeps this choice",
        dest="images",
        action="store_false",
    )
    train.switch("--resume", "Continue the run in OUT, or start it")
    train.switch("--plan", "Estimate time, memory and disk, and stop")
    train.option("--threads", "Number of torch threads for learning (default: 1)", positive)
    options.trackers(train, "--track", "Tracker that shows the run while it learns")
    options.executor(train)
    options.device(train, "; a resumed run keeps its device")
    train.option(
        "--precision",
        "Precision of the frozen models; the meta-model learns in float32 (default: bfloat16 on a GPU, else float32; "
        "a resumed run keeps its precision)",
        choices=choices.PRECISIONS,
    )
