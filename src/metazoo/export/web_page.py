"""Export of an embedder to one web page, which learns classes from pictures in the browser and recognises them."""

import base64
import copy
import gzip
import hashlib
import json
import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from torch import Tensor, nn
from torch.nn import functional

from metazoo.adapt import FewShotClassifier, FewShotModule, MetaModel
from metazoo.choices import NEAREST_MEAN
from metazoo.data import decoded_images
from metazoo.errors import UsageError
from metazoo.export.agreement import Agreement
from metazoo.export.export import ClassifierFeatures, check_target, proved_file
from metazoo.export.formats import Onnx
from metazoo.export.web_runtime import RUNTIME_VERSION, SCRIPT, WASM, runtime_files
from metazoo.features.batch_norm import stored_statistics
from metazoo.features.embedders import Embedder, JointFeatures, MirroredFeatures, MultiDomainClassifier
from metazoo.features.heads import get_head
from metazoo.features.heads.fitted import COSINE_SCALE
from metazoo.models import ClassifierSpec, ImageClassifier, square_images
from metazoo.storage.artefacts import write_bytes

PAGE_SUFFIX = ".html"
_SCRIPTS = ("means.js", "pixels.js", "embedder.js", "page.js")
_IMAGES_OF_A_MEAN = 5


class _MetaModelFeatures(nn.Module):
    """Features of a meta-model, as those of the classifiers that it makes."""

    def __init__(self, embedder: Embedder, side: int) -> None:
        super().__init__()
        self._embedder, self._side = embedder, side

    def forward(self, images: Tensor) -> tuple[Tensor]:
        """Features [n, d] of length 1 of `images` [n, 3, h, w], uint8."""
        with stored_statistics(self._embedder):
            return (functional.normalize(self._embedder.features(square_images(images, self._side)), dim=1),)


def export_web_page(
    subject: FewShotClassifier | MetaModel,
    path: Path | str,
    *,
    check: Sequence[Path | str] = (),
    runtime: Path | str | None = None,
    overwrite: bool = False,
) -> Agreement:
    """Export an embedder to one HTML file that learns classes and recognises them in a browser, without a network.

    The page computes features with onnxruntime-web and class means as the head `nearest-mean` does. With a classifier,
    it starts from its class means and temperature; in one of version 0.1, which does not store the number of images, a
    mean counts as five (the page can change this). With a meta-model, it starts without classes.

    The embedder is converted and compared as by `export_classifier`: the page is not written if a feature differs by
    more than 1e-4.

    Args:
        subject: classifier with head `nearest-mean`, or meta-model of one domain or of networks side by side.
        path: file to write, which ends in `.html`; its name is the title of the page.
        check: image files to compare on, besides the generated pictures.
        runtime: npm package of onnxruntime-web, see `runtime_files`.
        overwrite: whether to replace a file.

    Returns:
        Agreement of the features in the page, as computed by onnxruntime, with the features of `subject`.

    Raises:
        UsageError: the subject has another head, is transductive or needs to recognise domains; the suffix is another,
            the file exists, a library or onnxruntime-web is missing, or ONNX cannot express the network.
        DataError: an image in `check` cannot be read.
        MetazooError: the page would disagree with the subject.
        ArtefactError: a file cannot be read or written.
    """
    path = Path(path)
    if path.suffix.lower() != PAGE_SUFFIX:
        raise UsageError(path, f"suffix {path.suffix!r} is not that of a page", f"end the name in {PAGE_SUFFIX}")
    check_target(path, overwrite=overwrite)
    form = Onnx()
    form.check()
    module, specs, classes = _parts(subject)
    for _ in decoded_images(check):  # each is read, before the conversion
        pass
    parts = runtime_files(runtime)
    # Classes that are learned in the page keep the temperature.
    is_classifier = isinstance(subject, FewShotClassifier)
    temperature = subject.description.temperature if is_classifier else get_head(NEAREST_MEAN).temperature
    data, agreement = proved_file(path, module, module, form, ("features",), "float32", {}, check)
    features = _feature_size(module)
    networks = ", ".join(dict.fromkeys(spec.architecture for spec in specs))
    side = max(spec.input_size for spec in specs)
    content = {
        "embedder": _identity(module),
        "features": features,
        "scale": COSINE_SCALE / temperature,
        "classes": classes,
    }
    text = _page(
        title=path.stem,
        description=f"Model: {networks}, {side} x {side} pixels, {features} features. {_calibration(subject)}",
        agreement=f"{agreement.largest_difference:.1e}, measured on {agreement.generated + agreement.given} pictures",
        content=content,
        parts={"runtime": parts[SCRIPT], "runtime-wasm": parts[WASM], "model": data},
    )
    write_bytes(path, text.encode(errors="replace"))
    return agreement


