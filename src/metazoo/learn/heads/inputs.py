"""What linear models with a penalty are fitted to: features of length 1 beside a constant, whose weight is the bias."""

import torch
from torch import Tensor
from torch.nn import functional

from metazoo.learn.heads.fitted import FittedHead


def normalised_inputs(features: Tensor) -> Tensor:
    """`features` [..., n, d] scaled to length 1, then a constant 1: [..., n, d + 1]."""
    return torch.cat([functional.normalize(features, dim=-1), torch.ones_like(features[..., :1])], dim=-1)


def normalised_linear(weights: Tensor) -> FittedHead:
    """The classifier that multiplies `normalised_inputs` by `weights` [..., d + 1, ways]."""
    return FittedHead("normalised-linear", weights[..., :-1, :].mT.contiguous(), weights[..., -1, :].contiguous())
