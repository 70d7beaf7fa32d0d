"""The web page in a real browser, compared with the classifier in Python. It needs Chromium and onnxruntime-web."""

import base64
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from adapt.adapt_helpers import network
from export.browser import CHROMIUM, Tab, chromium
from PIL import Image, PngImagePlugin

from metazoo.adapt import FewShotClassifier, MetaModel, adapt
from metazoo.errors import UsageError
from metazoo.export import export_web_page
from metazoo.export.web_page import _identity, _parts
from metazoo.export.web_runtime import runtime_files
from metazoo.features.heads import get_head

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")]
SIZES = (
    (1, 1), (1, 17), (19, 1), (2, 3), (7, 5), (16, 16), (31, 33), (64, 47), (97, 128), (225, 224), (480, 641),
    (1500, 2500),
)  # fmt: skip
TOLERANCE = 1e-6
READ_RESULTS = """Object.fromEntries([...document.querySelectorAll("#results > li")].map((item) => [item.dataset.name,
    Object.fromEntries([...item.querySelectorAll("[data-probability]")].map((bar) => [bar.dataset.name,
        Number(bar.dataset.probability)]))]))"""

COUNT_FRAMES = """
    var now = 0, mostAtOnce = 0, duration = 2000, original = createImageBitmap;
    var sleep = (given) => new Promise((resume) => setTimeout(resume, given));
    window.createImageBitmap = async (...given) => {
        mostAtOnce = Math.max(mostAtOnce, now += 1);
        await sleep(duration);
        return original(...given).finally(() => { now -= 1; });
    }; 0"""


def pixels(height: int, width: int, channels: int, seed: int) -> np.ndarray:
    """Noise on smooth colours, uint8 [height, width, channels]."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (5, 5 * channels), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width * channels, height), Image.Resampling.BILINEAR)).astype(int)
    noise = random.integers(-40, 41, (height, width, channels))
    return np.clip(smooth.reshape(height, width, channels) + noise, 0, 255).astype(np.uint8)


def write_pictures(folder: Path) -> list[Path]:
    """50 PNG files of all forms except 16-bit grey, and a lossless WebP file with transparency."""
    pictures: dict[str, tuple[Image.Image, dict[str, Any]]] = {}
    for number, (height, width) in enumerate(SIZES):
        name = f"{height}x{width}"
        pictures[f"colour-{name}"] = Image.fromarray(pixels(height, width, 3, number)), {}
        pictures[f"transparent-{name}"] = Image.fromarray(pixels(height, width, 4, 100 + number)), {}
    colour, grey = Image.fromarray(pixels(40, 60, 3, 200)), Image.fromarray(pixels(40, 60, 1, 201)[..., 0])
    for orientation in range(1, 9):
        mark = Image.Exif()
        mark[0x0112] = orientation
        pictures[f"exif-{orientation}"] = colour, {"exif": mark}
    chunks = {
        "gamma": (b"gAMA", struct.pack(">I", 100_000)),
        "chromaticity": (b"cHRM", struct.pack(">8I", 31270, 32900, 21000, 71000, 64000, 33000, 15000, 6000)),
        "coding": (b"cICP", bytes([9, 16, 0, 1])),
        "density": (b"pHYs", struct.pack(">IIB", 3000, 1000, 1)),
    }
    for name, chunk in chunks.items():
        for kind, picture in (("colour", colour), ("transparent", Image.fromarray(pixels(40, 60, 4, 202)))):
            note = PngImagePlugin.PngInfo()
            note.add(*chunk)
            pictures[f"{name}-{kind}"] = picture, {"pnginfo": note}
    palette, opacities = colour.quantize(64), np.random.default_rng(0).integers(0, 256, 64, dtype=np.uint8)
    every = np.zeros((256, 256, 4), np.uint8)
    every[..., :3], every[..., 3] = np.arange(256)[:, None, None], np.arange(256)
    pictures |= {
        "grey": (grey, {}),
        "grey-transparent": (Image.fromarray(pixels(40, 60, 2, 203), "LA"), {}),
        "grey-key": (Image.fromarray(np.asarray(grey) // 8 * 8), {"transparency": 64}),
        "two-colours": (grey.convert("1"), {}),
        "palette": (palette, {}),
        "palette-transparent": (palette, {"transparency": opacities.tobytes()}),
        "palette-key": (palette, {"transparency": 3}),
        "colour-key": (
            colour.quantize(8).convert("RGB"),
            {"transparency": colour.quantize(8).convert("RGB").getpixel((0, 0))},
        ),
        "every-opacity": (Image.fromarray(every), {}),
        "invisible": (Image.fromarray(np.zeros((9, 9, 4), np.uint8)), {}),
    }
    assert len(pictures) == 50
    for name, (picture, options) in pictures.items():
        picture.save(folder / f"{name}.png", **options)
    pictures["every-opacity"][0].save(folder / "every-opacity.webp", lossless=True, exact=True)
    return [*sorted(folder.glob("*.png")), folder / "every-opacity.webp"]


@pytest.fixture(scope="module")
def support(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """Pictures of three classes, by the names of the classes."""
    folder, found = tmp_path_factory.mktemp("support"), {}
    for number, name in enumerate(("ant", "bee", "crab")):
        found[name] = [folder / f"{name}-{index}.png" for index in range(number + 2)]
        for index, file in enumerate(found[name]):
            Image.fromarray(pixels(30, 20 + 9 * index, 3, 300 + 7 * number + index % 2)).save(file)
    return found


@pytest.fixture(scope="module")
def learned(support: dict[str, list[Path]]) -> FewShotClassifier:
    files = [file for own in support.values() for file in own]
    labels = [name for name, own in support.items() for _ in own]
    return adapt(network(), files, labels, head="nearest-mean")


@pytest.fixture(scope="module")
def pages(learned: FewShotClassifier, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Page of `learned`, and page of its meta-model."""
    try:
        runtime_files()
    except UsageError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("pages")
    found = {name: folder / f"{name}.html" for name in ("classifier", "meta-model")}
    export_web_page(learned, found["classifier"])
    export_web_page(MetaModel(network(), method="best-model", preset="default", seed=0), found["meta-model"])
    return found


