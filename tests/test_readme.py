"""What the README tells people to type exists."""

import re
import shlex
from pathlib import Path

import metazoo
from metazoo.cli.parser import build_parser
from metazoo.runs.config import resolve_config

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_command_parses() -> None:
    commands = re.findall(r"^    metazoo (.+)$", README, re.MULTILINE)
    assert len(commands) >= 5
    for command in commands:
        assert build_parser().parse_args(shlex.split(command)).command


def test_every_make_target_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = set(re.findall(r"(?:^    |`)make ([a-z]+)", README, re.MULTILINE))
    assert named
    assert named <= targets


def test_the_names_in_the_python_example_exist() -> None:
    (example,) = re.findall(r"```python\n(.+?)```", README, re.DOTALL)
    for name in re.findall(r"metazoo\.([A-Za-z_.]+)", example):
        value = metazoo
        for part in name.split("."):
            value = getattr(value, part)
    assert resolve_config(method="tgr").method.name == "tgr"


def test_every_linked_file_exists() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", README):
        assert (ROOT / target).is_file(), target
