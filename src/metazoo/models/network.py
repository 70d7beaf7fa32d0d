"""What every architecture offers: features, and a linear head on them."""

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Network(nn.Module, ABC):
    """A classifier without its preprocessing. A final subclass sets `feature_size` and `head`."""

    feature_size: int
    head: nn.Linear

    @abstractmethod
    def features(self, images: Tensor) -> Tensor:
        """Features [n, feature_size] of normalised `images` [n, channels, side, side]."""

    def forward(self, images: Tensor) -> Tensor:
        """Logits [n, classes] of normalised `images` [n, channels, side, side]."""
        return self.head(self.features(images))
