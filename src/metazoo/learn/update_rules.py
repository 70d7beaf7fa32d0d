"""Update rules of one step of learning: one update along the direction of all members, or several updates.

Groups in turn are the update of Selective Task Group Updates (Jeong and Yoon, ICLR 2025). A rule may also move the
parameters by an optimiser of its own, restore them, and descend along the difference, as Reptile (Nichol et al. 2018)
and FREE (Wei et al., CVPR 2024) do.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Literal, final

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from metazoo.execution.optimisers import Adam, GradientDescent
from metazoo.learn.meta_optimiser import MetaOptimiser
from metazoo.learn.regularisers import Direction, Parameters
from metazoo.taskspace import Grouping

UpdateName = Literal["joint", "in-turn", "reptile"]
Figures = tuple[Float[Tensor, "*t"], Float[Tensor, ""], Float[Tensor, ""], Float[Tensor, ""]]


@final
class MemberStep:
    """One step of a learner, which an update rule performs.

    Args:
        members: indices of the teachers of the step, [T].
        direct: function from positions of members to their direction, valid until its next call.
        losses: function that returns the losses of all members at the current parameters, without gradient.
        optimiser: optimiser of the parameters.
        learning_rate: learning rate of this step; None: the default of the optimiser.
        grouping: grouping of the members, which may observe the losses before and after each update, or None.

    Attributes:
        members: indices of the teachers of the step, [T].
        sub_groups: positions of the members that the grouping updates in turn; empty if the rule splits the members.
        optimiser: optimiser of the parameters; a rule that moves the parameters restores them before `descend`.
    """

    def __init__(
        self,
        members: Sequence[int],
        direct: Callable[[Sequence[int]], Direction],
        losses: Callable[[], Float[Tensor, " T"]],
        optimiser: MetaOptimiser,
        *,
        learning_rate: float | None = None,
        grouping: Grouping | None = None,
    ) -> None:
        self.members, self.optimiser = tuple(members), optimiser
        self._direct, self._losses, self._learning_rate = direct, losses, learning_rate
        self.sub_groups = grouping.sub_groups(self.members) if grouping is not None else ()
        self._grouping = grouping if grouping is not None and grouping.observes else None
        self._figures: list[Figures] = []

    def direction(self, positions: Sequence[int]) -> Direction:
        """Direction of the members at `positions` (0 to T - 1), at the current parameters; valid until the next call.

        Raises:
            DataError: a loss is not finite.
        """
        found = self._direct(positions)
        # Copies, since the next direction may overwrite the tensors.
        self._figures.append(
            (found.losses.clone(), found.agreement.clone(), found.disagreement.clone(), found.relative_change.clone())
        )
        return found

    def descend(
        self, gradient: Parameters, positions: Sequence[int], losses: Float[Tensor, " T"] | None = None
    ) -> Float[Tensor, " T"] | None:
        """Take one step of the optimiser with the gradient of the members at `positions`.

        Args:
            gradient: gradients by parameter name.
            positions: positions of the members, 0 to T - 1.
            losses: losses of all members at the current parameters; None if unknown.

        Returns:
            Losses of all members after the step; None if no grouping observes them.
        """
        grouping, after = self._grouping, None
        before = self._losses() if losses is None and grouping is not None else losses
        self.optimiser.step(gradient, self._learning_rate)
        if grouping is not None and before is not None:
            after = self._losses()
            sources = [self.members[position] for position in positions]
            grouping.observe(sources, self.members, before.clone(), after.clone())
        return after

    def figures(self) -> Figures:
        """Means of loss, agreement, disagreement and relative change over all directions, without dimensions."""
        losses, *others = zip(*self._figures, strict=True)
        agreement, disagreement, change = (torch.stack(values).mean() for values in others)
        return torch.cat(losses).mean(), agreement, disagreement, change


class UpdateRule(ABC):
    """Base class of rules that move the parameters in one step. A rule has no state between steps."""

    @abstractmethod
    def step(self, step: MemberStep) -> None:
        """Descend along directions of the members of `step`."""


@final
class JointUpdate(UpdateRule):
    """One update along the direction of all members."""

    def step(self, step: MemberStep) -> None:  # noqa: D102
        everyone = range(len(step.members))
        direction = step.direction(everyone)
        step.descend(direction.gradient, everyone, direction.losses)


@final
class GroupsInTurn(UpdateRule):
    """One update for each sub-group of the members.

    The sub-groups are those of the grouping; if it has none, members next to each other, in the order in which they
    were drawn. Regularisation acts within a sub-group.

    Args:
        size: number of members of a sub-group, at least 1, unless the grouping splits them; the last may be smaller.
    """

    def __init__(self, size: int = 1) -> None:
        self._size = size

    def step(self, step: MemberStep) -> None:  # noqa: D102
        losses, everyone = None, range(len(step.members))
        for positions in _sub_groups(step, self._size):
            direction = step.direction(positions)
            known = direction.losses if [*positions] == [*everyone] else losses
            losses = step.descend(direction.gradient, positions, known)


class ReptileConfig(BaseModel):
    """Options of the update rule `reptile`. The defaults are those published with FREE (CVPR 2024)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    optimiser: Literal["adam", "sgd"] = Field(
        default="adam", description="inner optimiser, made anew at every step; sgd: plain gradient descent"
    )
    learning_rate: float = Field(default=1e-3, gt=0, description="learning rate of the inner optimiser")
    scale: float = Field(
        default=67.0,
        gt=0,
        description="factor of the difference by which the outer optimiser descends; it matters if other gradients "
        "share that optimiser, such as those of the replay",
    )


