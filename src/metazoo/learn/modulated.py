"""Regularisation whose weight for every tensor is learned from a held-out teacher.

Meta-regularisation after ProMetaR (Park, Ko and Kim, CVPR 2024): a small network, the gate, sees the gradients of the
task and of the regulariser, and decides how much of the latter is used. It is trained so that one step along the
modulated gradient lowers the loss of a task that was held out.

With g the mean gradient of the members and r the regularisation (`Terms.added`), tensor k of the direction is

    d_k = g_k + gamma_k r_k,  gamma_k = 2 sigmoid(gate(log |g_k|, log |r_k|, cosine of g_k and r_k)).

The gate descends along the gradient of L_h(theta - step * d), where L_h is the loss of the held-out teacher. Since
neither g nor r depends on the gate, this gradient is exact without second derivatives: that of gamma_k is
-step * <gradient of L_h, r>_k.

Deviations from the published method, which adapts the prompts of a vision-language model:

- the regulariser is the disagreement of the members (published: a distance to the features of the frozen model). With
  gamma = 1, the first value here, the direction is that of implicit regularisation; with gamma = 0, the mean gradient;
- gamma is in (0, 2) (published: in (0, 1)), and there is one for each tensor, from three figures, by one network for
  all tensors (published: one for each 8 coordinates, from the gradients themselves);
- the held-out loss trains the gate alone, by Adam (published: by SGD, and the prompts with it);
- no mix-up of the held-out task; augmented images are mixed anyhow (option `learning.mix`).
"""

from collections.abc import Mapping, Sequence
from typing import final

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from metazoo.errors import DataError
from metazoo.execution.threads import CALLING_THREAD, WorkerThreads
from metazoo.learn.regularisers import (
    Direction,
    DisagreementRegularisation,
    Loss,
    Parameters,
    Regulariser,
    flat_gradient,
    split_like,
)

_HIDDEN, _SEED = 8, 0
_LEAST_NORM = 1e-8
_DECAYS, _EPSILON = (0.9, 0.999), 1e-15  # the gradients of the gate are tiny, since they contain the step


class GateConfig(BaseModel):
    """Options of the gate of modulated regularisation."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    learning_rate: float = Field(default=1e-2, ge=0, description="learning rate of Adam; 0: the weights remain 1")
    step: float = Field(
        default=5e-4, gt=0, description="factor of the gradient in the step whose held-out loss trains the gate"
    )


def first_weights() -> Parameters:
    """Weights of a gate whose values are 1: a hidden layer of 8 units, and zeros after it."""
    random = torch.Generator().manual_seed(_SEED)
    return {
        "hidden.weight": torch.randn(_HIDDEN, 3, generator=random) / 3**0.5,
        "hidden.bias": torch.zeros(_HIDDEN),
        "output.weight": torch.zeros(_HIDDEN),
        "output.bias": torch.zeros(()),
    }


def gate_figures(mean: Tensor, added: Tensor, parameters: Parameters) -> Tensor:
    """Common logarithms of the norms of both gradients [P], and their cosine, for each tensor, [K, 3]."""
    rows = []
    for (_, own), (_, other) in zip(split_like(mean, parameters), split_like(added, parameters), strict=True):
        lengths = torch.stack([own.norm(), other.norm()]).clamp_min(_LEAST_NORM)
        rows.append(torch.cat([lengths.log10(), ((own * other).sum() / lengths.prod()).view(1)]))
    return torch.stack(rows)


def gate_values(weights: Parameters, figures: Tensor) -> Tensor:
    """Values of the gate in (0, 2), [K] from [K, 3]."""
    hidden = torch.tanh(figures @ weights["hidden.weight"].T + weights["hidden.bias"])
    return 2 * torch.sigmoid(hidden @ weights["output.weight"] + weights["output.bias"])


@final
class ModulatedRegularisation(Regulariser):
    """Regularisation with a learned weight for each tensor; see the module.

    A direction costs one more gradient, that of the held-out loss; without one, the gate is used but not trained.

    Args:
        inner: regulariser that is modulated.
        config: options of the gate.
    """

    recordable = True
    needs_held_out = True

    def __init__(self, inner: DisagreementRegularisation, config: GateConfig | None = None) -> None:
        self._inner, self._config = inner, config or GateConfig()
        weights = first_weights()
        moments = {
            f"{moment}.{name}": torch.zeros_like(value)
            for moment in ("first", "second")
            for name, value in weights.items()
        }
        self._tensors = weights | moments | {"count": torch.zeros(())}

    def direction(  # noqa: D102
        self,
        losses: Sequence[Loss],
        parameters: Parameters,
        threads: WorkerThreads = CALLING_THREAD,
        *,
        displaced: Sequence[Loss] | None = None,
        held_out: Loss | None = None,
    ) -> Direction:
        terms = self._inner.terms(losses, parameters, threads, displaced)
        self._move(terms.mean)
        weights = {name: self._tensors[name].clone().requires_grad_() for name in first_weights()}
        sizes = [value.numel() for value in parameters.values()]
        with torch.enable_grad():
            gates = gate_values(weights, gate_figures(terms.mean, terms.added, parameters))
        shown = gates.detach()
        spread = torch.cat([gate.expand(size) for gate, size in zip(shown, sizes, strict=True)])
        joined = terms.mean + spread * terms.added
        if held_out is not None:
            there = {
                name: (parameters[name].detach() - self._config.step * part).requires_grad_()
                for name, part in split_like(joined, parameters)
            }
            with torch.enable_grad():
                gradient = flat_gradient(held_out(there), there)
            products = (gradient * terms.added).split(sizes)
            slopes = -self._config.step * torch.stack([part.sum() for part in products])
            self._descend(dict(zip(weights, torch.autograd.grad(gates, [*weights.values()], slopes), strict=True)))
        return terms.direction(parameters, joined)

    def _move(self, like: Tensor) -> None:
        """Move the gate to the device and type of the gradients, before a GPU records anything."""
        if self._tensors["count"].device != like.device or self._tensors["count"].dtype != like.dtype:
            self._tensors = {name: value.to(like) for name, value in self._tensors.items()}

    def _descend(self, gradients: Parameters) -> None:
        """Take a step of Adam, in the same tensors, so that a GPU can play it back."""
        tensors, count = self._tensors, self._tensors["count"].add_(1)
        for name, gradient in gradients.items():
            first, second = tensors[f"first.{name}"], tensors[f"second.{name}"]
            first.lerp_(gradient, 1 - _DECAYS[0])
            second.lerp_(gradient.square(), 1 - _DECAYS[1])
            length = (second / (1 - _DECAYS[1] ** count)).sqrt_().add_(_EPSILON)
            tensors[name].sub_(self._config.learning_rate * first / (1 - _DECAYS[0] ** count) / length)

    def state(self) -> dict[str, Tensor]:  # noqa: D102
        return dict(self._tensors)

    def restore(self, tensors: Mapping[str, Tensor]) -> None:  # noqa: D102
        if not tensors:
            return
        if {name: value.shape for name, value in tensors.items()} != {
            name: value.shape for name, value in self._tensors.items()
        }:
            raise DataError("checkpoint", "holds the state of another regulariser", "start the run again")
        self._tensors = {name: tensors[name].clone() for name in self._tensors}
