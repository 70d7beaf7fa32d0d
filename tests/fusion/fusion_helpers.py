"""Networks with weights and statistics that differ in every channel, as after training."""

from collections.abc import Sequence

import torch
from torch import Tensor

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
    tensors = {name: tensor for name, tensor in of.network.state_dict().items() if not name.startswith("head.")}
    return with_tensors(of, permuted(tensors, groups, random_orders(groups, seed)))


def pictures(count: int, side: int = 32, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed))
