from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from metazoo.adapt import FewShotClassifier, adapt
from metazoo.features.batch_norm import store_statistics
from metazoo.features.domain_router import DomainRecogniser
from metazoo.features.embedders import MultiDomainClassifier
from metazoo.models import ClassifierSpec, ImageClassifier, build_classifier
from metazoo.storage.artefacts import read_json, write_json
from metazoo.storage.tensor_files import read_tensors, write_tensors

LABELS = torch.tensor([2, 0, 1, 1, 0, 2, 1])
NAMES = ("ant", "bee", "cat")


def network(
    seed: int = 0, architecture: str = "conv4", *, size: int = 16, channels: int = 3, width: int = 4
) -> ImageClassifier:
    spec = ClassifierSpec(
        architecture=architecture,
        arguments={"width": width},
        classes=len(NAMES),
        input_size=size,
        channels=1 if channels == 1 else 3,
        mean=(0.4,) * channels,
        std=(0.3,) * channels,
    )
    made = build_classifier(spec, torch.Generator().manual_seed(seed)).eval()
    store_statistics(made, pictures(16, size, seed=100 + seed))
    return made.requires_grad_(False)


def of_two_domains(seed: int = 0) -> MultiDomainClassifier:
    """Networks of `seed` and the next one; the first feature distinguishes their domains."""
    own = network(seed), network(seed + 1)
    weight = torch.zeros(2 * own[0].network.feature_size + 1, 2)
    weight[0, 0] = 2.0
    return MultiDomainClassifier(own, DomainRecogniser(("birds", "ships"), weight)).eval()


def pictures(count: int, side: int = 16, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def made(**more: Any) -> FewShotClassifier:
    """A classifier of `NAMES` from 7 pictures."""
    given = {"module": network(), "support_images": pictures(7), "support_labels": LABELS, "class_names": NAMES}
    return adapt(**given | more)


def predicted(classifier: FewShotClassifier) -> Tensor:
    return classifier.predict(pictures(6, seed=1)).probabilities


def edit_weights(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    """Change tensors and update the hash in the description."""
    tensors = read_tensors(folder / "model.safetensors")
    change(tensors)
    sha256 = write_tensors(folder / "model.safetensors", tensors)
    edit_json(folder / "bundle.json", lambda content: content.update(weights_sha256=sha256))


def edit_json(path: Path, change: Callable[[Any], object]) -> None:
    content = read_json(path)
    change(content)
    write_json(path, content)


def content(folder: Path) -> dict[str, bytes]:
    """Content of all files in a folder at any depth, also hidden ones."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def write_picture(path: Path, seed: int = 0, side: int = 20) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = pictures(1, side, seed)[0].mul(255).byte().permute(1, 2, 0)
    Image.fromarray(pixels.numpy()).save(path)
