"""Groups of teachers that help each other, found while the meta-model learns.

Selective task group updates (Jeong and Yoon, ICLR 2025): the groups are updated in turn, and every update shows how a
group changes the losses of all tasks. This *proximal affinity* determines the next groups.

With L_j the loss of teacher j before an update along the gradients of a group G, and L'_j the loss on the same images
after it, the relative change is c_j = 1 - L'_j / L_j. The affinity from i in G to j is a_ij / |G|, where a_ij is

- c_j if j is not in G, or if c_i and c_j have the same sign;
- -max(c_i, c_j) if i and j are in G and the signs differ, since then one may gain at the expense of the other;
- max(c_i, 0) for i = j.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Literal, final

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from sklearn.cluster import AffinityPropagation
from torch import Tensor

from metazoo.errors import DataError, UsageError
from metazoo.taskspace.partitions import Grouping, Partition

_MOST_ITERATIONS = 1200
"""The published code tries again up to ten times, with 100 iterations more than the 200 of scikit-learn each."""


class AffinityConfig(BaseModel):
    """Options of groups that change while the meta-model learns. The defaults are published values, except `every`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    rate: float = Field(default=1e-3, gt=0, le=1, description="weight of a new observation; more for the first ones")
    warm_up_steps: int = Field(default=100, ge=0, description="steps in which every teacher is a group of its own")
    every: int = Field(default=10, ge=1, description="period of new groups, in steps; published: 1")
    together: Literal["helpful", "unlike"] = Field(
        default="helpful", description="helpful: teachers that lower each other's losses; unlike: the opposite, as TGR"
    )


