"""Regularisers, which join the gradients of the members of a group to one direction of descent.

Task Groupings Regularization (ICML 2024) penalises disagreement within a group of T members,

    R(theta) = 1 / (2 T) sum_i |g_i - g|^2,  g_i = gradient of L_i,  g = mean_i g_i,

whose gradient is 1 / T sum_i H_i (g_i - g). Minimising it raises every inner product of two members' gradients. The
plain mean ignores R, the explicit form follows its exact gradient by Hessian-vector products, and the implicit form
approximates this to first order by 2 T ordinary gradients; see `metazoo.learn.modulated` for a weight that is learned.
Worker threads may compute the members' gradients at once; losses must be thread-safe.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from metazoo.errors import DataError, UsageError
from metazoo.execution.threads import CALLING_THREAD, WorkerThreads
from metazoo.learn.second_derivatives import QuickSecondDerivatives

Parameters = dict[str, Tensor]
Loss = Callable[[Parameters], Tensor]


@dataclass(frozen=True, eq=False)
class Direction:
    """Joint direction of descent of the members of a group.

    Attributes:
        gradient: gradients for an optimiser, by parameter name.
        losses: losses of the members at the given parameters.
        agreement: mean cosine of two members' gradients, in [-1, 1]; 1 for a single member.
        disagreement: R, at least 0.
        relative_change: norm of the change by regularisation, relative to the mean gradient.
    """

    gradient: Parameters
    losses: Float[Tensor, " T"]
    agreement: Float[Tensor, ""]
    disagreement: Float[Tensor, ""]
    relative_change: Float[Tensor, ""]


class Regulariser(ABC):
    """Base class of regularisers. A learner uses one object in all its steps.

    A regulariser may have tensors, such as the weights of a small network, which `direction` trains; they belong to its
    `state`.

    Attributes:
        recordable: whether a GPU may record `direction` and play it back, since all tensors are on one device and
            nothing in Python depends on their values; see `metazoo.execution.repeat`.
        needs_held_out: whether `direction` needs the loss of a teacher that is not among the members.
    """

    recordable: ClassVar[bool] = False
    needs_held_out: ClassVar[bool] = False

    @abstractmethod
    def direction(
        self,
        losses: Sequence[Loss],
        parameters: Parameters,
        threads: WorkerThreads = CALLING_THREAD,
        *,
        displaced: Sequence[Loss] | None = None,
        held_out: Loss | None = None,
    ) -> Direction:
        """Join the gradients of the members' losses at `parameters`.

        Args:
            losses: losses of the T members, deterministic functions of the parameters.
            parameters: parameters by name, which are not changed.
            threads: worker threads that share the members.
            displaced: losses of the members on other images, for the gradients at displaced points of the implicit
                form; None: `losses`.
            held_out: loss of another teacher; None unless `needs_held_out`, and where all teachers are members.
        """

    def state(self) -> dict[str, Tensor]:
        """Tensors by name, for a checkpoint."""
        return {}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Resume from `state`, which may be empty.

        Raises:
            DataError: the tensors are not a state of this regulariser.
        """
        if tensors:
            raise DataError("checkpoint", "holds the state of another regulariser", "start the run again")


@final
class MeanGradient(Regulariser):
    """The mean of the members' gradients: plain multi-task learning."""

    recordable = True

    def direction(  # noqa: D102
        self,
        losses: Sequence[Loss],
        parameters: Parameters,
        threads: WorkerThreads = CALLING_THREAD,
        *,
        displaced: Sequence[Loss] | None = None,
        held_out: Loss | None = None,
    ) -> Direction:
        values, gradients = _gradients(losses, parameters, threads)
        mean = gradients.mean(0)
        return joined_direction(parameters, values, gradients, mean, mean)


@dataclass(frozen=True, eq=False)
class Terms:
    """Terms of a regularised direction, as flat vectors of all P parameters.

    Attributes:
        losses: losses of the members, [T].
        gradients: gradients of the members, [T, P].
        mean: mean gradient, [P].
        added: regularisation, a multiple of the gradient of R, [P].
    """

    losses: Tensor
    gradients: Tensor
    mean: Tensor
    added: Tensor

    def direction(self, parameters: Parameters, joined: Tensor) -> Direction:
        """Direction with the gradient `joined` [P]."""
        return joined_direction(parameters, self.losses, self.gradients, self.mean, joined)


