"""Recovered images that may not be shown or kept; see `ModelContract.recovered_images`."""

from metazoo.bank import Bank
from metazoo.pipeline.layout import BANK, REPORT, sheet_of
from metazoo.pipeline.workspace import Workspace


def hide_images(workspace: Workspace) -> None:
    """Delete the contact sheets that may not be, such as those from before a contract was changed.

    The report in the run folder goes with them, which may show what they show.

    Raises:
        ArtefactError: one cannot be deleted.
    """
    shown = {contract.name for contract in workspace.shown}
    sheets = [sheet_of(contract.name) for contract in workspace.zoo if contract.name not in shown]
    forbidden = [sheet for sheet in sheets if (workspace.folder.path / sheet).exists()]
    for name in [REPORT, *forbidden] if forbidden else []:
        workspace.folder.delete(name)


def discard_images(workspace: Workspace) -> None:
    """Delete the images of a finished run that may not be kept; a run needs them until then, to be resumed.

    Raises:
        ArtefactError: the bank is damaged, or a file cannot be deleted.
    """
    discarded = [contract.name for contract in workspace.zoo if contract.recovered_images == "discard"]
    if discarded:
        bank = Bank.open(workspace.folder.path / BANK)
        for name in discarded:
            bank.discard(name)
