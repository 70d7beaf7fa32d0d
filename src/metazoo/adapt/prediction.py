"""Answers of few-shot classifiers."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from metazoo.notebook import ShownInNotebook


@dataclass(frozen=True, eq=False)
class Prediction(ShownInNotebook):
    """Predictions for n images.

    Attributes:
        class_names: names of the classes, in the order of the probabilities.
        probabilities: probabilities on the CPU, rows summing to 1. They concern images of one of the classes.
        familiarity: largest cosine of the features of each image with a class mean; None for a transductive classifier
            and for one of version 0.1.
        threshold: familiarity below which an image is `unknown`; None if the support was too small to tell.
    """

    class_names: tuple[str, ...]
    probabilities: Float[Tensor, "n ways"]
    familiarity: Float[Tensor, " n"] | None = None
    threshold: float | None = None

    @property
    def labels(self) -> Int64[Tensor, " n"]:
        """Predicted class of each image, as an index into `class_names`."""
        return self.probabilities.argmax(1)

    @property
    def names(self) -> list[str]:
        """Name of the predicted class of each image."""
        return [self.class_names[label] for label in self.labels.tolist()]

    @property
    def unknown(self) -> Bool[Tensor, " n"]:
        """Whether each image belongs to none of the classes; False for all if that is not known."""
        if self.familiarity is None or self.threshold is None:
            return torch.zeros(len(self.probabilities), dtype=torch.bool)
        return self.familiarity < self.threshold


@dataclass(frozen=True, eq=False)
class Neighbour:
    """Support image that is similar to an image.

    Attributes:
        name: name of the support image.
        class_name: its class.
        similarity: cosine of the features, in [-1, 1].
        pixels: support image, if it is stored.
    """

    name: str
    class_name: str
    similarity: float
    pixels: UInt8[Tensor, "3 side side"] | None = None