class DisagreementRegularisation(Regulariser):
    """Base class of regularisers that add a multiple of the gradient of R to the mean gradient."""

    recordable = True

    @abstractmethod
    def terms(
        self,
        losses: Sequence[Loss],
        parameters: Parameters,
        threads: WorkerThreads = CALLING_THREAD,
        displaced: Sequence[Loss] | None = None,
    ) -> Terms:
        """Compute both terms of the direction; see `direction`."""

    def direction(  # noqa: D102
        self,
        losses: Sequence[Loss],
        parameters: Parameters,
        threads: WorkerThreads = CALLING_THREAD,
        *,
        displaced: Sequence[Loss] | None = None,
        held_out: Loss | None = None,
    ) -> Direction:
        found = self.terms(losses, parameters, threads, displaced)
        return found.direction(parameters, found.mean + found.added)


@final
class ImplicitRegularisation(DisagreementRegularisation):
    """Gradients at displaced points (TGR): each member's loss is taken where its deviation from the mean leads uphill.

    With g_i and g at the parameters and ĝ_i the gradient of L_i at theta - r (g - g_i), the direction is
    g + strength / r * (mean_i ĝ_i - g) = g + strength * gradient of R + O(strength * r). With `strength` equal to r it
    is the plain mean of the ĝ_i.

    Deviation from the paper: the displacement is detached. The published code differentiates through it, which doubles
    the coefficient of the gradient of R (2 r instead of r) at several times the cost; `differentiate_displacement=True`
    does the same. With H_i the Hessian of L_i and ĝ the mean of the ĝ_i, the derivative of mean_i L_i(theta - r (g -
    g_i)) is ĝ - r / T sum_i H_i (ĝ - ĝ_i), which takes 2 T gradients and T Hessian-vector products.

    Args:
        displacement: displacement r, above 0; small, so that the O(r) term is small.
        strength: weight of R, at least 0.
        differentiate_displacement: whether the gradient flows through the displacement, as published.
    """

    def __init__(self, displacement: float, strength: float, *, differentiate_displacement: bool = False) -> None:
        if not displacement > 0:
            raise UsageError("regularisation.displacement", f"must be above 0, not {displacement}")
        _check_strength(strength)
        self._displacement, self._strength = displacement, strength
        self._differentiate = differentiate_displacement

    def terms(  # noqa: D102
        self,
        losses: Sequence[Loss],
        parameters: Parameters,
        threads: WorkerThreads = CALLING_THREAD,
        displaced: Sequence[Loss] | None = None,
    ) -> Terms:
        attached = _Attached(losses, parameters, threads) if self._differentiate else None
        if attached is not None:
            values, gradients = attached.values, attached.gradients
        else:
            values, gradients = _gradients(losses, parameters, threads)
        mean = gradients.mean(0)

        def point_of(member: int) -> Parameters:
            steps = split_like(gradients[member] - mean, parameters)
            return {name: torch.add(parameters[name], step, alpha=self._displacement) for name, step in steps}

        _, there = _gradients(displaced or losses, parameters, threads, point_of)
        change = there.mean(0) - mean
        if attached is not None:
            change -= self._displacement * attached.mean_product(there.mean(0) - there)
        return Terms(values, gradients, mean, self._strength / self._displacement * change)


@final
class ExplicitRegularisation(DisagreementRegularisation):
    """Exact gradient of the mean loss plus `strength` (at least 0) times R, by T Hessian-vector products."""

    def __init__(self, strength: float) -> None:
        _check_strength(strength)
        self._strength = strength

    def terms(  # noqa: D102
        self,
        losses: Sequence[Loss],
        parameters: Parameters,
        threads: WorkerThreads = CALLING_THREAD,
        displaced: Sequence[Loss] | None = None,
    ) -> Terms:
        attached = _Attached(losses, parameters, threads)
        gradients, mean = attached.gradients, attached.gradients.mean(0)
        return Terms(attached.values, gradients, mean, self._strength * attached.mean_product(gradients - mean))


