"""A model of the zoo at work: frozen, and open to look into."""

from typing import Self, final

import torch
from torch import Tensor, nn

from metazoo.models import ImageClassifier
from metazoo.zoo.contract import ModelContract


@final
class WhiteBoxTeacher(nn.Module):
    """A frozen zoo model whose features, batch-norm statistics and gradients with respect to images may be used.

    It stays in evaluation mode, also as a part of a module that is set to training, and none of its parameters asks for
    a gradient. `classifier` is taken over: it is frozen as well.

    Attributes:
        contract: its record in the zoo.
        classifier: its network behind its preprocessing, in channels-last memory format.
    """

    def __init__(self, contract: ModelContract, classifier: ImageClassifier) -> None:
        super().__init__()
        self.contract = contract
        self.classifier = classifier.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.requires_grad_(False)
        self.eval()

    def features(self, images: Tensor) -> Tensor:
        """Features [n, feature_size] of `images` [n, 1 or 3, h, w] in [0, 1], of any size."""
        return self.classifier.features(images)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [n, classes] of `images` [n, 1 or 3, h, w] in [0, 1], of any size."""
        return self.classifier(images)

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode, whatever `mode` is."""
        return super().train(False)
