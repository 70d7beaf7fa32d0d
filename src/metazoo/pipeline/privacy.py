"""Deletion of recovered images that may not be shown or kept; see `ModelContract.recovered_images`."""

from metazoo.bank import Bank
from metazoo.pipeline.layout import BANK, REPORT, sheet_of
from metazoo.pipeline.workspace import Workspace


def hide_images(workspace: Workspace) -> None:
    """Delete contact sheets that may not be shown, such as those made before a contract was changed.

    The report in the run folder may contain them and is deleted too.

    Raises:
        ArtefactError: a file cannot be deleted.
    """
    shown = {contract.name for contract in workspace.shown}
    sheets = [sheet_of(contract.name) for contract in workspace.zoo if contract.name not in shown]
    forbidden = [sheet for sheet in sheets if (workspace.folder.path / sheet).exists()]
    for name in [REPORT, *forbidden] if forbidden else []:
        workspace.folder.delete(name)


def discard_images(workspace: Workspace) -> None:
    """Delete the images that may not be kept after a run; until it is finished, they are needed to resume it.

    Raises:
        ArtefactError: the bank is damaged, or a file cannot be deleted.
    """
    discarded = [contract.name for contract in workspace.zoo if contract.recovered_images == "discard"]
    if discarded and (workspace.folder.path / BANK).exists():  # not every method recovers images
        bank = Bank.open(workspace.folder.path / BANK)
        for name in discarded:
            bank.discard(name)
