"""Files, tensors and the exported module of the same pixels give the same probabilities."""

from pathlib import Path

import numpy as np
import pytest
import torch
from adapt_helpers import LABELS, NAMES, made, network, of_two_domains
from PIL import Image
from torch import Tensor
from torch.export import Dim

from metazoo.adapt import FewShotClassifier, adapt, load_support_folder
from metazoo.features.embedders import JointFeatures, SideBySide
from metazoo.models import ImageClassifier

SIZES = [(300, 200), (31, 57), (57, 31), (1, 1), (1, 40), (16, 16), (24, 24), (2, 3), (33, 16)]


def joint() -> JointFeatures:
    return JointFeatures([network(0), network(1, "thin-resnet", size=24, channels=1)])


MODULES = {"single": network, "joint": joint, "domains": of_two_domains}
CASES = {
    "plain": {},
    "mirrored": {"mirrored": True},
    "support": {"batch_norm": "support", "head": "nearest-mean"},
    "query": {"batch_norm": "query", "head": "ridge"},
    "balanced": {"head": "soft-k-means-balanced"},
}


def pixels(count: int, width: int, height: int, seed: int = 0) -> Tensor:
    """Noise on a gradient, so that both the crop and the resizing matter: uint8 [count, 3, height, width]."""
    noise = torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed))
    slope = torch.linspace(0, 1, width) + torch.linspace(0, 1, height)[:, None]
    return (noise * 127 + slope * 64).byte()


def written(folder: Path, images: Tensor) -> list[Path]:
    folder.mkdir(parents=True)
    paths = [folder / f"{number:02d}.png" for number in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).numpy())).save(path)
    return paths


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("kind", MODULES)
def test_files_tensors_and_the_module_agree(kind: str, size: tuple[int, int], tmp_path: Path) -> None:
    support, query = pixels(7, *size), pixels(25, *size, seed=1)
    files = written(tmp_path / "support", support), written(tmp_path / "query", query)
    for words in CASES.values():
        by_tensors = made(module=MODULES[kind](), support_images=support, **words)
        by_files = made(module=MODULES[kind](), support_images=files[0], **words)
        expected = by_tensors.predict(query)
        for found in (
            by_files.predict(files[1]).probabilities,
            by_tensors.predict(query.float() / 255).probabilities,
            by_tensors.predict(query.permute(0, 2, 3, 1).contiguous().numpy().transpose(0, 3, 1, 2)).probabilities,
            by_tensors.as_module()(query).detach(),
        ):
            torch.testing.assert_close(found, expected.probabilities, rtol=0, atol=1e-6)
            assert int((found.argmax(1) != expected.labels).sum()) == 0


def test_files_of_different_sizes_are_read_one_by_one(tmp_path: Path) -> None:
    classifier = made()
    parts = [pixels(2, *size, seed=number) for number, size in enumerate(SIZES)]
    files = [path for number, part in enumerate(parts) for path in written(tmp_path / str(number), part)]
    expected = torch.cat([classifier.predict(part).probabilities for part in parts])
    torch.testing.assert_close(classifier.predict(files).probabilities, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(classifier.predict([*map(str, files)]).probabilities, expected, rtol=0, atol=1e-6)


def test_a_support_folder_equals_its_files(tmp_path: Path) -> None:
    images = pixels(7, 70, 40)
    for label, name in enumerate(NAMES):
        written(tmp_path / "support" / name, images[label == LABELS])
    support = load_support_folder(tmp_path / "support", 16)
    order = LABELS.argsort(stable=True)
    expected = made(support_images=images[order], support_labels=LABELS[order])
    found = adapt(network(), support.images, support.labels, support.class_names)
    query = pixels(9, 50, 20, seed=1)
    assert torch.equal(found.predict(query).probabilities, expected.predict(query).probabilities)


def test_a_photograph_is_not_rounded_or_drafted(tmp_path: Path) -> None:
    photograph = Image.fromarray(pixels(1, 640, 480)[0].permute(1, 2, 0).numpy())
    photograph.save(tmp_path / "a.jpg", quality=90)
    decoded = torch.from_numpy(np.array(Image.open(tmp_path / "a.jpg"))).permute(2, 0, 1)[None]
    classifier = made()
    expected = classifier.predict(decoded).probabilities
    torch.testing.assert_close(classifier.predict([tmp_path / "a.jpg"]).probabilities, expected, rtol=0, atol=1e-6)
    # Independent: the centre 480 x 480 by Pillow in float32, one channel at a time.
    square = decoded[0, :, :, 80:560].float() / 255
    resized = [np.asarray(Image.fromarray(c.numpy()).resize((16, 16), Image.Resampling.BILINEAR)) for c in square]
    by_pillow = classifier.predict(torch.from_numpy(np.stack(resized)).clamp(0, 1)[None]).probabilities
    torch.testing.assert_close(by_pillow, expected, rtol=0, atol=1e-5)


def test_the_module_combines_its_parts() -> None:
    query = pixels(5, 20, 20)
    module = made(module=joint(), mirrored=True).as_module()
    assert isinstance(module.embedder, SideBySide)
    with torch.no_grad():
        squares = torch.nn.functional.interpolate(query / 255, (24, 24), mode="bilinear", antialias=True)
        features = []
        for member in module.embedder.members:
            assert isinstance(member, ImageClassifier)
            ways = [member.features(images) for images in (squares, squares.flip(3))]
            features.append(torch.stack([torch.nn.functional.normalize(own, dim=1) for own in ways]).mean(0))
        expected = module.fitted.probabilities(torch.cat(features, 1))
        torch.testing.assert_close(module(query), expected)


def test_the_module_moves_and_is_the_classifiers_own() -> None:
    classifier = made()
    module = classifier.as_module()
    assert not module.training
    assert classifier.to("cpu") is classifier
    before = classifier.predict(pixels(3, 16, 16)).probabilities
    module.fitted.weight.neg_()
    assert not torch.equal(classifier.predict(pixels(3, 16, 16)).probabilities, before)


@pytest.mark.parametrize(("kind", "case"), [("joint", "mirrored"), ("domains", "support"), ("single", "query")])
def test_the_module_exports_with_open_sizes(kind: str, case: str) -> None:
    classifier: FewShotClassifier = made(module=MODULES[kind](), **CASES[case])
    sizes = {0: Dim("n", min=2, max=1000), 2: Dim("h", min=2, max=8000), 3: Dim("w", min=2, max=8000)}
    exported = torch.export.export(classifier.as_module(), (pixels(3, 41, 30),), dynamic_shapes=(sizes,)).module()
    for number, (width, height) in enumerate([(200, 300), (31, 57), (2, 2), (16, 16), (24, 24), (3, 500)]):
        images = pixels(2 + number, width, height)
        expected = classifier.predict(images).probabilities
        torch.testing.assert_close(exported(images), expected, rtol=0, atol=1e-6)
