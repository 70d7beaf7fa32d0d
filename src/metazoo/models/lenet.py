"""LeNet-5 (LeCun et al. 1998) as in common scripts, with ReLU and max pooling."""

from typing import final

from torch import Tensor, nn
from torch.nn import functional

from metazoo.models.network import Network, check_number, check_size

_NAME = "lenet5"


@final
class LeNet5(Network):
    """Two 5x5 convolutions with bias, each with ReLU and max pool 2, two hidden layers, and a linear head.

    With 10 classes, it has 61,706 parameters for grey images of 32 pixels, or of 28 pixels with a padding of 2, and
    62,006 for colour. It has no batch norm.

    Args:
        classes: number of outputs of the head.
        channels: number of input channels, 1 or 3.
        input_size: side of the square images in pixels, at least 16.
        width: channels of the first convolution. The second has 16/6 times as many, and hidden layers have 20 and 14
            times as many units.
        padding: zeros at each side of the image, from 0 to 2.

    Raises:
        UsageError: `input_size` or `padding` is out of range.
    """

    def __init__(self, *, classes: int, channels: int, input_size: int, width: int = 6, padding: int = 0) -> None:
        super().__init__()
        check_size(_NAME, input_size, 16)
        check_number(_NAME, "padding", padding, range(3))
        outputs = -(-width * 16 // 6)
        side = ((input_size + 2 * padding - 4) // 2 - 4) // 2
        self.conv1 = nn.Conv2d(channels, width, 5, padding=padding)
        self.conv2 = nn.Conv2d(width, outputs, 5)
        self.hidden = nn.ModuleList([nn.Linear(outputs * side**2, 20 * width), nn.Linear(20 * width, 14 * width)])
        self.feature_size = 14 * width
        self.head = nn.Linear(self.feature_size, classes)

    def features(self, images: Tensor) -> Tensor:
        """Activations of the second hidden layer, all at least 0."""
        hidden = functional.max_pool2d(functional.relu(self.conv1(images)), 2)
        found = functional.max_pool2d(functional.relu(self.conv2(hidden)), 2).flatten(1)
        for layer in self.hidden:
            found = functional.relu(layer(found))
        return found
