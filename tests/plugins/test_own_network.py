"""The example of docs/models.md: a network of the user's own, from import to prediction."""

import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from plugin_helpers import done, refused, without_plugins
from torch.nn import functional
from training_helpers import OPTIONS

import metazoo
from metazoo.data import ImageSet
from metazoo.models import WrappedNetwork, build_network
from metazoo.plugins import load_plugin
from metazoo.runs.record import Run
from metazoo.zoo import Zoo

PAGE = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
SECTION = PAGE.partition("## Your own network")[2].partition("\n## ")[0]
NETWORK, EXAMPLE, NAMED = re.findall(r"```python\n(.+?)```", SECTION, re.DOTALL)
CLASSES = {"greek": 3, "armenian": 3}
SIDE = 16


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_networks.py").write_text(NETWORK)
    with without_plugins("my_networks"):
        load_plugin("my_networks")
        yield tmp_path


def glyphs(script: str) -> ImageSet:
    images = metazoo.load_images(f"glyphs:{script}", side=SIDE, images_per_class=6)
    kept = images.labels < 3
    return ImageSet(images.images[kept], images.labels[kept], images.class_names[:3], name=script)


def train(script: str, file: Path) -> None:
    """Train the network of the example in plain torch, until it knows its images."""
    from my_networks import MyNet  # pyright: ignore[reportMissingImports] - written by the fixture

    images, random = glyphs(script), torch.random.fork_rng(devices=[])
    with random:
        torch.manual_seed(0)
        network = MyNet(classes=3, channels=3, input_size=SIDE)
        optimiser = torch.optim.Adam(network.parameters(), 0.02)
        outputs = torch.zeros(len(images.labels), 3)
        for _ in range(30):
            optimiser.zero_grad()
            outputs = network((images.images / 255 - 0.5) / 0.25)
            functional.nll_loss(outputs, images.labels).backward()
            optimiser.step()
    assert (outputs.argmax(1) == images.labels).float().mean() > 0.9
    torch.save(network.state_dict(), file)


def test_a_network_of_the_user_predicts_within_fifteen_lines(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for script in CLASSES:
        train(script, folder / f"{script}.pt")
    new = glyphs("tifinagh")
    for number, (image, label) in enumerate(zip(new.images, new.labels.tolist(), strict=True)):
        path = folder / "five-images-per-class" / f"letter-{label}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    next((folder / "five-images-per-class").rglob("*.png")).replace(folder / "new.png")
    assert len([line for line in EXAMPLE.splitlines() if line]) <= 15
    options = {**OPTIONS, "grouping": {"groups": 1}, "meta_model": {"input_size": SIDE}}
    short = EXAMPLE.replace("config={", f"workers=1, config={{**{options!r}, ")
    assert short != EXAMPLE
    (folder / "script.py").write_text(short)
    runpy.run_path("script.py")
    assert re.fullmatch(r"\['letter-[012]'\]", capsys.readouterr().out.splitlines()[-1])
    assert {contract.name: contract.spec.architecture for contract in Zoo.open("my-zoo")} == dict.fromkeys(
        ("armenian", "greek"), "my-net"
    )
    run = Run.open("runs/own")
    assert run.meta_model.networks[0].spec.architecture == "my-net"
    # The same on the command line, with and without the package.
    adapt = ("adapt", "runs/own", "--support", "five-images-per-class", "--out")
    done(*adapt, "classifier", "--plugin", "my_networks")
    assert "letter-" in done("predict", "classifier", "new.png", "--plugin", "my_networks")
    with without_plugins("my_networks"):
        for words in (("predict", "classifier", "new.png"), (*adapt, "other")):
            assert "architecture 'my-net': is not registered); load" in refused(1, *words)
        assert not (folder / "other").exists()


def test_a_file_of_its_weights_is_added_and_verified_by_other_processes(folder: Path) -> None:
    torch.manual_seed(0)
    torch.save(build_network("my-net", classes=2, channels=3, input_size=SIDE).state_dict(), folder / "a.pt")
    known = ("--classes", "a,b", "--input-size", SIDE, "--mean", "0.5", "--std", "0.25", "--domain", "letters")
    done("zoo", "add", "zoo", "a.pt", "--plugin", "my_networks", "--arch", "my-net", *known)
    assert "sound" in done("zoo", "verify", "zoo", "--plugin", "my_networks")
    with without_plugins("my_networks"):
        assert "my-net" in done("zoo", "inspect", "zoo")


def test_the_builder_that_names_the_layer_works() -> None:
    space: dict[str, Any] = {}
    exec(f"from my_networks import MyNet\n{NAMED}", space)
    metazoo.register_architecture("named", space["builder"])
    network = build_network("named", classes=2, channels=3, input_size=SIDE)
    assert isinstance(network, WrappedNetwork)
    assert network(torch.rand(2, 3, SIDE, SIDE)).shape == (2, 2)
