"""Low-rank adapters (LoRA, Hu et al. 2022): small trainable updates of frozen weights.

The weight W of a linear or convolutional layer becomes W + alpha / rank * up @ down, where the weight of a convolution
is the matrix [outputs, inputs * height * width]. `up` starts at zero, so that a new adapter changes no output. The head
has no adapter, since a new task replaces it.
"""

import math
from typing import final

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn.utils import parametrize

from metazoo.models.network import Network


class AdapterSpec(BaseModel):
    """Size of the adapters of a network."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rank: int = Field(ge=1, le=1024, description="rank of the updates, at most the smaller size of the weight")
    alpha: float = Field(gt=0, le=1e6, description="scale of the updates, which are multiplied by alpha / rank")


@final
class LowRankUpdate(nn.Module):
    """Parametrisation that adds the update of an adapter to the weight of a layer."""

    def __init__(self, weight: Tensor, spec: AdapterSpec) -> None:
        super().__init__()
        outputs, inputs = weight.flatten(1).shape
        rank = min(spec.rank, outputs, inputs)
        self.scale = spec.alpha / rank
        self.down = nn.Parameter(torch.empty(rank, inputs, dtype=weight.dtype, device=weight.device))
        self.up = nn.Parameter(torch.zeros(outputs, rank, dtype=weight.dtype, device=weight.device))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, weight: Tensor) -> Tensor:
        """Updated weight, of the shape of `weight`."""
        return weight + (self.scale * (self.up @ self.down)).view(weight.shape)


def add_adapters(network: Network, spec: AdapterSpec) -> None:
    """Freeze the parameters of a network and add an adapter to each linear and convolutional layer except the head.

    `down` is drawn from torch's global generator. In the state of the network, the weight of a layer becomes
    `LAYER.parametrizations.weight.original`, beside `LAYER.parametrizations.weight.0.down` and `.up`.
    """
    for parameter in network.parameters():
        parameter.requires_grad = False
    for layer in [part for part in network.modules() if isinstance(part, nn.Linear | nn.Conv2d)]:
        if layer is not network.head:
            parametrize.register_parametrization(layer, "weight", LowRankUpdate(layer.weight, spec))


def merged_state(network: Network) -> dict[str, Tensor]:
    """State of the same network without adapters, with the updates added to the weights."""
    state = network.state_dict()
    for name, layer in network.named_modules():
        if parametrize.is_parametrized(layer, "weight"):
            prefix = f"{name}.parametrizations.weight."
            state = {key: value for key, value in state.items() if not key.startswith(prefix)}
            state[f"{name}.weight"] = layer.weight.detach()  # pyright: ignore[reportCallIssue]
    return state
