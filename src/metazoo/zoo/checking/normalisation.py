"""Whether the mean and standard deviation that a contract declares are those that its model was trained with."""

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
# Of a normal distribution: 1 % of all models by chance, among four alternatives.
_SIGNIFICANT = 2.8


@dataclass(frozen=True)
class NormalisationCheck:
    """Accuracy on some labelled images, in percent, as declared and under the best of the common alternatives.

    Attributes:
        images: how many there were of the model's classes.
        declared: accuracy with the mean and standard deviation of the contract.
        alternative: name of the best other one.
        best: its accuracy.
        wrong: whether it is better by more than chance, by the images that only one of the two gets right (the sign
            test's normal approximation, 2.8 standard deviations).
    """

    images: int
    declared: float
    alternative: str
    best: float
    wrong: bool

    @property
    def text(self) -> str:
        """What was found, and what to do about it."""
        found = f"{self.declared:.1f} % of {self.images} images are right"
        if not self.wrong:
            return found
        return (
            f"{found}, but {self.best:.1f} % with {self.alternative}: the declared mean and std look wrong; "
            "remove the model and add it with others"
        )


def check_normalisation(
    classifier: ImageClassifier, class_names: tuple[str, ...], images: ImageSet
) -> NormalisationCheck | None:
    """Try a model on labelled images.

    Args:
        classifier: classifier in evaluation mode.
        class_names: names of its outputs.
        images: images of any classes; those of classes whose name the model has are used.

    Returns:
        None if there are no images of its classes.
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
    """Bool [n]: which images get their label."""
    with torch.inference_mode():
        said = [classifier(part.float() / 255).argmax(1) for part in pixels.split(_IMAGES_AT_ONCE)]
    return torch.cat(said) == labels