PUBLISHED_REPTILE = ReptileConfig()
"""Options of `reptile` as published with FREE."""


@final
class Reptile(UpdateRule):
    """One update along the way of an inner optimiser, which visits the members one after the other.

    An inner optimiser with new moments moves the parameters from theta to theta_f by one step for each sub-group. They
    are then restored, and the outer optimiser descends along scale (theta - theta_f). This is Reptile (Nichol et al.
    2018) with an outer optimiser, and the alignment of gradients of FREE (Wei et al., CVPR 2024; BELL), whose
    sub-groups have one member.

    With gradient descent of learning rate a, gradients g_i and Hessians H_i at theta, theta - theta_f = a sum_i g_i -
    a^2 sum_{j < i} H_i g_j + O(a^3). Over random orders of the members, the mean of H_i g_j is half the gradient of
    g_i . g_j, so the step also increases the inner products of the members' gradients. With Adam, as published, this
    holds only heuristically. Implicit gradient regularisation has the same aim, with a coefficient of its own.

    The sub-groups are those of `GroupsInTurn`. The losses that a grouping observes are those before and after the whole
    step.

    Args:
        size: number of members of a sub-group, at least 1, unless the grouping splits them; the last may be smaller.
        config: options of the inner optimiser.
    """

    def __init__(self, size: int = 1, config: ReptileConfig = PUBLISHED_REPTILE) -> None:
        self._size, self._config = size, config

    def step(self, step: MemberStep) -> None:  # noqa: D102
        parameters, config = step.optimiser.parameters, self._config
        start = {name: value.detach().clone() for name, value in parameters.items()}
        inner = (Adam if config.optimiser == "adam" else GradientDescent)([*parameters.values()])
        try:
            for positions in _sub_groups(step, self._size):
                gradient = step.direction(positions).gradient
                inner.step([gradient[name] for name in parameters], config.learning_rate)
            way = {name: config.scale * (value - parameters[name].detach()) for name, value in start.items()}
        finally:
            with torch.no_grad():
                for name, value in start.items():
                    parameters[name].copy_(value)
        step.descend(way, range(len(step.members)))


def _sub_groups(step: MemberStep, size: int) -> Sequence[Sequence[int]]:
    """Positions of the members of each sub-group: those of the grouping, or else `size` members next to each other."""
    everyone = range(len(step.members))
    return step.sub_groups or [everyone[start : start + size] for start in everyone[::size]]


def lower_rates(name: UpdateName) -> str:
    """Remedy for a loss that is not finite under the update rule called `name`."""
    return "lower learning.learning_rate" + (" or learning.reptile.learning_rate" if name == "reptile" else "")


def build_update(name: UpdateName, size: int, reptile: ReptileConfig = PUBLISHED_REPTILE) -> UpdateRule:
    """Make the update rule called `name`; `size` is the size of its sub-groups, `reptile` has further options."""
    if name == "joint":
        return JointUpdate()
    return GroupsInTurn(size) if name == "in-turn" else Reptile(size, reptile)
