"""Commands and code of the README work as they stand, on a small zoo and for few steps."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from image_folders import write_images
from PIL import Image
from training_helpers import OPTIONS, untrained

from metazoo.cli.main import main
from metazoo.cli.parser import build_parser
from metazoo.models import ClassifierSpec, build_classifier
from metazoo.storage.tensor_files import write_tensors

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


COMMANDS = [shlex.split(line) for line in re.findall(r"^    metazoo (.+)$", README, re.MULTILINE)]
GUIDE = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8")
# In place of what takes time.
SHORTER = {
    "train": ["--workers", "1", *(f"--set={name}" for name in (
        "recovery.iterations=2", "budget.images_per_class=4", "probe.steps=2", "probe.fisher_images=4",
        "learning.steps=4", "learning.batch_size=8", "learning.views=16", "learning.steps_per_views=4",
        "learning.calibration_images=64",
    ))],
    "evaluate": ["--episodes", "4", "--queries", "2"],
}  # fmt: skip


def test_the_commands_work_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for seed in range(2):
        spec = ClassifierSpec(
            architecture="conv4", arguments={"width": 4}, classes=3, input_size=16, mean=(0.5,) * 3, std=(0.25,) * 3
        )
        network = build_classifier(spec, torch.Generator().manual_seed(seed)).network
        write_tensors(tmp_path / "checkpoints" / f"{seed}.safetensors", network.state_dict())
        description = {"architecture": "conv4", "arguments": {"width": 4}, "classes": ["ant", "bee", f"fly {seed}"],
                       "input_size": 16, "mean": 0.5, "std": 0.25, "domain": "insects"}  # fmt: skip
        (tmp_path / "checkpoints" / f"{seed}.yaml").write_text(json.dumps(description))
    write_images(tmp_path / "unseen-images", classes=6, each=8)
    write_images(tmp_path / "five-images-per-class", classes=2, each=5, first=10)
    write_images(tmp_path / "more-photos", classes=1, each=2, first=20)
    Image.new("RGB", (30, 20)).save(tmp_path / "photo.jpg")
    assert [command[0] for command in COMMANDS][-1] == "predict"
    for command in COMMANDS:
        assert main([*command, *SHORTER.get(command[0], [])]) == 0, (command, capsys.readouterr().err)
    assert len(capsys.readouterr().out.strip().splitlines()) > 3
    assert (tmp_path / "runs" / "first" / "report.html").is_file()


def test_the_commands_of_the_guide_parse() -> None:
    commands = re.findall(r"^    metazoo (.+)$", GUIDE, re.MULTILINE)
    assert commands
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
    workers = "import resource\nassert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime > 0.1\n"
    (tmp_path / "script.py").write_text(short + workers)
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
    assert done.stdout.strip() in ("['cat']", "['dog']")
    assert len([*tmp_path.glob("runs/*/meta-model/model.safetensors")]) == 1


def test_every_linked_file_exists() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", README):
        assert (ROOT / target).is_file(), target
