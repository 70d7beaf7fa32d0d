"""Automatic selection of models by policy gradient, on a small labelled validation set: no longer free of data.

The automatic model selection of Hu, Wei, Shen, Wang, Wu, Yuan and Tao, Task-Distributionally Robust Data-Free
Meta-Learning (arXiv:2311.14756, code Egg-Hu/Trustworthy-DFML, method/taco6.py). There one scalar a model is learned by
REINFORCE with Adam at 0.1 from the accuracy on a few meta-validation episodes, and 4 models are drawn from the softmax
of the scalars. Deviations:

- A draw without replacement has its own probability, that of one choice after another among what is left
  (Plackett-Luce); published, the logarithms of 4 independent draws are added up.
- A draw is half of the zoo and serves a few steps (published: 4 models, until the replay memory is refilled). Every one
  of them draws its group and members as ever, but among those models, and asks for what these say alone. So a reward
  tells one half of the models from the other, and a step still has many teachers; with draws of half a group the
  meta-model learned far less (docs/studies/trust.md).
- The episodes of the rewards are the same ones every time, and their images pass as one batch (published: fresh
  episodes), so that a reward changes only because the meta-model did.
- The baseline is a moving mean that follows fast, and advantages are measured in their moving standard deviation
  (published: a mean over all refills, which begins at 40 %, whatever the number of classes).
- Only the user's validation set is seen, never one that a test uses, and the last meta-model is kept (published: the
  one that was best on test).
- Weights of `trust.mode: weigh` multiply those of the policy; what `drop` has dropped cannot be selected.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from metazoo.data import EpisodeList, ImageSet, load_images
from metazoo.errors import RunError
from metazoo.execution.progress import message
from metazoo.learn.draw_policy import DrawPolicy
from metazoo.learn.group_learning import DrawGroup, GroupLearner
from metazoo.learn.selecting_learner import SelectingLearner, accuracy_on
from metazoo.pipeline.layout import SELECTION, SELECTION_DATA
from metazoo.pipeline.workspace import Workspace
from metazoo.storage.run_folder import RunFolder
from metazoo.taskspace import Partition, draw_members
from metazoo.zoo import Zoo


class SelectionConfig(BaseModel):
    """How the draw of teachers is learned; with no validation set it is not, and the run is free of data."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    validation: str | None = Field(
        default=None, description="small labelled set that no test will use: an .npz pack, a folder, ...; null: none"
    )
    ways: int = Field(default=5, ge=2, description="classes of a validation episode")
    shots: int = Field(default=5, ge=1, description="support images a class")
    queries: int = Field(default=10, ge=1, description="query images a class")
    episodes: int = Field(default=8, ge=1, description="that accuracy is measured on, the same ones every time")
    share: float = Field(default=0.5, gt=0, lt=1, description="of the models that a draw takes, rounded up")
    steps_per_draw: int = Field(default=5, ge=1, description="steps that one draw serves, until it is rewarded")
    learning_rate: float = Field(default=0.1, gt=0, description="of Adam on the preferences")


class Validation:
    """The images and episodes of the rewards."""

    def __init__(self, config: SelectionConfig, images: ImageSet, seed: int) -> None:
        self.config, self.images = config, images
        self.episodes = EpisodeList.draw(images, config.ways, config.shots, config.queries, config.episodes, seed)

    @classmethod
    def load(cls, config: SelectionConfig, side: int, seed: int) -> "Validation | None":
        """Read the images at `side` pixels and draw the episodes; None if the config names none.

        Raises:
            UsageError: there is no such set, or it is too small for the episodes asked for.
            DataError: a file of it cannot be used.
        """
        if config.validation is None:
            return None
        return cls(config, load_images(config.validation, side=side), seed)

    def as_record(self) -> dict[str, Any]:
        """What a run keeps of them: no image."""
        return {
            "format_version": 1,
            "source": self.config.validation,
            "sha256": self.images.sha256,
            "images": len(self.images),
            "classes": list(self.images.class_names),
            "episodes_sha256": self.episodes.sha256,
        }


def load_validation(workspace: Workspace, config: SelectionConfig, side: int) -> Validation | None:
    """Read the validation set at `side` pixels, and record it; None if there is none.

    Call it before the hours that come before its use.

    Raises:
        UsageError, DataError: as `Validation.load`.
        RunError: the run was begun with other images.
    """
    validation = Validation.load(config, side, workspace.seed)
    if validation is None:
        return None
    folder, record = workspace.folder, validation.as_record()
    if not folder.has(SELECTION_DATA):
        message(f"selecting models by labelled images of {config.validation}: this run is not data-free")
        folder.write_json(SELECTION_DATA, record)
    elif folder.read_json(SELECTION_DATA)["episodes_sha256"] != record["episodes_sha256"]:
        raise RunError(
            f"the images of selection.validation, {config.validation}, have changed since {folder.path} was begun; "
            "give the former ones, or choose another folder"
        )
    return validation


def selecting_learner(
    learner: Callable[[DrawGroup], GroupLearner],
    validation: Validation,
    grouping: Partition,
    teachers_per_step: int,
    weights: Tensor | None,
    seed: int,
) -> SelectingLearner:
    """A learner whose teachers are selected.

    Args:
        learner: makes it from what draws the teachers of a step.
        validation: that rewards.
        grouping: of the teachers.
        teachers_per_step: at most.
        weights: of the teachers from the first, above 0, [N]; None if all are alike.
        seed: of the run.
    """
    config, count = validation.config, sum(map(len, grouping.groups))

    def draw_among(heard: Sequence[int], random: torch.Generator) -> tuple[int, ...]:
        parts = [tuple(member for member in members if member in heard) for members in grouping.groups]
        left = dataclasses.replace(grouping, groups=tuple(filter(None, parts)))
        return draw_members(left, teachers_per_step, random)[1]

    policy = DrawPolicy(count, math.ceil(config.share * count), config.learning_rate, prior=weights)
    measure = accuracy_on(validation.images, validation.episodes)
    return SelectingLearner(learner, draw_among, policy, measure, config.steps_per_draw, seed)


def record_selection(folder: RunFolder, zoo: Zoo, learner: SelectingLearner) -> None:
    """Say what became of the policy."""
    policy = learner.policy
    rows = [
        {"model": contract.name, "probability": round(probability, 6), "preference": round(preference, 6)}
        for contract, probability, preference in zip(
            zoo, policy.probabilities.tolist(), policy.preferences.tolist(), strict=True
        )
    ]
    validation = {**folder.read_json(SELECTION_DATA), "accuracy": round(learner.accuracy, 3)}
    folder.write_json(SELECTION, {"format_version": 1, "models": rows, "validation": validation})
