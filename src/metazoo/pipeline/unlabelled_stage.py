"""The stages that copy unlabelled images of the user into a run, and label them by the models of the zoo.

A run that uses them is label-free but not data-free. The copies are deleted when the run has finished; hashes of the
originals stay, so that an evaluation on the same images is noticed.

Without recovered images, each model is embedded in the task space by the images that it is most confident about, with
the classes that it predicts. With `weighting: confidence`, a model's share of the learning uses the images that it
recognises, from each of its classes alike (balancing and confidence are the idea of arXiv:2607.02850, of which only the
abstract was available; this is not a reproduction).
"""

import contextlib
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from metazoo.bank import Bank, ResidentBank, SharedImages
from metazoo.data import UnlabelledImages
from metazoo.data.images import evenly_of_each, first_of_each
from metazoo.execution.compute import CPU, Compute
from metazoo.execution.process_memory import give_back_memory
from metazoo.execution.progress import message
from metazoo.pipeline.layout import LABELLED, PREDICTIONS, UNLABELLED, UNLABELLED_IMAGES
from metazoo.pipeline.learning_stage import teacher_targets
from metazoo.pipeline.stage_plan import PlanContext, StagePlan, UnitCost
from metazoo.pipeline.workspace import Workspace
from metazoo.recover import RecoveryBudget
from metazoo.zoo import Zoo, ZooReference

_IMAGES_OF_PART, _TIMED_IMAGES = 1000, 16
_MOST_WEIGHT = 10.0
"""Most weight of an image, relative to the mean, so that the few images of a rare class are not drawn all the time."""


