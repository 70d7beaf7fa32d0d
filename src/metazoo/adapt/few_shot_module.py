"""Few-shot classifiers as modules of torch."""

from typing import final

import torch
from jaxtyping import Int64
from torch import Tensor, nn
from torch.nn import functional

from metazoo.adapt.bundle import ClassifierDescription
from metazoo.adapt.held_out import familiar_means, familiarity
from metazoo.features.batch_norm import batch_statistics, stored_statistics
from metazoo.features.embedders import Embedder, MirroredFeatures, SideBySide, device_of
from metazoo.features.heads import FittedHead, HeadKind
from metazoo.features.heads.fitted import scaled
from metazoo.models import ImageClassifier, square_images


@final
class FewShotModule(nn.Module):
    """Few-shot classifier as a module from images to probabilities, for export.

    The steps are `square_images`, normalisation, the features of every network (also of the mirror image if mirrored)
    and the head. `torch.export` works with a dynamic number of images and dynamic sizes of at least 2 pixels. A
    transductive classifier takes each batch as the whole query set, so an export has to fix its size.
    """

    def __init__(
        self,
        module: ImageClassifier | SideBySide,
        fitted: FittedHead,
        description: ClassifierDescription,
        support_features: Tensor | None = None,
    ) -> None:
        super().__init__()
        self._embedder = MirroredFeatures(module) if description.mirrored else module
        self._statistics = batch_statistics if description.batch_norm == "query" else stored_statistics
        self.side = max(spec.input_size for spec in description.networks)
        self._kind: HeadKind = fitted.kind
        self._head = nn.Module()
        for name, tensor in fitted.tensors.items():
            self._head.register_buffer(name, tensor)
        self._temperature, self.threshold = description.temperature, description.threshold
        means = None
        if support_features is not None:
            rows, labels = current_support(description)
            means = familiar_means(support_features[rows], labels, len(description.class_names), fitted.scale)
        self.register_buffer("familiar_means", means)
        self.to(device_of(module) or "cpu")

    @property
    def embedder(self) -> Embedder:
        """Embedder of the networks, without the mirror image."""
        return self._embedder.embedder if isinstance(self._embedder, MirroredFeatures) else self._embedder

    @property
    def feature_embedder(self) -> Embedder:
        """Embedder whose features the head takes, with the mirror image if mirrored."""
        return self._embedder

    @property
    def fitted(self) -> FittedHead:
        """Fitted head."""
        return FittedHead(self._kind, **dict(self._head.named_buffers()), temperature=self._temperature)  # pyright: ignore[reportArgumentType]

    def features(self, images: Tensor) -> Tensor:
        """Features [n, d] of `images` [n, 1 or 3, h, w], uint8 or float in [0, 1], as the head takes them."""
        squares = square_images(images, self.side)
        with self._statistics(self._embedder):
            return self._embedder.features(squares)

    def embed(self, images: Tensor) -> Tensor:
        """Features [n, d] of `images` [n, 1 or 3, h, w], weighted by the domains of the task and of length 1."""
        return functional.normalize(scaled(self.features(images), self.fitted.scale), dim=1)

    def forward(self, images: Tensor) -> Tensor:
        """Probabilities [n, ways] of `images` [n, 1 or 3, h, w], uint8 or float in [0, 1]."""
        return self.fitted.probabilities(self.features(images))

    def with_familiarity(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Probabilities [n, ways] and familiarity [n] of `images`; see `Prediction`."""
        features, fitted = self.features(images), self.fitted
        means: Tensor | None = self.familiar_means  # pyright: ignore[reportAssignmentType]
        familiar = None if means is None else familiarity(features, means, fitted.scale)
        return fitted.probabilities(features), familiar


def current_support(description: ClassifierDescription) -> tuple[list[int], Int64[Tensor, " n"]]:
    """Rows of the support images of the current version, and their labels."""
    members = description.versions[-1].members
    counts = torch.tensor([len(own) for own in members])
    return [row for own in members for row in own], torch.arange(len(members)).repeat_interleave(counts)
