"""VGG networks with batch norm (Simonyan and Zisserman 2015, arXiv:1409.1556), as trained on images of 32 pixels."""

from typing import final

from torch import Tensor, nn
from torch.nn import functional

from metazoo.models.network import Network, check_number, check_size

_CONVOLUTIONS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
_CHANNELS = (1, 2, 4, 8, 8)
_LARGEST_HIDDEN = 65_536


@final
class Vgg(Network):
    """Five stages of [3x3 convolutions with bias, batch norm, ReLU] that end in a max pool 2, pooled, and a head.

    The published hidden layers of 4096 units are left out or small, as usual on CIFAR. With 10 classes and no hidden
    layers, 16 layers have 14,728,266 parameters. Layers have the numbers of torchvision, as `layers.0.weight`.

    Args:
        depth: number of layers with weights: 11, 13, 16 or 19.
        classes: number of outputs of the head.
        channels: number of input channels, 1 or 3.
        input_size: side of the square images in pixels, at least 32.
        width: channels of the first stage; stages have 1, 2, 4, 8 and 8 times as many.
        hidden: units of each of two hidden layers before the head; 0 for none.

    Raises:
        UsageError: `input_size` is below 32, or `hidden` is not from 0 to 65,536.
    """

    def __init__(
        self, depth: int, *, classes: int, channels: int, input_size: int, width: int = 64, hidden: int = 0
    ) -> None:
        super().__init__()
        check_size(f"vgg{depth}-bn", input_size, 32)
        check_number(f"vgg{depth}-bn", "hidden", hidden, range(_LARGEST_HIDDEN + 1))
        self.layers = nn.Sequential()
        inputs = channels
        for multiple, count in zip(_CHANNELS, _CONVOLUTIONS[depth], strict=True):
            for _ in range(count):
                outputs = multiple * width
                self.layers.extend([nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()])
                inputs = outputs
            self.layers.append(nn.MaxPool2d(2))
        self.hidden = nn.ModuleList()
        if hidden:
            self.hidden.extend([nn.Linear(inputs, hidden), nn.Linear(hidden, hidden)])
        self.feature_size = hidden or inputs
        self.head = nn.Linear(self.feature_size, classes)
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight)

    def features(self, images: Tensor) -> Tensor:
        """Pooled activations of the last convolution, or activations of the last hidden layer; all at least 0."""
        found = self.layers(images).mean((2, 3))
        for layer in self.hidden:
            found = functional.relu(layer(found))
        return found