def _calibration(subject: FewShotClassifier | MetaModel) -> str:
    if isinstance(subject, MetaModel) or subject.description.held_out is None:
        return "Percentages rank the classes of a picture and are not calibrated."
    return (
        "Percentages are calibrated for the classes that came with the page, on held-out pictures, and for no others."
    )


def _parts(subject: FewShotClassifier | MetaModel) -> tuple[nn.Module, Sequence[ClassifierSpec], list[dict[str, Any]]]:
    """Module from images to features on the CPU, its networks, and its classes."""
    if isinstance(subject, MetaModel):
        if isinstance(subject.module, MultiDomainClassifier):
            raise UsageError(
                "meta-model",
                "has several domains, which are recognised from the images of a task",
                f"adapt it to a few images with --head {NEAREST_MEAN}, and export the classifier",
            )
        embedder = copy.deepcopy(subject.module).cpu().eval().requires_grad_(False)
        return _MetaModelFeatures(embedder, subject.spec.input_size).eval(), [n.spec for n in subject.networks], []
    made = subject.description
    if made.head != NEAREST_MEAN:
        problem = f"head {made.head} is not made of class means, which the page learns"
        raise UsageError("classifier", problem, f"adapt again with --head {NEAREST_MEAN}, or export the meta-model")
    if subject.transductive:
        problem = "batch norm query predicts all images together, so no page can agree"
        raise UsageError("classifier", problem, "adapt again with batch norm running or support")
    module = copy.deepcopy(subject.as_module()).cpu().eval().requires_grad_(False)
    means, versions = module.fitted.weight.tolist(), made.versions
    counts = [len(own) for own in versions[-1].members] if versions else [_IMAGES_OF_A_MEAN] * len(means)
    classes = [
        {"name": name, "images": count, "mean": mean}
        for name, count, mean in zip(subject.class_names, counts, means, strict=True)
    ]
    return ClassifierFeatures(module).eval(), made.networks, classes


def _identity(module: nn.Module) -> str:
    """SHA-256 of what features depend on: the same for a meta-model and its classifiers, in every version of a page."""
    digest = hashlib.sha256()
    for part in module.modules():
        tensors: list[Tensor] = []
        if isinstance(part, ImageClassifier):
            digest.update(part.spec.model_dump_json(exclude={"classes"}).encode())
            heads = {id(tensor) for tensor in part.network.head.parameters()}
            tensors = [own for own in (*part.network.parameters(), *part.network.buffers()) if id(own) not in heads]
        elif isinstance(part, FewShotModule) and part.fitted.scale is not None:
            tensors = [part.fitted.scale]
        elif isinstance(part, MirroredFeatures | JointFeatures):
            digest.update(type(part).__name__.encode())
        for tensor in tensors:
            digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def _feature_size(module: nn.Module) -> int:
    with torch.no_grad():
        return module(torch.zeros(1, 3, 2, 2, dtype=torch.uint8))[0].shape[1]


def _page(*, title: str, description: str, agreement: str, content: Any, parts: dict[str, bytes]) -> str:
    folder = files("metazoo.export") / "web"
    text = {name: (folder / name).read_text(encoding="utf-8") for name in (*_SCRIPTS, "style.css")}
    # Modules of one file cannot import each other.
    joined = "\n".join(text[name] for name in _SCRIPTS)
    script = re.sub(r"^import .*\n|^export (?=async function|function)", "", joined, flags=re.MULTILINE)
    environment = Environment(loader=PackageLoader("metazoo.export", "web"), autoescape=True, undefined=StrictUndefined)
    return environment.get_template("page.html.j2").render(
        title=title,
        description=description,
        agreement=agreement,
        style=Markup(text["style.css"]),
        style_hash=_hash(text["style.css"]),
        script=Markup(script),
        script_hash=_hash(script),
        # Nothing in a name can end the element.
        data=Markup(json.dumps(content).replace("<", "\\u003c")),
        parts=[(name, Markup(_packed(data))) for name, data in parts.items()],
        runtime_version=RUNTIME_VERSION,
        licence=(folder / "LICENSE-onnxruntime.txt").read_text(encoding="utf-8"),
    )


def _hash(text: str) -> str:
    """Hash of a script or style, by which the page's policy allows it."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _packed(data: bytes) -> str:
    return base64.b64encode(gzip.compress(data, mtime=0)).decode()
