"""Deletion of recovered images that may not be shown or kept, and of copies of unlabelled images.

For recovered images see `ModelContract.recovered_images`. No copy of an unlabelled image outlives the run.
"""

import shutil

from metazoo.bank import Bank
from metazoo.errors import ArtefactError
from metazoo.pipeline.layout import BANK, PREDICTIONS, REPORT, UNLABELLED_FOLDER, sheet_of
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

    These are the copies of unlabelled images, and the recovered images of models whose contract requires it.

    Raises:
        ArtefactError: the bank is damaged, or a file cannot be deleted.
    """
    folder = workspace.folder
    copies = folder.path / UNLABELLED_FOLDER
    if copies.exists():
        try:
            shutil.rmtree(copies)
        except OSError as error:
            raise ArtefactError(copies, f"cannot be deleted: {error.strerror}", "delete it yourself") from error
    if (folder.path / PREDICTIONS).exists():  # not in the manifest if an earlier call was killed
        folder.delete(PREDICTIONS)
    discarded = [contract.name for contract in workspace.zoo if contract.recovered_images == "discard"]
    if discarded and (folder.path / BANK).exists():  # not every run recovers images
        bank = Bank.open(folder.path / BANK)
        for name in discarded:
            bank.discard(name)
