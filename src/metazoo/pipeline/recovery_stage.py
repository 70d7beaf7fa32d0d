"""The stage that recovers images from every teacher into the bank."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel

from metazoo.bank import Bank
from metazoo.bank.contact_sheet import contact_sheet
from metazoo.execution.progress import message
from metazoo.pipeline.layout import BANK, HEALTH, sheet_of
from metazoo.pipeline.workspace import Workspace
from metazoo.recover import GeneratorConfig, RecoveryBudget, RecoveryConfig, health_rows, health_warning, recover_zoo
from metazoo.storage.artefacts import cannot_write


def recovery_options(options: BaseModel) -> dict[str, BaseModel]:
    """Options that determine the recovered images of a run, besides zoo and seed, by name; empty if it recovers none.

    Args:
        options: options of a method. Its section `recovery` holds those of recovery, unless it has an attribute
            `used_recovery`.
    """
    recovery = getattr(options, "used_recovery", getattr(options, "recovery", None))
    found = {"recovery": recovery, "budget": getattr(options, "budget", None)}
    return {name: value for name, value in found.items() if isinstance(value, BaseModel)} if recovery else {}


def copy_images(workspace: Workspace, other: Path, generation: int = 0) -> None:
    """Copy one generation of the recovered images of the run folder `other`, except discarded ones.

    Later generations are not the images that a recovery makes; see `metazoo.pipeline.curriculum_stage`.

    Raises:
        ArtefactError: the images are missing, damaged or cannot be copied.
    """
    source, target = Bank.open(other / BANK), Bank.open_or_create(workspace.folder.path / BANK).folder
    for name in source.teachers:
        if (target / name).exists() or source.is_discarded(name):
            continue
        workspace.check()
        source.images_of(name, generation)  # compares the hashes
        partial = target / f".{name}.{os.getpid()}.tmp"
        try:
            shutil.copytree(source.folder / name, partial, ignore=_all_but(f"generation-{generation:04d}"))
            partial.rename(target / name)
        except OSError as error:
            raise cannot_write(target / name, error) from error


def _all_but(prefix: str) -> Callable[[object, list[str]], list[str]]:
    return lambda _, names: [name for name in names if not name.startswith(prefix)]


def recover_images(
    workspace: Workspace,
    config: RecoveryConfig | GeneratorConfig,
    budget: RecoveryBudget,
    remedy: str = "raise recovery.iterations",
) -> Bank:
    """Recover images from every teacher once, and write health figures and the permitted contact sheets.

    Args:
        workspace: run at work; its zoo has the teachers.
        config: options of the recovery.
        budget: numbers of images and classes.
        remedy: remedy of a warning about poor images.
    """
    bank = Bank.open_or_create(workspace.folder.path / BANK)
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
    if not workspace.folder.has(HEALTH):
        record_health(workspace, bank, remedy)
    return bank


def record_health(workspace: Workspace, bank: Bank, remedy: str) -> None:
    """Write health figures and the permitted contact sheets of the latest images of every teacher in a bank."""
    folder, rows = workspace.folder, health_rows(bank)
    pictured = [contract for contract in workspace.shown if contract.name in bank.teachers]
    for contract in pictured:
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
    warning = health_warning(rows, remedy)
    if warning is not None:
        message(f"warning: {warning}")
    folder.record(*(sheet_of(contract.name) for contract in pictured))
    folder.write_json(HEALTH, {"format_version": 1, "teachers": [vars(row) for row in rows], "warning": warning})
