import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cli_helpers import Outcome
from error_checks import raises

import metazoo
from metazoo import choices
from metazoo.cli.parser import build_parser
from metazoo.errors import UsageError
from metazoo.features import heads

Cli = Callable[..., Outcome]
Refused = Callable[..., str]


def commands(parser: argparse.ArgumentParser, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield words
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, inner in action.choices.items():
                yield from commands(inner, (*words, name))


COMMANDS = list(commands(build_parser()))


def parser_of(words: tuple[str, ...]) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = build_parser()
    for word in words:
        (inner,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
        parser = inner.choices[word]
    return parser


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
    for action in parser_of(words)._actions:
        if not isinstance(action, argparse._SubParsersAction):
            assert re.search("[a-z]{3}", re.sub(r"\(default.*", "", action.help or "")), action


def test_the_version_is_printed(cli: Cli) -> None:
    assert cli("--version") == Outcome(0, f"metazoo {metazoo.__version__}\n", "")


def test_every_built_in_head_is_described() -> None:
    assert heads.HEADS.names()[: len(choices.HEADS)] == tuple(choices.HEADS)


def test_help_loads_neither_torch_nor_rich() -> None:
    code = "import sys; from metazoo.cli.parser import build_parser; build_parser().format_help(); "
    code += "print(sorted({'torch', 'numpy', 'rich', 'pydantic', 'shtab'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_help_text_starts_with_a_capital(words: tuple[str, ...]) -> None:
    for action in parser_of(words)._actions:
        if not isinstance(action, argparse._SubParsersAction | argparse._HelpAction):
            assert re.match("[A-Z]", action.help or ""), action
            assert not re.match(r"(Of|The same)\b", action.help or "")


@pytest.mark.parametrize(
    ("words", "subject"),
    [
        (("zoo", "inspect", "https://example.org/zoo"), "https://example.org/zoo"),
        (("zoo", "add", "zoo", "https://example.org/a.pt"), "https://example.org/a.pt"),
        (("evaluate", "run", "--data", "-"), "-"),
        (("evaluate", "run", "--data", "ftp://a/b.npz"), "ftp://a/b.npz"),
    ],
)
def test_urls_and_standard_input_are_refused_as_such(words: tuple[str, ...], subject: str) -> None:
    with raises(UsageError, subject=subject, problem="not read"):
        build_parser().parse_args(words)


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_the_shell_completes_commands_options_and_choices(cli: Cli, tmp_path: Path) -> None:
    script = tmp_path / "completion.sh"
    script.write_text(cli("completion", "bash").out)
    for words, expected in (
        (["metazoo", "zo"], "zoo"),
        (["metazoo", "zoo", "ins"], "inspect"),
        (["metazoo", "evaluate", "--exc"], "--exclude-known"),
        (["metazoo", "evaluate", "--batch-norm", "sup"], "support"),
    ):
        code = f'. "{script}"; COMP_WORDS=({" ".join(words)}); COMP_CWORD={len(words) - 1}; _shtab_metazoo; '
        code += 'echo "${COMPREPLY[@]}"'
        done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.split() == [expected], (words, done.stderr)
    for shell in ("zsh", "tcsh"):
        assert "metazoo" in cli("completion", shell).out


EVALUATE = ("evaluate", "zoo", "--data", "glyphs:lao")
TRAIN = ("train", "--zoo", "zoo", "--out", "run")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), r"metazoo: the following arguments are required: COMMAND; see `metazoo --help`"),
        (("zoo",), r"required: COMMAND; see `metazoo zoo --help`"),
        (("trian",), r"invalid choice: 'trian' \(choose from .*train.*\); see `metazoo --help`"),
        (("zoo", "destroy"), r"COMMAND: invalid choice: 'destroy'"),
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
        ((*EVALUATE, "--head", "svm"), r"--head: invalid choice: 'svm' \(choose from .*nearest-mean'?, .*fine-tune"),
        ((*EVALUATE, "--batch-norm", "none"), r"--batch-norm: invalid choice: 'none' \(choose from .*running"),
        (("predict", "c", "i", "--format", "xml"), r"--format: invalid choice: 'xml' \(choose from .*jsonl"),
        (("zoo", "build", "z", "--data", "d", "--models", "x"), r"--models: 'x' is not a whole number"),
        (
            ("zoo", "build", "z", "--data", "d", "--models", "2", "--learning-rate", "inf"),
            r"'inf' is not a number above",
        ),
    ],
)
def test_wrong_arguments_are_named(refused: Refused, words: tuple[str, ...], message: str) -> None:
    assert re.search(message, refused(2, *words))


def test_debug_shows_where_an_error_arose(cli: Cli) -> None:
    for words in (("zoo", "inspect", "--debug", "nowhere"), ("--debug", "zoo", "inspect", "nowhere")):
        outcome = cli(*words)
        assert outcome.code == 2
        assert outcome.err.startswith("Traceback (most recent call last):")
        assert "UsageError" in outcome.err
        assert outcome.err.splitlines()[-1].startswith("metazoo: nowhere: not a folder")


def test_an_unexpected_error_is_one_line(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_options: object) -> None:
        raise ZeroDivisionError("division\nby zero")

    monkeypatch.setattr("metazoo.cli.zoo_commands.inspect", fail)
    text = "metazoo: unexpected ZeroDivisionError: division by zero; repeat with --debug\n"
    assert cli("zoo", "inspect", "z") == Outcome(1, "", text)
    assert "in fail" in cli("zoo", "inspect", "z", "--debug").err


def test_ctrl_c_prints_one_word(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("metazoo.cli.zoo_commands.inspect", interrupted)
    assert cli("zoo", "inspect", "z") == Outcome(130, "", "metazoo: stopped\n")


def test_an_error_cannot_steer_the_terminal(refused: Refused) -> None:
    assert refused(2, "zoo", "inspect", "x\x1b[31m\ny\u202e").startswith(r"metazoo: x\x1b[31m y\u202e: not a folder")