@final
class SelectiveGrouping(Grouping):
    """Grouping by proximal affinity, for updates in turn; see the module.

    The members of a step are drawn from all teachers, and those of one group are a sub-group. So the teachers of
    different groups meet in a step, and the affinity between groups remains known.

    Affinity propagation forms the groups, after the columns of the affinities are divided by their diagonal and the
    matrix is made symmetric. The old groups remain if it does not converge. A teacher whose own updates have
    never lowered its loss, so that its column cannot be divided, is a group of its own.

    Deviations from the published code:

    - Losses are measured before and after the same update. The published code compares the losses in the passes before
      two updates and credits the effect of one group to the next.
    - A step has few of the teachers, so an update shows the affinities of few pairs. They are means of their own
      observations, weighted as by Adam's moments: the k-th weighs rate / (1 - (1 - rate)^k). Pairs without observations
      have the mean affinity of all others (published: every step shows all pairs).
    - Of a zoo with a single group, every step has one update (published: two).
    - New groups are formed every tenth step (published: every step), since affinities change slowly, and affinity
      propagation takes as long as half a step of a small meta-model where it does not converge.

    With N teachers and T of them in a step, a pair is observed in about T (T - 1) / (N (N - 1)) of the steps: 3 % for 4
    of 20 teachers. Use a longer warm-up for larger zoos.

    Args:
        count: number of teachers, at least 1.
        config: options of the affinity.
    """

    observes = True

    def __init__(self, count: int, config: AffinityConfig | None = None) -> None:
        if count < 1:
            raise UsageError("teachers", f"must be at least 1, not {count}")
        self._config = config or AffinityConfig()
        self._affinity = torch.zeros(count, count, dtype=torch.float64)
        self._counts = torch.zeros(count, count, dtype=torch.int64)
        self._labels = torch.arange(count)
        self._order = torch.arange(count)

    @property
    def affinity(self) -> Tensor:
        """Mean affinities from row to column, float64 [N, N]; 0 for pairs that were not observed."""
        return self._affinity.clone()

    @property
    def groups(self) -> tuple[tuple[int, ...], ...]:
        """Present groups, as indices of teachers."""
        return tuple(tuple((self._labels == label).nonzero().flatten().tolist()) for label in self._labels.unique())

    def draw(self, step: int, random: torch.Generator) -> Partition:
        """All teachers as one group; the sub-groups are formed anew and put into a random order."""
        since = step - self._config.warm_up_steps
        if since >= 0 and since % self._config.every == 0:
            self._regroup()
        self._order = torch.randperm(len(self._labels), generator=random)
        return Partition((tuple(range(len(self._labels))),), "selective")

    def sub_groups(self, members: Sequence[int]) -> tuple[tuple[int, ...], ...]:  # noqa: D102
        found: dict[int, list[int]] = {}
        for position, member in enumerate(members):
            found.setdefault(int(self._order[self._labels[member]]), []).append(position)
        return tuple(tuple(found[rank]) for rank in sorted(found))

    def observe(  # noqa: D102
        self, sources: Sequence[int], members: Sequence[int], losses_before: Tensor, losses_after: Tensor
    ) -> None:
        before, after = losses_before.double().cpu(), losses_after.double().cpu()
        change = 1 - after / before
        known = change.isfinite() & (before > 0)
        teachers, where = torch.tensor(members)[known].unique(return_inverse=True)
        change = torch.zeros(len(teachers), dtype=torch.float64).index_add(0, where, change[known])
        change /= where.bincount(minlength=len(teachers))
        inside = torch.isin(teachers, torch.tensor(sources))
        affinity = _affinities(change, inside) / len({*sources})
        pairs = teachers[inside].unsqueeze(1), teachers.unsqueeze(0)
        self._counts[pairs] += 1
        decays = self._counts[pairs] * torch.log1p(torch.tensor(-self._config.rate, dtype=torch.float64))
        weight = -self._config.rate / torch.expm1(decays)
        self._affinity[pairs] += weight * (affinity - self._affinity[pairs])

    def _regroup(self) -> None:
        own = self._affinity.diagonal()
        known = own > 0
        values = (self._affinity / own)[known][:, known]
        observed = (self._counts > 0)[known][:, known]
        pairs = observed.clone().fill_diagonal_(False)
        if not pairs.any():
            return
        values = torch.where(observed, values, values[pairs].mean())
        values = (values + values.T) / 2
        labels = _clusters((values if self._config.together == "helpful" else -values).numpy())
        if labels is None:
            return
        # Numbers of the groups up to N, different for every teacher outside.
        joined = torch.arange(len(own))
        joined[known] = known.nonzero().flatten()[torch.from_numpy(labels)]
        self._labels = joined

    def state(self) -> dict[str, Tensor]:  # noqa: D102
        return {"affinity": self._affinity, "counts": self._counts, "groups": self._labels}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:  # noqa: D102
        if not tensors:
            return
        own = self.state()
        fits = tensors.keys() == own.keys() and all(
            (value.shape, value.dtype) == (own[name].shape, own[name].dtype) for name, value in tensors.items()
        )
        if not fits or ((tensors["groups"] < 0) | (tensors["groups"] >= len(self._labels))).any():
            raise DataError("checkpoint", "groups of another strategy or of other teachers", "start the run again")
        self._affinity, self._counts, self._labels = (tensors[name].clone() for name in own)


def _affinities(change: Tensor, inside: Tensor) -> Tensor:
    """Affinities a_ij from the relative changes [T]; `inside` marks the group. Rows are its members, [|G|, T]."""
    sources, rows = change[inside].unsqueeze(1), inside.nonzero()
    opposed = (sources * change < 0) & inside
    affinity = torch.where(opposed, -torch.maximum(sources, change), change.expand(len(sources), -1))
    return affinity.scatter(1, rows, sources.clamp_min(0))


def _clusters(similarity: np.ndarray) -> np.ndarray | None:
    """Number of an exemplar for each item by affinity propagation; None if it does not converge."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no convergence, or equal similarities
        found = AffinityPropagation(affinity="precomputed", max_iter=_MOST_ITERATIONS, random_state=0).fit(similarity)
    if found.n_iter_ >= _MOST_ITERATIONS or (found.labels_ < 0).any():
        return None
    return found.cluster_centers_indices_[found.labels_]
