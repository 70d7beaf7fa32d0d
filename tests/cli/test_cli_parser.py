import argparse
import re
from collections.abc import Callable, Iterator

import pytest
from cli_helpers import Outcome

import metazoo
from metazoo.cli.options import BATCH_NORM_MODES, DEFAULT_HEAD, EXECUTORS, HEADS, PRECISIONS
from metazoo.cli.parser import EXAMPLE, PERMISSIONS, build_parser
from metazoo.execution import compute, executor
from metazoo.features import batch_norm, heads
from metazoo.zoo import contract
from metazoo.zoo.importing import model_description

Cli = Callable[..., Outcome]
Refused = Callable[..., str]


def commands(parser: argparse.ArgumentParser, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield words
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, inner in action.choices.items():
                yield from commands(inner, (*words, name))


COMMANDS = list(commands(build_parser()))


def test_the_commands_are_there() -> None:
    names = {" ".join(words) for words in COMMANDS}
    assert {"zoo build", "zoo inspect", "zoo verify", "train", "evaluate", "adapt", "predict", "methods"} <= names


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_has_help(cli: Cli, words: tuple[str, ...]) -> None:
    outcome = cli(*words, "--help")
    assert outcome.code == 0
    assert outcome.err == ""
    assert outcome.out.startswith(f"usage: {' '.join(('metazoo', *words))} ")
    assert cli(*words, "-h").out == outcome.out


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_argument_is_explained(words: tuple[str, ...]) -> None:
    parser = build_parser()
    for word in words:
        (inner,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
        parser = inner.choices[word]
    for action in parser._actions:
        if not isinstance(action, argparse._SubParsersAction):
            assert re.search("[a-z]{3}", re.sub(r"\(default.*", "", action.help or "")), action


def test_the_version_is_said(cli: Cli) -> None:
    assert cli("--version") == Outcome(0, f"metazoo {metazoo.__version__}\n", "")


def test_heads_and_modes_are_those_of_the_library() -> None:
    assert heads.HEADS.names() == HEADS
    assert heads.DEFAULT_HEAD == DEFAULT_HEAD
    assert batch_norm.BATCH_NORM_MODES == BATCH_NORM_MODES
    assert compute.PRECISIONS == PRECISIONS
    assert executor.EXECUTORS == EXECUTORS
    assert contract.PERMISSIONS == PERMISSIONS
    assert model_description.EXAMPLE == EXAMPLE


EVALUATE = ("evaluate", "zoo", "--data", "glyphs:lao")
TRAIN = ("train", "--zoo", "zoo", "--out", "run")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), r"the following arguments are required: COMMAND; see `metazoo --help`"),
        (("zoo",), r"required: COMMAND; see `metazoo zoo --help`"),
        (("trian",), r"invalid choice: 'trian' \(choose from .*train.*\); see `metazoo --help`"),
        (("zoo", "destroy"), r"invalid choice: 'destroy'"),
        (("zoo", "set", "z"), r"required: --recovered-images; see `metazoo zoo set --help`"),
        (("zoo", "set", "z", "--recovered-images", "burn"), r"invalid choice: 'burn' \(choose from .*discard"),
        (("train",), r"required: --zoo, --out; see `metazoo train --help`"),
        (("evaluate", "run"), r"required: --data"),
        (("predict", "classifier"), r"required: IMAGE_OR_FOLDER"),
        ((*TRAIN, "--stpes", "3"), r"unrecognized arguments: --stpes 3"),
        ((*TRAIN, "--see", "3"), r"unrecognized arguments: --see 3"),
        ((*TRAIN, "--seed", "-1"), r"--seed: '-1' is not a whole number of at least 0"),
        ((*TRAIN, "--seed", "1e3"), r"--seed: '1e3' is not a whole number"),
        ((*TRAIN, "--workers", "0"), r"--workers: '0' is not a whole number of at least 1"),
        ((*EVALUATE, "--shots", ""), r"--shots: '' is not a list of different whole numbers, such as 1,5"),
        ((*EVALUATE, "--shots", "1;5"), r"--shots: '1;5' is not a list"),
        ((*EVALUATE, "--shots", "0,5"), r"--shots: '0,5' is not a list"),
        ((*EVALUATE, "--shots", "5,5"), r"--shots: '5,5' is not a list"),
        ((*EVALUATE, "--shots", "1,"), r"--shots: '1,' is not a list"),
        ((*EVALUATE, "--ways", "five"), r"--ways: 'five' is not a whole number of at least 1"),
        ((*EVALUATE, "--episodes", "0"), r"--episodes: '0' is not a whole number of at least 1"),
        ((*EVALUATE, "--head", "svm"), r"--head: unknown head 'svm'; choose one of nearest-mean, .*fine-tune"),
        ((*EVALUATE, "--batch-norm", "none"), r"--batch-norm: invalid choice: 'none' \(choose from .*running"),
        (("predict", "c", "i", "--format", "xml"), r"--format: invalid choice: 'xml' \(choose from .*jsonl"),
        (("zoo", "build", "z", "--data", "d", "--models", "x"), r"--models: 'x' is not a whole number"),
        (
            ("zoo", "build", "z", "--data", "d", "--models", "2", "--learning-rate", "inf"),
            r"'inf' is not a number above",
        ),
    ],
)
def test_what_cannot_be_understood_is_named(refused: Refused, words: tuple[str, ...], message: str) -> None:
    assert re.search(message, refused(2, *words))


def test_debug_shows_where_an_error_arose(cli: Cli) -> None:
    for words in (("zoo", "inspect", "--debug", "nowhere"), ("--debug", "zoo", "inspect", "nowhere")):
        outcome = cli(*words)
        assert outcome.code == 2
        assert outcome.err.startswith("Traceback (most recent call last):")
        assert "UsageError" in outcome.err
        assert outcome.err.splitlines()[-1].startswith("metazoo: nowhere is not a folder")


def test_what_nobody_foresaw_is_one_sentence_too(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_options: object) -> None:
        raise ZeroDivisionError("division\nby zero")

    monkeypatch.setattr("metazoo.cli.zoo_commands.inspect", fail)
    text = "metazoo: unexpected ZeroDivisionError: division by zero; call again with --debug\n"
    assert cli("zoo", "inspect", "z") == Outcome(1, "", text)
    assert "in fail" in cli("zoo", "inspect", "z", "--debug").err


def test_ctrl_c_is_no_error_to_be_explained(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("metazoo.cli.zoo_commands.inspect", interrupted)
    assert cli("zoo", "inspect", "z") == Outcome(130, "", "metazoo: stopped\n")


def test_an_error_cannot_steer_the_terminal(refused: Refused) -> None:
    assert refused(2, "zoo", "inspect", "x\x1b[31m\ny\u202e").startswith(r"metazoo: x\x1b[31m y\u202e is not a folder")