@pytest.fixture
def tab(tmp_path: Path) -> Iterator[Tab]:
    with chromium(tmp_path / "profile") as opened:
        yield opened


def open_page(tab: Tab, page: Path) -> None:
    tab.open(page.as_uri())
    assert tab.wait("document.body?.dataset.state") == "ready"


def recognised(tab: Tab, files: list[Path], names: tuple[str, ...]) -> np.ndarray:
    """Probabilities [files, classes] that the page shows."""
    click(tab, "#clear")
    tab.choose("#pictures", files)
    tab.wait(f"document.querySelectorAll('#results > li').length === {len(files)}")
    found = tab.evaluate(READ_RESULTS)
    return np.array([[found[file.name][name] for name in names] for file in files])


def click(tab: Tab, selector: str) -> None:
    tab.evaluate(f"document.querySelector({selector!r}).click()")


def text_of(tab: Tab, selector: str) -> str:
    return tab.evaluate(f"document.querySelector({selector!r}).textContent")


def card(number: int) -> str:
    return f"#classes > li:nth-child({number})"


def names_of(tab: Tab) -> list[str]:
    return tab.evaluate("[...document.querySelectorAll('#classes [data-part=name]')].map((field) => field.value)")


def rename(tab: Tab, number: int, name: str) -> None:
    field = f"document.querySelector({card(number) + ' [data-part=name]'!r})"
    tab.evaluate(f"{{const field = {field}; field.value = {name!r}; field.dispatchEvent(new Event('change'))}}")


def learn(tab: Tab, support: dict[str, list[Path]]) -> None:
    """Add the classes of `support` to a page without classes."""
    for number, (name, files) in enumerate(support.items(), 1):
        click(tab, "#add")
        rename(tab, number, name)
        tab.choose(f"{card(number)} [data-part=files]", files)
        tab.wait(f"document.querySelectorAll('{card(number)} canvas').length === {len(files)}")


def test_probabilities_equal_those_of_the_classifier(
    tab: Tab, pages: dict[str, Path], learned: FewShotClassifier, tmp_path: Path
) -> None:
    files = write_pictures(tmp_path)
    open_page(tab, pages["classifier"])
    assert names_of(tab) == ["ant", "bee", "crab"]
    found, expected = recognised(tab, files, learned.class_names), learned.predict(files).probabilities.numpy()
    difference = np.abs(found - expected).max(1)
    assert difference.max() < TOLERANCE, [(file.name, own) for file, own in zip(files, difference, strict=True)]
    assert (found.argmax(1) == expected.argmax(1)).all()
    assert np.ptp(expected, axis=0).min() > 0.01
    assert tab.errors == []


