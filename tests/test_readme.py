"""What the README tells people to type exists."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from training_helpers import OPTIONS, untrained

from metazoo.cli.parser import build_parser

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


WAYS_TO_RUN = {
    "script": (["script.py"], None),
    "standard input": (["-"], "script.py"),
    "notebook": (["-c", "exec(compile(open('script.py').read(), '<cell>', 'exec'), {'__name__': '__main__'})"], None),
}


@pytest.mark.parametrize(
    "way", [pytest.param(way, marks=[] if way == "standard input" else pytest.mark.slow) for way in WAYS_TO_RUN]
)
def test_the_python_example_works_with_two_workers(tmp_path: Path, way: str) -> None:
    (example,) = re.findall(r"```python\n(.+?)```", README, re.DOTALL)
    short = example.replace("metazoo.train(zoo,", f"metazoo.train(zoo, workers=2, config={OPTIONS!r},")
    assert short != example
    images = "import torch\nsupport_images = images = torch.rand(4, 3, 20, 20)\nsupport_labels = [0, 0, 1, 1]\n"
    workers = "import resource\nassert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime > 0.1\n"
    (tmp_path / "script.py").write_text(images + short + workers)
    untrained(tmp_path / "my-zoo")
    for name in ("cat", "dog", "new"):
        Image.new("RGB", (20, 20), (len(name) * 9, ord(name[0]), 80)).save(tmp_path / f"{name}.jpg")
    arguments, file = WAYS_TO_RUN[way]
    given = (tmp_path / file).read_text() if file else ""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=tmp_path, input=given, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "first" / "meta-model" / "model.safetensors").is_file()


def test_every_linked_file_exists() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", README):
        assert (ROOT / target).is_file(), target
