import csv
import http.server
import io
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from cli_helpers import Outcome, Workshop, content
from PIL import Image

from metazoo.adapt import FewShotClassifier

Cli = Callable[..., Outcome]
Refused = Callable[..., str]


def lines_of(outcome: Outcome) -> list[dict]:
    return [json.loads(line) for line in outcome.out.splitlines()]


def noise(path: Path) -> Path:
    pixels = torch.randint(0, 256, (16, 16, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    Image.fromarray(pixels.numpy()).save(path)
    return path


@pytest.fixture
def support(workshop: Workshop, tmp_path: Path) -> Path:
    """Support folder with a new class and the classes of the workshop."""
    folder = shutil.copytree(workshop.support, tmp_path / "support")
    shutil.copytree(sorted(path for path in workshop.unseen.iterdir() if path.is_dir())[-1], folder / "new")
    return folder


def test_adapt_says_what_the_images_say(cli: Cli, workshop: Workshop, own: Workshop) -> None:
    words = ("--support", workshop.support, "--out", own.new, "--compare", workshop.zoo, "--keep-support")
    outcome = cli("adapt", workshop.run, *words)
    made = FewShotClassifier.load(own.new).description
    assert made.held_out is not None
    assert f"held-out accuracy: {made.held_out.correct} of 6 images" in outcome.out
    assert "in 2 folds;" in outcome.out
    assert outcome.out.count("held-out accuracy") == 2
    assert f"beside it, {workshop.zoo}: " in outcome.out
    assert outcome.out.count(" ms an image") == 2
    assert made.has_support_images
    names = {image.name for image in made.support}
    assert names == {f"{path.parent.name}/{path.name}" for path in workshop.support.rglob("*.png")}


def test_a_single_image_per_class_has_no_accuracy(cli: Cli, workshop: Workshop, own: Workshop) -> None:
    for folder in workshop.support.iterdir():
        target = own.folder / "one" / folder.name
        target.mkdir(parents=True)
        shutil.copy(sorted(folder.glob("*.png"))[0], target)
    outcome = cli("adapt", workshop.run, "--support", own.folder / "one", "--out", own.new)
    assert outcome.code == 0
    assert "no image could be held out" in outcome.out


def test_the_automatic_head_is_named(cli: Cli, workshop: Workshop, own: Workshop) -> None:
    outcome = cli("adapt", workshop.run, "--support", workshop.support, "--out", own.new, "--head", "auto")
    made = FewShotClassifier.load(own.new).description
    assert f"head {made.head}, batch norm {made.batch_norm}\n" in outcome.out


def test_unknown_images_are_called_so_in_every_format(cli: Cli, workshop: Workshop, own: Workshop) -> None:
    words = ("--support", workshop.support, "--out", own.new, "--false-rejection", "0.4")
    assert cli("adapt", workshop.run, *words).code == 0
    images = [noise(own.folder / "noise.png"), *sorted(workshop.unseen.rglob("*.png"))]
    found = FewShotClassifier.load(own.new).predict(images)
    assert found.unknown.any()
    expected = found.unknown.tolist()
    answers = lines_of(cli("predict", own.new, *images, "--format", "jsonl"))
    assert [answer["unknown"] for answer in answers] == expected
    assert [list(answer) for answer in answers] == [["image", "class", "probabilities", "unknown"]] * len(images)
    text = cli("predict", own.new, *images, "--format", "csv").out
    assert [row["unknown"] == "true" for row in csv.DictReader(io.StringIO(text))] == expected
    assert cli("predict", own.new, *images).out.count("unknown (") == sum(expected)


def test_unknown_images_are_copied_to_their_own_folder(cli: Cli, workshop: Workshop, own: Workshop) -> None:
    words = ("--support", workshop.support, "--out", own.new, "--false-rejection", "0.4")
    assert cli("adapt", workshop.run, *words).code == 0
    images = sorted(workshop.unseen.rglob("*.png"))
    found = FewShotClassifier.load(own.new).predict(images)
    assert cli("predict", own.new, *images, "--copy-to", own.folder / "sorted").code == 0
    copied = {
        path.parent.name: sum(1 for _ in path.parent.iterdir()) for path in (own.folder / "sorted").rglob("*.png")
    }
    assert copied.get("unknown", 0) == int(found.unknown.sum())
    assert sum(copied.values()) == len(images)


def test_nearest_support_images_explain(cli: Cli, workshop: Workshop) -> None:
    images = sorted(workshop.unseen.rglob("*.png"))[:3]
    expected = FewShotClassifier.load(workshop.classifier).nearest(images, 2)
    for answer, neighbours in zip(
        lines_of(cli("predict", workshop.classifier, *images, "--format", "jsonl", "--nearest", 2)),
        expected,
        strict=True,
    ):
        shown = [(own["image"], own["class"], own["similarity"]) for own in answer["nearest"]]
        assert shown == [(own.name, own.class_name, pytest.approx(own.similarity)) for own in neighbours]
    table = cli("predict", workshop.classifier, *images, "--nearest", 1).out
    assert f"{expected[0][0].name} ({expected[0][0].similarity:.3f})" in table
    text = cli("predict", workshop.classifier, *images, "--nearest", 1, "--format", "csv").out
    assert next(csv.DictReader(io.StringIO(text)))["nearest"].startswith(expected[0][0].name)


@pytest.fixture
def server(workshop: Workshop) -> Iterator[str]:
    """Address of a server on this machine with the images of the workshop."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=str(workshop.unseen))  # pyright: ignore[reportArgumentType]

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the base class
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()
        thread.join()


def test_addresses_are_read_if_allowed(cli: Cli, refused: Refused, workshop: Workshop, server: str) -> None:
    file = sorted(workshop.unseen.rglob("*.png"))[0]
    address = f"{server}/{file.relative_to(workshop.unseen)}"
    assert "--allow-urls" in refused(2, "predict", workshop.classifier, address)
    words = (address, f"{server}/missing.png", file, "--allow-urls", "--format", "jsonl")
    outcome = cli("predict", workshop.classifier, *words)
    fetched, missing, local = lines_of(outcome)
    assert outcome.code == 1
    assert (fetched["image"], fetched["probabilities"]) == (address, local["probabilities"])
    assert "404" in missing["error"]


def test_a_classifier_grows_and_shrinks_and_returns(cli: Cli, own: Workshop, support: Path) -> None:
    before = content(own.classifier)
    outcome = cli("classifier", "add", own.classifier, support)
    assert outcome.code == 0, outcome.err
    assert "version 2, 4 classes; added " in outcome.out
    assert cli("adapt", own.run, "--support", support, "--out", own.new).code == 0
    grown, fresh = FewShotClassifier.load(own.classifier), FewShotClassifier.load(own.new)
    assert grown.class_names == fresh.class_names
    assert torch.equal(grown.as_module().fitted.weight, fresh.as_module().fitted.weight)
    assert grown.description.threshold == fresh.description.threshold
    assert cli("classifier", "rename", own.classifier, "new", "newer").code == 0
    image = grown.description.support[0].name
    assert cli("classifier", "remove", own.classifier, "--class", "newer", "--image", image).code == 0
    shown = cli("classifier", "show", own.classifier).out
    assert "version 4: removed the classes newer and the images" in shown
    for _ in range(3):
        assert cli("classifier", "undo", own.classifier).code == 0
    assert content(own.classifier) == before
    assert "no former version" in cli("classifier", "undo", own.classifier).err


def test_changes_may_go_to_another_folder(cli: Cli, refused: Refused, own: Workshop, support: Path) -> None:
    before = content(own.classifier)
    assert cli("classifier", "add", own.classifier, support, "--out", own.new).code == 0
    assert content(own.classifier) == before
    assert "--overwrite" in refused(2, "classifier", "forget", own.new, "--out", own.classifier)
    assert cli("classifier", "merge", own.classifier, own.new).code == 0
    assert cli("classifier", "forget", own.classifier).code == 0
    assert len(FewShotClassifier.load(own.classifier).description.versions) == 1


def test_wrong_changes_leave_the_classifier(refused: Refused, own: Workshop) -> None:
    before = content(own.classifier)
    assert "'dog'" in refused(2, "classifier", "remove", own.classifier, "--class", "dog")
    assert "neither" in refused(2, "classifier", "remove", own.classifier)
    assert "already" in refused(2, "classifier", "add", own.classifier, own.support)
    assert content(own.classifier) == before


def test_doubtful_images_are_named(cli: Cli, workshop: Workshop, own: Workshop, tmp_path: Path) -> None:
    support = tmp_path / "doubtful"
    for number, colour in enumerate(((255, 0, 0), (0, 255, 0), (0, 0, 255))):
        for image in range(5):
            path = support / f"class {number}" / f"{image}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            shade = [max(0, part - 9 * image) for part in colour]
            Image.new("RGB", (16, 16), (shade[0], shade[1], shade[2])).save(path)
    shutil.move(support / "class 0" / "3.png", support / "class 1" / "wrong.png")
    shutil.copy(support / "class 2" / "0.png", support / "class 2" / "copy.png")
    outcome = cli("adapt", workshop.run, "--support", support, "--out", own.new)
    assert "the same picture: class 2/" in outcome.out
    assert "class 0 / class 1 (" in outcome.out
    assert "perhaps mislabelled: class 1/wrong.png (looks like class 0" in outcome.out


def test_nearest_images_need_stored_features(refused: Refused, cli: Cli, workshop: Workshop, own: Workshop) -> None:
    words = ("--support", workshop.support, "--out", own.new, "--batch-norm", "query", "--keep-support")
    assert "stores no support images" in cli("adapt", workshop.run, *words).err
    assert "omit --nearest" in refused(2, "predict", own.new, workshop.unseen, "--nearest", 1)


def test_a_comparison_that_fails_writes_nothing(refused: Refused, workshop: Workshop, own: Workshop) -> None:
    words = ("--support", workshop.support, "--out", own.new, "--compare", own.folder / "absent")
    assert "absent" in refused(2, "adapt", workshop.run, *words)
    assert not own.new.exists()