def _check_strength(strength: float) -> None:
    if not strength >= 0:
        raise UsageError("regularisation.strength", f"must be at least 0, not {strength}")


class _Attached:
    """Losses [T] and flat gradients [T, P], with graphs for one product with each member's Hessian."""

    def __init__(self, losses: Sequence[Loss], parameters: Parameters, threads: WorkerThreads) -> None:
        self._leaves = {name: value.detach().requires_grad_(True) for name, value in parameters.items()}
        self._threads = threads
        values, self._graphs = zip(*threads.map(self._of, losses), strict=True)
        self.values = torch.stack(values)
        self.gradients = torch.stack(self._graphs).detach()

    def _of(self, loss: Loss) -> tuple[Tensor, Tensor]:
        with torch.enable_grad(), QuickSecondDerivatives():
            value = loss(self._leaves)
            return value.detach(), flat_gradient(value, self._leaves, create_graph=True)

    def mean_product(self, vectors: Float[Tensor, "T P"]) -> Float[Tensor, " P"]:
        """Mean over the members of Hessian times vector; frees the graphs."""

        def product(pair: tuple[Tensor, Tensor]) -> Tensor:
            gradient, vector = pair
            if not gradient.requires_grad:  # the loss is linear
                return torch.zeros_like(vector)
            return flat_gradient(gradient, self._leaves, weights=vector)

        return torch.stack(list(self._threads.map(product, zip(self._graphs, vectors, strict=True)))).mean(0)


def _gradients(
    losses: Sequence[Loss],
    parameters: Parameters,
    threads: WorkerThreads,
    point_of: Callable[[int], Parameters] | None = None,
) -> tuple[Tensor, Tensor]:
    """Losses [T] and flat gradients [T, P], at the parameters or at one point per member.

    Every thread has at most one graph and one point in memory.
    """
    size, first = sum(value.numel() for value in parameters.values()), next(iter(parameters.values()))
    gradients = first.new_empty(len(losses), size)

    def of(member: int) -> Tensor:
        point = parameters if point_of is None else point_of(member)
        leaves = {name: value.detach().requires_grad_(True) for name, value in point.items()}
        with torch.enable_grad():
            value = losses[member](leaves)
        flat_gradient(value, leaves, out=gradients[member])
        return value.detach()

    return torch.stack(list(threads.map(of, range(len(losses))))), gradients


def flat_gradient(
    value: Tensor,
    leaves: Parameters,
    *,
    create_graph: bool = False,
    weights: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Gradient of `value` as one vector [P]; `weights` are those of a value that is no scalar."""
    parts = torch.autograd.grad(
        value, list(leaves.values()), weights, create_graph=create_graph, allow_unused=True, materialize_grads=True
    )
    return torch.cat([part.reshape(-1) for part in parts], out=out)


def split_like(vector: Tensor, like: Parameters) -> list[tuple[str, Tensor]]:
    """Split a flat vector into tensors with the names and shapes of `like`."""
    sizes = [value.numel() for value in like.values()]
    parts = vector.split(sizes)
    return [(name, part.view(value.shape)) for (name, value), part in zip(like.items(), parts, strict=True)]


def joined_direction(
    parameters: Parameters, losses: Tensor, gradients: Tensor, mean: Tensor, joined: Tensor
) -> Direction:
    """Direction with the gradient `joined` [P], and its figures, from the members' `gradients` [T, P]."""
    # With some hundred teachers the gradients are the largest tensors, so no tensor of their size is made here.
    count = len(gradients)
    lengths = gradients.norm(dim=1).clamp_min(1e-12)
    cosines = gradients @ gradients.T / torch.outer(lengths, lengths)
    agreement = (cosines.sum() - cosines.diagonal().sum()) / (count * (count - 1)) if count > 1 else cosines.mean()
    return Direction(
        gradient=dict(split_like(joined, parameters)),
        losses=losses,
        agreement=agreement,
        disagreement=torch.stack([(own - mean).square().sum() for own in gradients]).mean() / 2,
        relative_change=(joined - mean).norm() / mean.norm().clamp_min(torch.finfo(mean.dtype).tiny),
    )
