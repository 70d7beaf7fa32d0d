"""The stage of automatic model selection: policy gradient on a small labelled validation set, so not data-free.

The automatic model selection of Hu, Wei, Shen, Wang, Wu, Yuan and Tao, Task-Distributionally Robust Data-Free
Meta-Learning (arXiv:2311.14756, code Egg-Hu/Trustworthy-DFML, method/taco6.py). There one scalar a model is learned by
REINFORCE with Adam at 0.1 from the accuracy on a few meta-validation episodes, and 4 models are drawn from the softmax
of the scalars. Deviations:

- A draw without replacement has its own probability, that of one choice after another among what is left
  (Plackett-Luce); published, the logarithms of 4 independent draws are added up.
- A draw is half of the zoo, the active teachers, and serves a few steps (published: 4 models, until the replay memory
  is refilled). These steps draw group and members among the active teachers, and reproduce the outputs of these alone.
  So a reward distinguishes one half of the models from the other, and a step still has many teachers; with draws of
  half a group the meta-model learned far less (docs/studies/trust.md).
- Every reward is measured on the same episodes, whose images pass as one batch (published: fresh episodes), so that
  a reward changes only because the meta-model did.
- The baseline is a moving mean that follows fast, and advantages are measured in their moving standard deviation
  (published: a mean over all refills, which begins at 40 %, whatever the number of classes).
- Only the user's validation set is seen, never one that a test uses, and the last meta-model is kept (published: the
  one that was best on test).
- Weights of `trust.mode: weigh` multiply those of the policy; what `drop` has dropped cannot be selected.
"""

import math
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from metazoo.data import EpisodeList, ImageSet, load_images
from metazoo.errors import RunError
from metazoo.execution.progress import message
from metazoo.learn.draw_policy import DrawPolicy
from metazoo.learn.group_learning import GroupLearner
from metazoo.learn.selecting_learner import SelectingLearner, accuracy_on
from metazoo.pipeline.layout import SELECTION, SELECTION_DATA
from metazoo.pipeline.workspace import Workspace
from metazoo.storage.run_folder import RunFolder
from metazoo.zoo import Zoo


class SelectionConfig(BaseModel):
    """How the draw of teachers is learned; without a validation set it is not, and the run is data-free."""

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
        """Record that a run keeps of them; it holds no image."""
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
    learner: GroupLearner, validation: Validation, teachers: int, weights: Tensor | None, seed: int
) -> SelectingLearner:
    """Make a learner whose active teachers are selected.

    Args:
        learner: learner from groups of teachers.
        validation: images and episodes of the rewards.
        teachers: number of teachers, N.
        weights: weights that multiply those of the policy, above 0, [N]; None if all are alike.
        seed: seed of the run.
    """
    config = validation.config
    policy = DrawPolicy(teachers, math.ceil(config.share * teachers), config.learning_rate, prior=weights)
    measure = accuracy_on(validation.images, validation.episodes)
    return SelectingLearner(learner, policy, measure, config.steps_per_draw, seed)


def record_selection(folder: RunFolder, zoo: Zoo, learner: SelectingLearner) -> None:
    """Write the probabilities that the policy has learned, and the accuracy reached."""
    policy = learner.policy
    rows = [
        {"model": contract.name, "probability": round(probability, 6), "preference": round(preference, 6)}
        for contract, probability, preference in zip(
            zoo, policy.probabilities.tolist(), policy.preferences.tolist(), strict=True
        )
    ]
    validation = {**folder.read_json(SELECTION_DATA), "accuracy": round(learner.accuracy, 3)}
    folder.write_json(SELECTION, {"format_version": 1, "models": rows, "validation": validation})