def test_classes_learned_in_the_page_are_those_learned_in_python(
    tab: Tab, pages: dict[str, Path], learned: FewShotClassifier, support: dict[str, list[Path]], tmp_path: Path
) -> None:
    files = [file for own in support.values() for file in own]
    labels = np.array([number for number, own in enumerate(support.values()) for _ in own])
    open_page(tab, pages["meta-model"])
    assert text_of(tab, "#no-classes").startswith("There are no classes yet")
    learn(tab, support)
    # A page without classes has the temperature of small tasks, whose threefold scores have threefold differences.
    tolerance = 3 * TOLERANCE
    directions = learned.as_module().fitted.weight.double().numpy()
    directions = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    scores = 10 * learned.embed(files).double().numpy() @ directions.T / get_head("nearest-mean").temperature
    expected = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    np.testing.assert_allclose(recognised(tab, files, learned.class_names), expected, atol=tolerance)

    features = learned.embed(files).double().numpy()
    right = 0
    for index, label in enumerate(labels):
        others = np.arange(len(labels)) != index
        means = np.stack([features[others & (labels == own)].mean(0) for own in range(3)])
        right += int((means @ features[index] / np.linalg.norm(means, axis=1)).argmax() == label)
    assert f"{right} of {len(labels)} pictures" in text_of(tab, "#accuracy")

    tab.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    click(tab, "#save")
    saved = tmp_path / "class-means.json"
    tab.wait_for(saved.exists)
    content = json.loads(saved.read_text())
    assert [(own["name"], own["images"]) for own in content["classes"]] == [("ant", 2), ("bee", 3), ("crab", 4)]
    means = np.array([own["mean"] for own in content["classes"]])
    np.testing.assert_allclose(means, learned.as_module().fitted.weight.numpy(), atol=TOLERANCE)

    click(tab, f"{card(1)} [data-part=remove]")
    assert names_of(tab) == ["bee", "crab"]
    tab.choose("#open", [saved])
    tab.wait("document.querySelectorAll('#classes > li').length === 3")
    np.testing.assert_allclose(recognised(tab, files, learned.class_names), expected, atol=tolerance)
    may_leave = "dispatchEvent(new Event('beforeunload', {cancelable: true}))"
    assert tab.evaluate(may_leave)
    click(tab, "#undo")
    assert not tab.evaluate(may_leave)
    assert tab.errors == []


def test_classes_can_be_changed_and_changes_undone(
    tab: Tab, pages: dict[str, Path], learned: FewShotClassifier, support: dict[str, list[Path]]
) -> None:
    open_page(tab, pages["classifier"])
    before = recognised(tab, support["bee"], learned.class_names)
    rename(tab, 1, "wasp")
    rename(tab, 2, "wasp")
    assert names_of(tab) == ["wasp", "bee", "crab"]
    assert "already" in text_of(tab, "#status")
    click(tab, f"{card(3)} [data-part=remove]")
    click(tab, "#add")
    assert names_of(tab) == ["wasp", "bee", "class 3"]
    tab.choose(f"{card(2)} [data-part=files]", support["crab"])
    tab.wait(f"document.querySelectorAll('{card(2)} canvas').length === 4")
    assert "mean and 4 pictures" in text_of(tab, card(2))
    features, weight = (
        learned.embed(support["crab"]).double().numpy(),
        learned.as_module().fitted.weight.double().numpy(),
    )
    images = len(learned.description.versions[-1].members[1])
    directions = np.stack([weight[0], images * weight[1] + features.sum(0)])
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    cosines = learned.embed(support["bee"]).double().numpy() @ directions.T
    scores = np.exp(10 * cosines / learned.description.temperature)
    expected = scores / scores.sum(1, keepdims=True)
    np.testing.assert_allclose(recognised(tab, support["bee"], ("wasp", "bee")), expected, atol=TOLERANCE)
    click(tab, f"{card(2)} [data-part=pictures] button")
    assert "mean and 3 pictures" in text_of(tab, card(2))
    for _ in range(5):
        click(tab, "#undo")
    assert names_of(tab) == ["ant", "bee", "crab"]
    assert tab.evaluate("document.querySelector('#undo').disabled")
    np.testing.assert_allclose(recognised(tab, support["bee"], learned.class_names), before, atol=1e-12)
    assert tab.errors == []


