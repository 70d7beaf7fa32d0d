"""A thin residual network in the manner of the CIFAR ResNets (He et al. 2016, section 4.2)."""

from torch import Tensor, nn

from metazoo.models.network import Network
from metazoo.models.residual_blocks import BasicBlock


class ThinResNet(Network):
    """A 3x3 stem and three stages of one residual block each, of `width`, 2 and 4 times `width` channels.

    The stem halves the image when it is 32 pixels or larger, which lets the network train in about a minute on two
    cores. Global average pooling: features [n, 4 width] for any input size.
    """

    def __init__(self, *, classes: int, channels: int, input_size: int, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(channels, width, 3, stride=2 if input_size >= 32 else 1, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        )
        self.stages = nn.Sequential(
            BasicBlock(width, width, 1),
            BasicBlock(width, 2 * width, 2),
            BasicBlock(2 * width, 4 * width, 2),
        )
        self.feature_size = 4 * width
        self.head = nn.Linear(self.feature_size, classes)

    def features(self, images: Tensor) -> Tensor:
        """Globally averaged activations of the last stage, all at least 0."""
        return self.stages(self.stem(images)).mean((2, 3))
