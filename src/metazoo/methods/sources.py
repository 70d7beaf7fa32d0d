"""Where the images of a run come from: recovery, or one of the sources that it is compared with."""

import torch
from torch import Tensor

from metazoo.bank import Bank
from metazoo.data import ImageSet, load_images
from metazoo.data.images import draw_of_each
from metazoo.errors import RunError, UsageError
from metazoo.methods.recipes import SourceRecipe
from metazoo.methods.stages import BANK, recover_images
from metazoo.methods.workspace import Workspace
from metazoo.recover import RecoveryBudget, RecoveryRecipe
from metazoo.run.progress import message
from metazoo.run.randomness import generator


def images_from(source: SourceRecipe, workspace: Workspace, recovery: RecoveryRecipe, budget: RecoveryBudget) -> Bank:
    """Fill the bank, as many images a class of every teacher as the budget says.

    Raises:
        UsageError: the data set of real images lacks a class of a teacher.
        RunError: it is another one than the run began with.
    """
    if source.kind == "images":
        assert source.data is not None
        return _copy_real_images(workspace, source.data, budget)
    if source.kind != "recovered":
        recovery = recovery.model_copy(update={"canvas": source.kind, "iterations": 0})
    return recover_images(workspace, recovery, budget)


def _copy_real_images(workspace: Workspace, data: str, budget: RecoveryBudget) -> Bank:
    bank = Bank.open_or_create(workspace.folder.path / BANK)
    if all(bank.has(contract.name, budget.generation, 0) for contract in workspace.zoo):
        return bank
    message(f"learning from real images of {data}: this run is a study and not data-free")
    images = load_images(data)
    begun = [contract.name for contract in workspace.zoo if bank.has(contract.name, budget.generation, 0)]
    if any(bank.made_with(name, budget.generation)["data_sha256"] != images.sha256 for name in begun):
        raise RunError(
            f"the images of source.data, {data}, have changed since {workspace.folder.path} was begun; give the former "
            "ones, or choose another folder"
        )
    for contract in workspace.zoo:
        workspace.check()
        if not bank.has(contract.name, budget.generation, 0):
            chosen = _images_of(images, contract.class_names, budget.images_per_class, workspace.seed, contract.name)
            settings = {"source": "images", "data_sha256": images.sha256, "seed": workspace.seed}
            bank.add(contract.name, budget.generation, 0, *chosen, made_with=settings)
    return bank


def _images_of(
    images: ImageSet, class_names: tuple[str, ...], per_class: int, seed: int, teacher: str
) -> tuple[Tensor, Tensor]:
    """Up to `per_class` images of each class, drawn by seed, and their local labels."""
    missing = next((name for name in class_names if name not in images.class_names), None)
    if missing is not None:
        raise UsageError(
            f"{images.name} has no class {missing!r} of model {teacher!r}; give the data it was trained on"
        )
    random = generator(seed, "real images", teacher)
    places = draw_of_each(images.labels, [images.class_names.index(name) for name in class_names], per_class, random)
    labels = torch.arange(len(places)).repeat_interleave(torch.tensor([len(own) for own in places]))
    return images.images[torch.cat(places)], labels
