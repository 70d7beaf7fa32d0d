"""How the parameters move in one step of learning: once along the direction of all members, or several times.

Groups in turn are the update of Selective Task Group Updates (Jeong and Yoon, ICLR 2025). A rule may also move the
parameters by itself, by an optimiser of its own, put them back and descend along the way they went, as Reptile
(Nichol et al. 2018) does and the inner loop of FREE (Wei et al., CVPR 2024).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Literal, final

import torch
from torch import Tensor

from metazoo.learn.meta_optimiser import MetaOptimiser
from metazoo.learn.regularisers import Direction, Parameters
from metazoo.taskspace import Grouping

UpdateName = Literal["joint", "in-turn"]
Figures = tuple[Tensor, Tensor, Tensor, Tensor]


@final
class MemberStep:
    """One step of a learner, to be carried out by an update rule.

    Args:
        members: indices of the teachers that the step learns from, [T].
        direct: function that gives the direction of the members at some positions, valid until its next call.
        losses: function that gives the losses of all members at the present parameters, [T], without gradient.
        optimiser: optimiser of the parameters.
        learning_rate: learning rate of this step; None: that of the optimiser.
        grouping: grouping that may observe the losses before and after each update; None: there is none.

    Attributes:
        members: indices of the teachers that the step learns from, [T].
        optimiser: optimiser of the parameters; a rule that moves them itself puts them back before `descend`.
    """

    def __init__(
        self,
        members: Sequence[int],
        direct: Callable[[Sequence[int]], Direction],
        losses: Callable[[], Tensor],
        optimiser: MetaOptimiser,
        *,
        learning_rate: float | None = None,
        grouping: Grouping | None = None,
    ) -> None:
        self.members, self.optimiser = tuple(members), optimiser
        self._direct, self._losses, self._learning_rate = direct, losses, learning_rate
        self._grouping = grouping if grouping is not None and grouping.observes else None
        self._figures: list[Figures] = []

    def direction(self, positions: Sequence[int]) -> Direction:
        """Direction of the members at `positions` (0 to T - 1), at the present parameters; valid until the next call.

        Raises:
            DataError: a loss is not finite.
        """
        found = self._direct(positions)
        # Copies, since the next direction may be played back into the same tensors.
        self._figures.append(
            (found.losses.clone(), found.agreement.clone(), found.disagreement.clone(), found.relative_change.clone())
        )
        return found

    def descend(self, gradient: Parameters, positions: Sequence[int], losses: Tensor | None = None) -> Tensor | None:
        """Take one step of the optimiser along `gradient`, which comes from the members at `positions`.

        Args:
            gradient: gradients by parameter name.
            positions: 0 to T - 1.
            losses: losses of all members at the present parameters, [T]; None if they are not known.

        Returns:
            The losses of all members after the step, [T]; None if the grouping does not observe them.
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
        """Mean loss, agreement, disagreement and relative change over all directions asked for, of no dimension."""
        losses, *others = zip(*self._figures, strict=True)
        agreement, disagreement, change = (torch.stack(values).mean() for values in others)
        return torch.cat(losses).mean(), agreement, disagreement, change


class UpdateRule(ABC):
    """A way to move the parameters in one step. It has no state between steps."""

    @abstractmethod
    def step(self, step: MemberStep) -> None:
        """Ask `step` for directions of its members and descend along them."""


@final
class JointUpdate(UpdateRule):
    """One update along the direction of all members."""

    def step(self, step: MemberStep) -> None:  # noqa: D102
        everyone = range(len(step.members))
        direction = step.direction(everyone)
        step.descend(direction.gradient, everyone, direction.losses)


@final
class GroupsInTurn(UpdateRule):
    """One update for each sub-group of the members, in the order in which they were drawn.

    Regularisation acts within a sub-group; the mean gradient of a single member is its own.

    Args:
        size: members of a sub-group, at least 1; the last one may be smaller.
    """

    def __init__(self, size: int = 1) -> None:
        self._size = size

    def step(self, step: MemberStep) -> None:  # noqa: D102
        losses = None
        for start in range(0, len(step.members), self._size):
            positions = range(len(step.members))[start : start + self._size]
            direction = step.direction(positions)
            known = direction.losses if len(positions) == len(step.members) else losses
            losses = step.descend(direction.gradient, positions, known)


def build_update(name: UpdateName, size: int) -> UpdateRule:
    """The update rule of that name; `size` is that of the sub-groups in turn."""
    return JointUpdate() if name == "joint" else GroupsInTurn(size)
