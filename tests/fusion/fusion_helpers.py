"""Networks with weights and statistics that differ in every channel, as after training."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from metazoo.fusion.average import feature_tensors
from metazoo.fusion.channel_groups import ChannelGroup, permuted
from metazoo.models import ClassifierSpec, ImageClassifier, Network, build_classifier


def spec(architecture: str, *, width: int = 4, size: int = 32) -> ClassifierSpec:
    return ClassifierSpec(
        architecture=architecture,
        arguments={"width": width},
        classes=3,
        input_size=size,
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
    )


def classifier(architecture: str, seed: int = 0, *, width: int = 4, size: int = 32) -> ImageClassifier:
    made = build_classifier(spec(architecture, width=width, size=size), torch.Generator().manual_seed(seed))
    return ImageClassifier(made.spec, individual(made.network, seed)).eval()


def individual(network: Network, seed: int = 0) -> Network:
    """Give every bias, scale and statistic a value of its own."""
    random = torch.Generator().manual_seed(1000 + seed)
    with torch.no_grad():
        for tensor in network.state_dict().values():
            if tensor.is_floating_point() and tensor.ndim == 1:
                tensor.copy_(torch.rand(tensor.shape, generator=random) + 0.5)
    return network


def random_orders(groups: Sequence[ChannelGroup], seed: int = 0) -> list[Tensor]:
    random = torch.Generator().manual_seed(seed)
    return [torch.randperm(group.size, generator=random) for group in groups]


def with_tensors(like: ImageClassifier, tensors: dict[str, Tensor]) -> ImageClassifier:
    """Copy of a classifier with other tensors of its features and a head of its own."""
    made = build_classifier(like.spec, torch.Generator().manual_seed(99)).eval()
    made.network.load_state_dict(tensors, strict=False)
    return made


def shuffled_copy(of: ImageClassifier, groups: Sequence[ChannelGroup], seed: int) -> ImageClassifier:
    return with_tensors(of, permuted(feature_tensors(of), groups, random_orders(groups, seed)))


def pictures(count: int, side: int = 32, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


class Sharing(nn.Module):
    """Network with a module, and a weight of two convolutions, under two names each."""

    def __init__(self, classes: int, channels: int, input_size: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, 6, 3)
        self.block = nn.Sequential(nn.Conv2d(6, 6, 3), nn.BatchNorm2d(6), nn.ReLU())
        self.again = self.block
        self.narrow, self.wide = nn.Conv2d(6, 6, 3), nn.Conv2d(6, 6, 3, padding=1)
        self.wide.weight = self.narrow.weight
        self.head = nn.Linear(6, classes)

    def forward(self, images: Tensor) -> Tensor:
        found = self.again(self.block(self.stem(images)))
        return self.head(self.narrow(found).relu().mean((2, 3)) + self.wide(found).relu().mean((2, 3)))


def sharing(seed: int) -> ImageClassifier:
    """Classifier with a `Sharing`, which must be registered as `sharing`."""
    own = spec("sharing", size=12).model_copy(update={"arguments": {}})
    made = build_classifier(own, torch.Generator().manual_seed(seed))
    return ImageClassifier(own, individual(made.network, seed)).eval()
