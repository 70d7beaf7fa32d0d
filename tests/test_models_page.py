"""Commands of docs/models.md on ONNX files work as they stand, on small models and for few steps."""

import re
import shlex
from pathlib import Path

import pytest
from image_folders import write_images
from onnx_models import Graph, convolutional, saved
from PIL import Image

from metazoo.cli.main import main

ROOT = Path(__file__).parents[1]
SECTION = re.split(r"^## ", (ROOT / "docs" / "models.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
SHORTER = ["--workers", "1", *(f"--set={name}" for name in (
    "recovery.iterations=2", "budget.images_per_class=4", "probe.steps=2", "probe.fisher_images=4", "learning.steps=4",
    "learning.batch_size=8", "learning.views=16", "learning.steps_per_views=4",
    "learning.calibration_images=64",
))]  # fmt: skip


def test_the_commands_on_onnx_files_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    saved(convolutional("gemm"), tmp_path / "birds.onnx")
    Path("birds.txt").write_text("crow\nowl\nrobin\nswift\n", encoding="utf-8")
    graph = Graph(4)
    images = graph.node("Transpose", ["images"], perm=(0, 3, 1, 2))
    found = graph.node("Relu", [graph.node("Conv", [images, graph.random(8, 3, 3, 3), graph.random(8)])])
    found = graph.node("ReduceMean", [found, graph.array([2, 3])], keepdims=0)
    found = graph.node("Add", [graph.node("MatMul", [found, graph.random(8, 3)]), graph.random(3)])
    saved(graph.model(graph.node("Softmax", [found]), ["n", 16, 16, 3]), tmp_path / "flowers.onnx")
    write_images(tmp_path / "five-images-per-class", classes=2, each=5)
    Image.new("RGB", (30, 20)).save(tmp_path / "photo.jpg")
    (section,) = [part for part in SECTION if part.startswith("ONNX")]
    commands = [shlex.split(line) for line in re.findall(r"^    metazoo (.+)$", section, re.MULTILINE)]
    assert [command[0] for command in commands] == ["zoo", "zoo", "zoo", "train", "adapt", "predict"]
    for command in commands:
        more = SHORTER if command[0] == "train" else []
        assert main([*command, *more]) == 0, (command, capsys.readouterr().err)
    said = capsys.readouterr()
    assert "photo.jpg" in said.out
    assert "flowers: no batch-norm layer" in said.err
    assert "birds: 1 batch-norm layer" in said.err
