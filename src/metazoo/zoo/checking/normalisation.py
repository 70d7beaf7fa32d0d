"""Check that the declared mean and standard deviation of a model are those that it was trained with."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from metazoo.data import ImageSet
from metazoo.models import ClassifierSpec, ImageClassifier

_IMAGES_AT_ONCE = 64
_Normalisation = tuple[tuple[float, ...], tuple[float, ...]]
_COMMON: dict[str, _Normalisation] = {
    "mean and std of ImageNet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "mean and std 0.5": ((0.5,), (0.5,)),
    "no normalisation": ((0.0,), (1.0,)),
    "values up to 255": ((0.0,), (1 / 255,)),
}
# Standard deviations: a false alarm for 1 % of models, with four alternatives.
_SIGNIFICANT = 2.8


@dataclass(frozen=True)
class NormalisationCheck:
    """Accuracy on labelled images, in percent, with the declared normalisation and with the best common alternative.

    Attributes:
        images: number of images of the model's classes.
        declared: accuracy with the mean and standard deviation of the contract.
        alternative: name of the best alternative normalisation.
        best: accuracy with the alternative.
        wrong: whether the alternative is significantly better (sign test on the images that only one of the two
            classifies correctly, normal approximation, 2.8 standard deviations).
    """

    images: int
    declared: float
    alternative: str
    best: float
    wrong: bool

    @property
    def text(self) -> str:
        """Result and remedy."""
        found = f"{self.declared:.1f} % of {self.images} images classified correctly"
        if not self.wrong:
            return found
        return (
            f"{found}, but {self.best:.1f} % with {self.alternative}: the declared mean and std look wrong; "
            "remove the model and add it with the right ones"
        )


def check_normalisation(
    classifier: ImageClassifier, class_names: tuple[str, ...], images: ImageSet
) -> NormalisationCheck | None:
    """Compare the accuracy of a model under its declared and under common normalisations.

    Args:
        classifier: classifier in evaluation mode.
        class_names: class names in the order of the outputs.
        images: labelled images; only those whose class name is in `class_names` are used.

    Returns:
        Result of the check, or None if there are no images of these classes.
    """
    outputs = {name: index for index, name in enumerate(class_names)}
    labels = torch.tensor([outputs.get(name, -1) for name in images.class_names])[images.labels]
    chosen = labels >= 0
    if not bool(chosen.any()):
        return None
    pixels, labels = images.images[chosen], labels[chosen]
    declared = _right(classifier, pixels, labels)
    best, alternative = declared, ""
    for name, normalisation in _COMMON.items():
        spec = _with(classifier.spec, normalisation)
        if spec is not None:
            right = _right(ImageClassifier(spec, classifier.network).eval(), pixels, labels)
            if not alternative or int(right.sum()) > int(best.sum()):
                best, alternative = right, name
    gained, lost = int((best & ~declared).sum()), int((declared & ~best).sum())
    return NormalisationCheck(
        images=len(labels),
        declared=100 * float(declared.double().mean()),
        alternative=alternative,
        best=100 * float(best.double().mean()),
        wrong=gained - lost > _SIGNIFICANT * math.sqrt(gained + lost),
    )


def _with(spec: ClassifierSpec, normalisation: _Normalisation) -> ClassifierSpec | None:
    mean, std = (values * spec.channels if len(values) == 1 else values for values in normalisation)
    if len(mean) != spec.channels or (mean, std) == (spec.mean, spec.std):
        return None
    return spec.model_copy(update={"mean": mean, "std": std})


def _right(classifier: ImageClassifier, pixels: Tensor, labels: Tensor) -> Tensor:
    """Whether each image is classified correctly, bool [n]."""
    with torch.inference_mode():
        predicted = [classifier(part.float() / 255).argmax(1) for part in pixels.split(_IMAGES_AT_ONCE)]
    return torch.cat(predicted) == labels