class UnlabelledConfig(BaseModel):
    """Use of unlabelled images, in a run that is given some.

    With a share of 1, no image is recovered. Then trust is not estimated, and all models count as one domain.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    share: float = Field(
        default=1.0, gt=0, le=1, description="share of unlabelled images among all; 1: no image is recovered"
    )
    weighting: Literal["none", "confidence"] = Field(
        default="none",
        description="confidence: a model's images are drawn by its confidence, from each of its classes alike",
    )
    images: int = Field(default=20_000, ge=2, description="most unlabelled images, drawn at random")


def copy_unlabelled(workspace: Workspace, config: UnlabelledConfig, side: int) -> Bank | None:
    """Copy the unlabelled images into the run once, at `side` pixels; None if the run has none.

    Raises:
        DataError: an image cannot be read; its file is named.
        ArtefactError: the run folder cannot be written.
    """
    folder, source = workspace.folder, workspace.unlabelled
    if not folder.has(UNLABELLED):
        if source is None:
            return None
        # What an interrupted call left may be copies of images that have changed since.
        shutil.rmtree(folder.path / UNLABELLED_IMAGES, ignore_errors=True)
        bank, hashes = Bank.create(folder.path / UNLABELLED_IMAGES), list[str]()
        chosen = source.choose(config.images, workspace.seed)
        if source.has_labels:
            message("note: the labels of the unlabelled images are ignored")
        parts = chosen.split(_IMAGES_OF_PART)
        with workspace.progress_of("unlabelled images", len(parts)) as advance:
            for number, part in enumerate(parts):
                images, own = source.read(part, side)
                bank.add(f"part-{number:06d}", 0, 0, images, torch.zeros(len(images), dtype=torch.int64))
                hashes += own
                advance()
        record = {"format_version": 1, "images": len(hashes), "side": side, **config.model_dump(exclude={"images"})}
        folder.write_json(UNLABELLED, {**record, "sha256": hashes})
    return Bank.open(folder.path / UNLABELLED_IMAGES)


@dataclass(frozen=True)
class _Labelling:
    """A unit of work: the classes that one model predicts for all unlabelled images."""

    zoo: ZooReference
    bank: Path
    side: int
    compute: Compute


def _labels(unit: _Labelling) -> tuple[Tensor, Tensor]:
    """Predicted classes, int32 [n], and confidences, float32 [n]: 0 for equal probabilities, 1 for certainty."""
    (name, _), device = unit.zoo.models[0], unit.compute.device
    targets = teacher_targets([unit.zoo.open().teacher(name).to(device)], unit.compute)
    bank = Bank.open(unit.bank)
    images = ResidentBank.load(bank, bank.teachers, unit.side).to(device)
    labels, confidences = [], []
    with torch.no_grad():
        for part in images.in_parts(torch.arange(len(images))):
            probabilities = targets(images.pixels(part))[1].float().softmax(1).cpu()
            most, own = probabilities.max(1)
            chance = 1 / probabilities.shape[1]
            labels.append(own.int())
            confidences.append(((most - chance) / max(1 - chance, 1e-6)).clamp(0, 1))
    give_back_memory(torch.device(device))
    return torch.cat(labels), torch.cat(confidences)


def predictions_of(workspace: Workspace, bank: Bank, side: int) -> tuple[Tensor, Tensor]:
    """Predicted classes and confidences of all models of a workspace for the unlabelled images, [models, n] each."""
    folder, zoo = workspace.folder, workspace.zoo
    if not folder.has(PREDICTIONS):
        path = bank.folder.absolute()
        units = [_Labelling(zoo.reference(contract), path, side, workspace.compute) for contract in zoo]
        results = workspace.executor.map(
            _labels,
            units,
            name_of=lambda unit: f"the labels of model {unit.zoo.models[0][0]!r}",
            threads=torch.get_num_threads(),
            short=True,
            check=workspace.check,
        )
        found: dict[int, tuple[Tensor, Tensor]] = {}
        with workspace.progress_of("labels", len(units)) as advance, contextlib.closing(results):
            for index, result in results:
                found[index] = result
                advance()
        labels, confidences = zip(*(found[index] for index in range(len(units))), strict=True)
        folder.write_tensors(PREDICTIONS, {"labels": torch.stack(labels), "confidences": torch.stack(confidences)})
    tensors = folder.read_tensors(PREDICTIONS)
    return tensors["labels"].long(), tensors["confidences"]


def shared_images(workspace: Workspace, bank: Bank, config: UnlabelledConfig, side: int) -> SharedImages:
    """Unlabelled images for learning; the models see them at `side` pixels where their labels are needed."""
    if config.weighting == "none":
        return SharedImages(bank, config.share)
    chances = {
        contract.name: draw_weights(own, confidences).cumsum(0)
        for contract, own, confidences in zip(workspace.zoo, *predictions_of(workspace, bank, side), strict=True)
    }
    return SharedImages(bank, config.share, {name: sums / sums[-1] for name, sums in chances.items()})


def draw_weights(labels: Tensor, confidences: Tensor) -> Tensor:
    """Weights of images in the draw for one model, float64 [n]: its confidence, from each predicted class alike.

    No image weighs more than ten times the mean, so a class of few images counts less than others.

    Args:
        labels: predicted classes, int64 [n].
        confidences: confidences in [0, 1], [n].
    """
    confidences = confidences.double()
    totals = torch.zeros(int(labels.max()) + 1, dtype=torch.float64).index_add(0, labels, confidences)
    weights = confidences / totals[labels].clamp(min=torch.finfo(torch.float64).tiny)
    mean = weights.mean()
    return weights.clamp(max=_MOST_WEIGHT * mean) if mean > 0 else torch.ones_like(weights)


def labelled_by_models(workspace: Workspace, bank: Bank, budget: RecoveryBudget, side: int) -> Bank:
    """Bank with the unlabelled images that each model is most confident about, and the classes that it predicts.

    A model gets at most as many images of a class, and in all, as would be recovered from it.
    """
    found = Bank.open_or_create(workspace.folder.path / LABELLED)
    if all(found.has(contract.name, 0, 0) for contract in workspace.zoo):
        return found
    images = ResidentBank.load(bank, bank.teachers, side).images
    for contract, labels, confidences in zip(workspace.zoo, *predictions_of(workspace, bank, side), strict=True):
        if not found.has(contract.name, 0, 0):
            kept = most_confident(labels, confidences, budget.images_per_class, budget.classes_per_teacher)
            found.add(contract.name, 0, 0, images[kept], labels[kept])
            workspace.check()
    return found


def most_confident(labels: Tensor, confidences: Tensor, images_per_class: int, classes: int) -> Tensor:
    """Indices (int64, by class) of the most confident images of each predicted class.

    Args:
        labels: predicted classes, int64 [n].
        confidences: confidences, [n].
        images_per_class: most images of a class.
        classes: number of classes; the result has at most `images_per_class` times `classes` images.
    """
    order = confidences.argsort(descending=True, stable=True)
    kept = order[first_of_each(labels[order], images_per_class)]
    return kept[evenly_of_each(labels[kept], images_per_class * classes)]


def unlabelled_plans(
    zoo: Zoo, config: UnlabelledConfig, source: UnlabelledImages, side: int, *, labels: bool
) -> list[StagePlan]:
    """Plan the copy of unlabelled images at `side` pixels and, with `labels`, the predictions of all models."""
    count = min(config.images, source.count)
    copy = StagePlan("unlabelled images", "image", count, _Reading(source, side), disk=1.1 * 3 * side**2 * count)
    labelling = StagePlan("unlabelled images", "label", count * len(zoo), _LabelTime(side, len(zoo)), len(zoo))
    return [copy, *([labelling] if labels else [])]


@dataclass(frozen=True)
class _Reading:
    """Timing of the reading of one image."""

    source: UnlabelledImages
    side: int

    def __call__(self, context: PlanContext) -> UnitCost:
        some = self.source.choose(_TIMED_IMAGES, 0)
        start = time.process_time()
        self.source.read(some, self.side)
        return UnitCost((time.process_time() - start) / len(some))


@dataclass(frozen=True)
class _LabelTime:
    """Timing of the class that one model predicts for one image."""

    side: int
    models: int

    def __call__(self, context: PlanContext) -> UnitCost:
        targets = teacher_targets(context.teachers, CPU)
        images = torch.rand(_TIMED_IMAGES, 3, self.side, self.side, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            targets(images)
            start = time.process_time()
            targets(images)
        return UnitCost((time.process_time() - start) / torch.get_num_threads() / len(images) / self.models)
