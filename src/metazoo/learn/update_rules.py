"""Update rules of one step of learning: one update along the direction of all members, or several updates.

Groups in turn are the update of Selective Task Group Updates (Jeong and Yoon, ICLR 2025). A rule may also move the
parameters by an optimiser of its own, restore them, and descend along the difference, like Reptile (Nichol et al. 2018)
and the inner loop of FREE (Wei et al., CVPR 2024).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from metazoo.learn.meta_optimiser import MetaOptimiser
from metazoo.learn.regularisers import Direction, Parameters
from metazoo.taskspace import Grouping

UpdateName = Literal["joint", "in-turn"]
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
        parts = [everyone[start : start + self._size] for start in everyone[:: self._size]]
        for positions in step.sub_groups or parts:
            direction = step.direction(positions)
            known = direction.losses if [*positions] == [*everyone] else losses
            losses = step.descend(direction.gradient, positions, known)


def build_update(name: UpdateName, size: int) -> UpdateRule:
    """Make the update rule called `name`; `size` is the size of sub-groups in turn."""
    return JointUpdate() if name == "joint" else GroupsInTurn(size)
