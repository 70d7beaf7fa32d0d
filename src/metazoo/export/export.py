"""Export of a few-shot classifier to one file, which is written only if it agrees with the classifier."""

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from metazoo.adapt import FewShotClassifier
from metazoo.adapt.few_shot_module import FewShotModule
from metazoo.choices import EXPORTED_OUTPUTS, EXPORTED_PRECISIONS
from metazoo.choices import ExportedOutputs as Outputs
from metazoo.data import decoded_images
from metazoo.errors import MetazooError, UsageError
from metazoo.export.agreement import Agreement, Function, measure_agreement
from metazoo.export.formats import ExportFormat, Precision, format_of
from metazoo.storage.artefacts import check_writable, write_bytes

_INPUT = "uint8 [n, 3, height, width], RGB as decoded and upright; n, height and width are free"


class ClassifierFeatures(nn.Module):
    """Features of a few-shot classifier, see `FewShotModule.embed`."""

    def __init__(self, module: FewShotModule) -> None:
        super().__init__()
        self._module = module

    def forward(self, images: Tensor) -> tuple[Tensor]:
        """Features [n, d] of `images` [n, 3, h, w], uint8."""
        return (self._module.embed(images),)


class _Answers(nn.Module):
    """Probabilities and unknown images of a few-shot classifier."""

    def __init__(self, module: FewShotModule) -> None:
        super().__init__()
        self._module = module

    def margins(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities [n, ways] of `images` [n, 3, h, w], uint8, and familiarity minus threshold [n]."""
        probabilities, familiarity = self._module.with_familiarity(images)
        if familiarity is None or self._module.threshold is None:
            return probabilities, torch.ones_like(probabilities[:, 0])
        return probabilities, familiarity - self._module.threshold

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities [n, ways] of `images` [n, 3, h, w], uint8, and whether each image is unknown, bool [n]."""
        probabilities, margins = self.margins(images)
        return probabilities, margins < 0


def export_classifier(
    classifier: FewShotClassifier,
    path: Path | str,
    *,
    outputs: Outputs = "probabilities",
    precision: Precision = "float32",
    check: Sequence[Path | str] = (),
    overwrite: bool = False,
) -> Agreement:
    """Export a classifier to one file, with all of its preprocessing.

    The input `images` is uint8 [n, 3, height, width], with RGB pixels as decoded and upright. The output is called as
    `outputs` says; `probabilities` are followed by `is_unknown`, bool [n]. Number and size of the images are free. The
    metadata holds the classes, the description and the agreement under `metazoo.classes`, `metazoo.description` and
    `metazoo.agreement`, as JSON.

    The converted file is run, by onnxruntime if it is ONNX, on generated pictures of odd sizes and on the images in
    `check`, and compared with the module behind `predict`. It is not written if a class or `is_unknown` differs, or a
    probability by more than 1e-4. With `float16` and `int8`, which are approximations, the agreement is only reported.

    Args:
        classifier: classifier whose predictions do not depend on each other.
        path: file to write; its suffix is the format: `.onnx`, or `.pt2` for `torch.export`, whose
            images need at least 2 x 2 pixels.
        outputs: `probabilities` [n, ways], or `features` [n, d] of length 1, for a vector database.
        precision: `float32`; `float16` (half the size) or `int8` (a quarter), for ONNX only.
        check: image files to compare on, besides the generated pictures.
        overwrite: whether to replace a file.

    Returns:
        Agreement of the file with the classifier.

    Raises:
        UsageError: the classifier is transductive, the suffix, the precision or an option is unknown, the file exists,
            a library is missing, or the format cannot express the network.
        DataError: an image in `check` cannot be read.
        MetazooError: the file would disagree with the classifier.
        ArtefactError: the file cannot be written.
    """
    path = Path(path)
    form = format_of(path)
    _check(classifier, path, form, outputs, precision, overwrite)
    form.check()
    for _ in decoded_images(check):  # each is read, before the conversion
        pass
    module = copy.deepcopy(classifier.as_module()).cpu().eval().requires_grad_(False)
    answers = _Answers(module).eval()
    left_out = {"weights_sha256", "source", "support", "versions"}
    description = classifier.description.model_dump(mode="json", exclude=left_out)
    metadata = {"classes": json.dumps(classifier.class_names), "description": json.dumps(description)}
    if outputs == "features":
        features = ClassifierFeatures(module).eval()
        data, agreement = proved_file(path, features, features, form, (outputs,), precision, metadata, check)
    else:
        names = (outputs, "is_unknown")
        data, agreement = proved_file(path, answers, answers.margins, form, names, precision, metadata, check)
    write_bytes(path, data)
    return agreement


def proved_file(
    path: Path,
    module: nn.Module,
    reference: Function,
    form: ExportFormat,
    outputs: Sequence[str],
    precision: Precision,
    metadata: Mapping[str, str],
    check: Sequence[Path | str],
) -> tuple[bytes, Agreement]:
    """Convert a module and compare the file with it.

    Args:
        path: file to be written, for errors.
        module: module in evaluation mode on the CPU, from images [n, 3, h, w], uint8, to a tuple of outputs.
        reference: function to compare with; see `measure_agreement`.
        form: format of the file.
        outputs: names of its outputs, `probabilities` or `features` first.
        precision: precision, one of the format's.
        metadata: texts for the file, besides those on input, output, precision and agreement.
        check: image files to compare on.

    Returns:
        Content of the file, and its agreement with the module.

    Raises:
        UsageError: the format cannot express the module.
        MetazooError: the file would disagree with the module.
    """
    converted = form.converted(module, outputs, precision)
    metadata = {"input": _INPUT, "output": ", ".join(outputs), "precision": precision, **metadata}

    def original(images: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad():
            return reference(images)

    agreement = measure_agreement(
        original,
        form.function(form.data(converted, metadata)),
        check,
        least_side=form.least_side,
        outputs_are_probabilities=outputs[0] == "probabilities",
    )
    if not (agreement.is_exact if precision == "float32" else agreement.is_finite):
        raise MetazooError(
            path, f"would disagree with the classifier: {agreement}", "choose another format, and report this network"
        )
    return form.data(converted, metadata | {"agreement": json.dumps(agreement.record())}), agreement


def _check(
    classifier: FewShotClassifier, path: Path, form: ExportFormat, outputs: str, precision: str, overwrite: bool
) -> None:
    given = (("outputs", outputs, EXPORTED_OUTPUTS), ("precision", precision, EXPORTED_PRECISIONS))
    for name, value, known in given:
        if value not in known:
            raise UsageError(name, f"unknown {value!r}", f"choose one of {', '.join(known)}")
    if precision not in form.precisions:
        raise UsageError("precision", f"{precision} does not exist for {form.suffix} files", "choose float32 or .onnx")
    if classifier.transductive:
        made = classifier.description
        raise UsageError(
            "classifier",
            f"head {made.head} with batch norm {made.batch_norm} predicts all images together, so no file can agree",
            "adapt again with an inductive head, such as logistic, and batch norm running or support",
        )
    check_target(path, overwrite=overwrite)


def check_target(path: Path, *, overwrite: bool) -> None:
    """Check, before any work, that a file can be written.

    Raises:
        UsageError: it exists and `overwrite` is False, or it cannot be written.
    """
    if path.exists() and not overwrite:
        raise UsageError(path, "exists", "choose another file or give --overwrite")
    if path.is_dir():
        raise UsageError(path, "is a folder", "name a file")
    check_writable(path, "choose another file")
