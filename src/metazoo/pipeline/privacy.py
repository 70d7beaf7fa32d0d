"""Deletion of recovered images that may not be shown or kept, and of copies of unlabelled images.

For recovered images see `ModelContract.recovered_images`. No copy of an unlabelled image outlives the run.
"""

import shutil

from metazoo.bank import Bank
from metazoo.choices import PERMISSIONS
from metazoo.errors import ArtefactError
from metazoo.pipeline.layout import BANK, CLASSES, PREDICTIONS, REPORT, UNLABELLED_FOLDER, sheet_of
from metazoo.pipeline.workspace import Workspace


def _permissions(workspace: Workspace) -> dict[str, str]:
    """Permission of the images stored for each model: that of its contract, or of a stricter one that shares them.

    Images that several models were inverted into are stored for models whose contract is as strict as any of these. A
    contract may have become stricter since.
    """
    folder, zoo = workspace.folder, workspace.zoo
    found: dict[str, str] = {contract.name: contract.recovered_images for contract in zoo}
    if not folder.has(CLASSES) or not (folder.path / BANK).exists():
        return found
    bank, classes = Bank.open(folder.path / BANK), folder.read_json(CLASSES)["models"]
    for contract in zoo:
        name = contract.name
        if name not in bank.teachers or bank.is_discarded(name) or not bank.made_with(name).get("shared_pixels"):
            continue
        own = {classes[name][label] for label in bank.images_of(name)[1].unique().tolist()}
        sharing = [other.recovered_images for other in zoo if own & {*classes[other.name]}]
        found[name] = max(contract.recovered_images, *sharing, key=PERMISSIONS.index)
    return found


def hide_images(workspace: Workspace) -> None:
    """Delete contact sheets that may not be shown, such as those made before a contract was changed.

    The report in the run folder may contain them and is deleted too.

    Raises:
        ArtefactError: a file cannot be deleted.
    """
    permitted = _permissions(workspace)
    shown = {contract.name for contract in workspace.shown if permitted[contract.name] == "show"}
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
    discarded = [name for name, permission in _permissions(workspace).items() if permission == "discard"]
    if discarded and (folder.path / BANK).exists():  # not every run recovers images
        bank = Bank.open(folder.path / BANK)
        for name in discarded:
            bank.discard(name)
