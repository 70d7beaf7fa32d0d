"""Replay: episodes from memory, through a learner, until they stop getting better."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from pydantic import BaseModel, ConfigDict, Field

from metazoo.errors import DataError
from metazoo.learn.episode_gradients import EpisodeGradients
from metazoo.learn.learners import Learner, LearnerName, build_learner
from metazoo.learn.memory import EpisodeMemory
from metazoo.learn.meta_optimiser import MetaOptimiser
from metazoo.run.randomness import generator


class ReplayRecipe(BaseModel):
    """How episodes are replayed. The defaults are those published with TGR (ICML 2024)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    learner: LearnerName = Field(default="maml", description="see `metazoo.learn.learners`")
    shots: int = Field(default=1, ge=1, description="support images a class; the papers train one model for each")
    queries: int = Field(default=15, ge=1, description="query images a class")
    inner_steps: int = Field(default=5, ge=1, description="gradient steps on the support set")
    inner_learning_rate: float = Field(default=0.01, gt=0)
    episodes_per_update: int = Field(default=16, ge=1)
    patience: int = Field(default=4, ge=1, description="updates without a better accuracy that end a replay")
    most_updates: int = Field(default=1000, ge=0, description="of one replay (published: no bound); 0 for no replay")
    slots: int = Field(default=20, ge=1, description="insertions that the memory keeps of each class")

    def build_learner(self) -> Learner:
        """The learner described."""
        return build_learner(self.learner, steps=self.inner_steps, learning_rate=self.inner_learning_rate)


@dataclass(frozen=True)
class ReplayReport:
    """Figures of one replay: updates made, and loss and accuracy (0 to 1) of the best one's episodes."""

    updates: int
    loss: float
    accuracy: float


def replay(
    gradients: EpisodeGradients,
    optimiser: MetaOptimiser,
    memory: EpisodeMemory,
    recipe: ReplayRecipe,
    seed: int,
    iteration: int,
    *,
    check: Callable[[], None] = lambda: None,
) -> ReplayReport:
    """Update the parameters of `optimiser` on batches of episodes from `memory`.

    Every update descends along the gradient of the summed losses of a batch. It ends once `patience` updates in a row
    brought no higher accuracy on the batch at hand than the best of this replay (published stopping rule). As long as
    the memory holds too few classes for an episode nothing happens.

    Args:
        gradients: of episodes, at the parameters that the optimiser holds.
        optimiser: shared with the other half of the meta-iteration, as published.
        memory: of recovered images.
        recipe: see there.
        seed: of the run.
        iteration: number of the meta-iteration, which the episodes are drawn by.
        check: called before every update.

    Raises:
        DataError: a loss is not finite.
    """
    ways = gradients.model.classifier.spec.classes
    if not memory.holds(ways, recipe.shots + recipe.queries):
        return ReplayReport(0, 0.0, 0.0)
    best = ReplayReport(0, 0.0, -1.0)
    updates = since_best = 0
    while since_best < recipe.patience and updates < recipe.most_updates:
        check()
        random = generator(seed, "replay", str(iteration), updates)
        episodes = [memory.draw(ways, recipe.shots, recipe.queries, random) for _ in range(recipe.episodes_per_update)]
        batch = gradients(episodes)
        if not bool(torch.isfinite(batch.loss)):
            raise DataError(
                f"the replay's loss is not finite in meta-iteration {iteration}; lower "
                "learning.learning_rate or learning.replay.inner_learning_rate"
            )
        optimiser.step(batch.gradient)
        updates += 1
        since_best += 1
        if batch.accuracy.item() > best.accuracy:
            best, since_best = ReplayReport(updates, batch.loss.item(), batch.accuracy.item()), 0
    return ReplayReport(updates, best.loss, max(best.accuracy, 0.0))