def test_files_that_are_no_pictures_are_named_and_the_others_read(
    tab: Tab, pages: dict[str, Path], learned: FewShotClassifier, support: dict[str, list[Path]], tmp_path: Path
) -> None:
    bad, foreign, other = tmp_path / "broken.png", tmp_path / "other.json", tmp_path / "means.json"
    bad.write_bytes(support["ant"][0].read_bytes()[:60])
    foreign.write_text('{"format": 1}')
    other.write_text(json.dumps({"format": "metazoo-class-means", "format_version": 1, "embedder": "0", "classes": []}))
    open_page(tab, pages["classifier"])
    tab.choose("#pictures", [bad, support["ant"][0]])
    tab.wait("document.querySelector('#status').textContent.includes('broken.png')")
    assert list(tab.evaluate(READ_RESULTS)) == ["ant-0.png"]
    tab.choose(f"{card(1)} [data-part=files]", [bad])
    content = {"format": "metazoo-class-means", "format_version": 1, "embedder": _identity(_parts(learned)[0])}
    damaged = [tmp_path / f"damaged-{number}.json" for number in range(6)]
    for file, classes in zip(damaged, (None, 3, [None], [3], {}, [{"name": "a"}]), strict=True):
        file.write_text(json.dumps(content | {"classes": classes}))
    problems = [(foreign, "not a file of class means"), (other, "another model"), (bad, "not a file of")]
    for file, problem in (*problems, *((file, f"{file.name} is damaged.") for file in damaged)):
        tab.choose("#open", [file])
        tab.wait(f"document.querySelector('#status').textContent.includes({problem!r})")
    wide = tmp_path / "wide.png"
    Image.new("RGB", (70_000, 1), "red").save(wide)
    tab.choose("#pictures", [wide])
    tab.wait("document.querySelector('#status').textContent.includes('wide.png is too large for this browser')")
    assert list(tab.evaluate(READ_RESULTS)) == ["ant-0.png"]
    assert names_of(tab) == ["ant", "bee", "crab"]
    assert tab.evaluate("document.querySelector('#undo').disabled")
    assert tab.errors == []


def test_pictures_are_dropped_and_taken_from_the_camera(
    tab: Tab, pages: dict[str, Path], learned: FewShotClassifier, support: dict[str, list[Path]]
) -> None:
    open_page(tab, pages["classifier"])
    content = base64.b64encode(support["ant"][0].read_bytes()).decode()
    for target in ("#recognise", card(1)):
        tab.evaluate(f"""{{
            const bytes = Uint8Array.from(atob("{content}"), (character) => character.charCodeAt(0));
            const dataTransfer = new DataTransfer();
            dataTransfer.items.add(new File([bytes], "dropped.png"));
            document.querySelector("{target}").dispatchEvent(new DragEvent("drop", {{dataTransfer, bubbles: true}}));
        }}""")
        tab.wait(f"document.querySelectorAll('{target} canvas').length === 1")
    click(tab, "#camera")
    tab.wait("document.querySelectorAll('#live [data-probability]').length === 3")
    click(tab, f"{card(2)} [data-part=frame]")
    tab.wait(f"document.querySelectorAll('{card(2)} canvas').length === 1")
    tab.evaluate(COUNT_FRAMES)
    tab.wait("now > 0")
    for _ in range(2):  # within one frame
        click(tab, "#camera")
    tab.wait("!document.querySelector('#camera').disabled")
    tab.evaluate("duration = 200; sleep(3000).then(() => { mostAtOnce = 0; return sleep(1000); })")
    assert tab.evaluate("mostAtOnce") == 1
    assert not tab.evaluate("document.querySelector('#camera-view').hidden")
    click(tab, "#camera")
    assert tab.evaluate("document.querySelector('#camera-view').hidden")
    assert tab.errors == []


def test_the_page_has_no_way_to_the_network(tab: Tab, pages: dict[str, Path]) -> None:
    open_page(tab, pages["classifier"])
    assert tab.requests == [pages["classifier"].as_uri()]
    assert tab.evaluate("fetch('data:,x').then(() => 'sent', () => 'refused')") == "refused"
