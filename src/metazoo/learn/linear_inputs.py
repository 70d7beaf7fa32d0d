"""What linear models with a penalty are fitted to: features of length 1 beside a constant, whose weight is the bias."""

import torch
from torch import Tensor
from torch.nn import functional


def normalised_inputs(features: Tensor) -> Tensor:
    """`features` [..., n, d] scaled to length 1, then a constant 1: [..., n, d + 1]."""
    return torch.cat([functional.normalize(features, dim=-1), torch.ones_like(features[..., :1])], dim=-1)
