"""The stage that fills the bank: recovery of images, or another source of images to compare it with."""

import torch
from torch import Tensor

from metazoo.bank import Bank
from metazoo.bank.contact_sheet import contact_sheet
from metazoo.data import ImageSet, load_images
from metazoo.data.images import draw_of_each
from metazoo.errors import RunError, UsageError
from metazoo.execution.progress import message
from metazoo.execution.randomness import generator
from metazoo.pipeline.layout import BANK, HEALTH, sheet_of
from metazoo.pipeline.shared_config import ImageSourceConfig
from metazoo.pipeline.workspace import Workspace
from metazoo.recover import GeneratorConfig, RecoveryBudget, RecoveryConfig, health_rows, health_warning, recover_zoo


def recover_images(workspace: Workspace, config: RecoveryConfig | GeneratorConfig, budget: RecoveryBudget) -> Bank:
    """Recover every teacher once; health figures, and contact sheets of what may be shown, go beside the bank."""
    folder = workspace.folder
    bank = Bank.open_or_create(folder.path / BANK)
    recover_zoo(
        workspace.zoo,
        bank,
        config,
        budget,
        workspace.seed,
        executor=workspace.executor,
        compute=workspace.compute,
        check=workspace.check,
        progress=workspace.progress,
    )
    if not folder.has(HEALTH):
        rows = health_rows(bank)
        for contract in workspace.shown:
            images, labels = bank.images_of(contract.name)
            row = next(row for row in rows if row.teacher == contract.name)
            contact_sheet(
                folder.path / sheet_of(contract.name),
                images,
                labels,
                contract.class_names,
                title=contract.name,
                note=f"{row.images} images recovered; the model itself recognises {100 * row.agreement:.0f} %",
            )
        warning = health_warning(rows)
        if warning is not None:
            message(f"warning: {warning}")
        folder.record(*(sheet_of(contract.name) for contract in workspace.shown))
        folder.write_json(HEALTH, {"format_version": 1, "teachers": [vars(row) for row in rows], "warning": warning})
    return bank


def images_from(
    source: ImageSourceConfig, workspace: Workspace, recovery: RecoveryConfig, budget: RecoveryBudget
) -> Bank:
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
