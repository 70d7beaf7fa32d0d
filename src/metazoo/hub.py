"""Sharing of meta-models and few-shot classifiers on the Hugging Face Hub.

Only the files of a bundle are uploaded: `bundle.json`, `README.md` and `model.safetensors`. They are read and checked
first, so that nothing else can be in them: no image, no unknown tensor, no link to another file.
"""

import contextlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

from metazoo.adapt.bundle import (
    CARD,
    DESCRIPTION,
    FILES,
    FORMAT,
    WEIGHTS,
    BundleDescription,
    ClassifierDescription,
    description_file,
    read_bundle,
)
from metazoo.adapt.card_text import counted, source_licences
from metazoo.adapt.front_matter import UNKNOWN, licences_of
from metazoo.errors import ArtefactError, MetazooError, RunError, UsageError, shown
from metazoo.pipeline.layout import BACKBONE, BANK, META_MODEL, REPORT, UNLABELLED_FOLDER, sheet_of
from metazoo.pipeline.layout import DESCRIPTION as RUN
from metazoo.runs.record import Run
from metazoo.storage.artefacts import check_digest, read_bytes
from metazoo.storage.tensor_files import read_tensor_metadata
from metazoo.text import printable, some_of
from metazoo.zoo import ModelContract, Zoo
from metazoo.zoo.importing.hub_files import (
    HubRepository,
    asked,
    hub_library,
    hub_name,
    is_commit,
    is_missing_repository,
)

MAIN = "main"
_SECONDS = 30
_LARGEST_TEXT = 20_000_000
_IMAGES = {
    BANK: "recovered images",
    sheet_of("").partition("/")[0]: "recovered images",
    REPORT: "can show recovered images",
    UNLABELLED_FOLDER: "unlabelled images",
}
# Licences that allow no copies of what is derived from a model, or none at all.
_FORBIDDING = re.compile(r"(?<![a-z])(nd|no-?deriv[a-z]*|all-rights-reserved|proprietary|confidential)(?![a-z])")
# Files that a repository may hold before the first bundle, as the pages of hubs make them.
_HARMLESS = re.compile(r"\.git\w+|README\.md|LICEN[CS]E(\.\w+)?")


@dataclass(frozen=True)
class SharedFile:
    """File that is uploaded: name, size in bytes, and SHA-256 in hexadecimal."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Push:
    """Upload of a bundle, or what would be uploaded.

    Attributes:
        repository: OWNER/NAME.
        files: uploaded files.
        left_out: names of what is in the folder (of the run) and not uploaded, each with the reason; empty if plain.
        notes: sentences on licences and privacy to read before sharing.
        origin: hf:OWNER/NAME@COMMIT for `from_pretrained`; None if nothing was uploaded.
    """

    repository: str
    files: tuple[SharedFile, ...]
    left_out: Mapping[str, str]
    notes: tuple[str, ...]
    origin: str | None = None


@dataclass(frozen=True)
class _Source:
    """Folder of a bundle, and the run that it belongs to."""

    folder: Path
    run: Run | None
    left_out: Mapping[str, str]


def push_bundle(
    bundle: Path | str,
    repository: str,
    *,
    private: bool = False,
    revision: str | None = None,
    results: Sequence[Path | str] = (),
    dry_run: bool = False,
) -> Push:
    """Upload a meta-model or few-shot classifier to the Hugging Face Hub, in one commit.

    A repository that does not exist is made; a bundle in it is replaced, with its card. Uploading needs the extra
    `hub`, and an access token with permission to write, from HF_TOKEN or `hf auth login`, which is neither printed nor
    stored. HF_ENDPOINT chooses another hub.

    Args:
        bundle: folder of a run, a meta-model or a classifier.
        repository: OWNER/NAME.
        private: whether a new repository is private, and one that exists must be.
        revision: branch, made if missing; None: the main branch.
        results: result files of this meta-model, written by `evaluate`, which the uploaded card shows.
        dry_run: whether to upload nothing, and to make no connection.

    Returns:
        The uploaded files, or those that would be uploaded.

    Raises:
        UsageError: the folder holds something else beside the bundle, a licence of a source model forbids sharing, the
            results are of another meta-model, the repository is public although `private`, or holds something else, or
            the hub refuses the request or cannot be reached.
        RunError: the run has not finished.
        ArtefactError: a file is missing, damaged or changed.
    """
    name, branch = hub_name(f"hf:{repository}@{MAIN if revision is None else revision}")
    if is_commit(branch):
        raise UsageError("revision", "is a commit, which cannot change", "give a branch")
    source = _source(Path(bundle))
    description, content = _content(source.folder)
    if results:
        from metazoo.report.card_results import card_with_results  # imports the libraries of figures

        card = content[CARD].decode()
        content[CARD] = card_with_results(card, description.weights_sha256, results).encode()
    notes = [*_licence_notes(source.run, content[CARD]), *_privacy_notes(source.run, description)]
    files = tuple(SharedFile(file, len(data), sha256(data).hexdigest()) for file, data in content.items())
    commit = None if dry_run else _upload(name, str(branch), private, description, content)
    origin = None if commit is None else f"hf:{name}@{commit}"
    return Push(name, files, source.left_out, tuple(notes), origin)


def _source(path: Path) -> _Source:
    """Bundle of a folder.

    Raises:
        UsageError: the folder holds no bundle, one of version 0.1, or more than the bundle.
        RunError: the run has not finished.
    """
    root = path.resolve()
    if root.name == META_MODEL and (root.parent / RUN).is_file():
        path = root.parent
    if (path / RUN).is_file():
        run = Run.open(path)
        if not run.finished:
            raise RunError(path, "has not finished", "continue it with train --resume")
        beside = sorted(entry.name for entry in path.iterdir() if entry.name != META_MODEL)
        left_out = {name: _IMAGES.get(name, "") for name in beside}
        hidden = {f"{META_MODEL}/{name}": reason for name, reason in _beside(path / META_MODEL).items()}
        return _Source(path / META_MODEL, run, left_out | hidden)
    return _Source(path, None, _beside(path))


def _beside(path: Path) -> Mapping[str, str]:
    """Hidden files in the folder of a bundle, with the reason why they are left out."""
    found = description_file(path)
    if found is None:
        remedy = "give a folder of a run, a meta-model or a classifier"
        raise UsageError(path, f"holds no bundle ({DESCRIPTION})", remedy)
    if found.name != DESCRIPTION:
        raise UsageError(path, "is of version 0.1, which is not shared", "load it in Python and save it")
    names = sorted(entry.name for entry in path.iterdir() if entry.name not in FILES)
    foreign = [name for name in names if not name.startswith(".")]
    if foreign:
        problem = f"holds {printable(some_of(foreign))} beside the bundle, which may not be for others"
        raise UsageError(path, problem, f"move it away; a bundle is {', '.join(FILES)} alone")
    return dict.fromkeys(names, "hidden")


def _content(folder: Path) -> tuple[BundleDescription, dict[str, bytes]]:
    """Description of a bundle and the bytes of its files, checked.

    Raises:
        UsageError: a file is a link, or could hold an image.
        ArtefactError: a file is missing, damaged or changed.
    """
    link = next((file for file in FILES if (folder / file).is_symlink()), None)
    if link is not None:
        raise UsageError(folder / link, "is a link", "replace it by the file itself")
    description = read_bundle(folder, BundleDescription).description
    if isinstance(description, ClassifierDescription) and description.has_support_images:
        problem = "holds its support images, and no image is shared"
        raise UsageError(
            folder, problem, "run `metazoo classifier forget --pictures` on it, or adapt without --keep-support"
        )
    if read_tensor_metadata(folder / WEIGHTS):
        raise UsageError(folder / WEIGHTS, "has metadata, which no bundle has", "load the bundle and save it again")
    content = {file: read_bytes(folder / file) for file in FILES}
    check_digest(folder / WEIGHTS, sha256(content[WEIGHTS]).hexdigest(), description.weights_sha256)
    try:
        card = content[CARD].decode()
    except UnicodeDecodeError as error:
        raise ArtefactError(folder / CARD, "is no text in UTF-8", "restore it, or write it again") from error
    if re.search(r"data:image|<svg", card, re.IGNORECASE):
        raise UsageError(folder / CARD, "holds an image", "remove it; no image of a bundle is shared")
    return description, content


def _licence_notes(run: Run | None, card: bytes) -> list[str]:
    """Notes on the licences of the source models.

    Raises:
        UsageError: a licence forbids sharing.
    """
    listed, contracts = licences_of(card.decode()), _contracts(run)
    if run is None or contracts is None:
        of_models: dict[str, str | None] = {}
        licences = [(f"{CARD} of the bundle", licence) for licence in listed]
    else:
        of_models = source_licences(run.description, contracts, run.record(BACKBONE))
        licences = [(f"source model {printable(model)}", licence) for model, licence in of_models.items()]
    for subject, licence in licences:
        if licence is not None and _forbids(licence):
            problem = f"its licence, {printable(licence)}, forbids sharing what is derived from it"
            raise UsageError(subject, problem, "train without such a model")
    notes = []
    missing = sorted(model for model, licence in of_models.items() if licence is None)
    if missing:
        notes.append(f"no licence is known of {counted(len(missing), 'source model')}: {printable(some_of(missing))}")
    elif not of_models and UNKNOWN in listed:
        notes.append("no licence is known of some source models")
    elif not licences and (run is None or run.description.get("uses") != "nothing"):
        why = "" if run is None else f": the zoo {run.description['zoo']['path']} is missing or has changed"
        notes.append(f"the licences of the source models are not known here{printable(why)}")
    if not listed:
        notes.append(f"{CARD} states no licence; add `license: NAME` to its front matter if you may choose one")
    return notes


def _forbids(licence: str) -> bool:
    return _FORBIDDING.search("-".join(licence.lower().split())) is not None


def _contracts(run: Run | None) -> Sequence[ModelContract] | None:
    """Contracts of the models of a run; None if its zoo is missing or has changed."""
    if run is None:
        return None
    with contextlib.suppress(MetazooError):
        zoo = Zoo.open(run.description["zoo"]["path"])
        return zoo.contracts if zoo.sha256 == run.description["zoo"]["sha256"] else None
    return None


def _privacy_notes(run: Run | None, description: BundleDescription) -> list[str]:
    if isinstance(description, ClassifierDescription):
        notes = [f"{DESCRIPTION} and {CARD} name the {len(description.class_names)} classes"]
        if description.support:
            count = counted(len(description.support), "support image")
            notes.append(
                f"features, hashes and names of {count} are in {WEIGHTS} and {DESCRIPTION}, as far as not forgotten"
            )
        if re.match(r"/|[A-Za-z]:|\\", description.source):
            notes.append(f"{DESCRIPTION} and {CARD} name the path {printable(description.source)}")
        return notes
    contracts = _contracts(run) or ()
    hidden = [contract.name for contract in contracts if contract.recovered_images != "show"]
    notes = [f"{CARD} names the source models and their domains"] if run is not None else []
    if hidden:
        notes.append(
            f"images recovered from {counted(len(hidden), 'source model')} may not be shown "
            f"({printable(some_of(hidden))}); none is uploaded, but a meta-model can carry traces of them (see "
            "docs/privacy.md)"
        )
    return notes


def _upload(name: str, branch: str, private: bool, description: BundleDescription, content: Mapping[str, bytes]) -> str:
    """Upload files in one commit and return its hash."""
    hub = hub_library()
    try:
        info = _info(name, MAIN)
    except UsageError as error:
        if not is_missing_repository(error):
            raise
        asked(name, lambda api: api.create_repo(name, private=private or None))
        info = _info(name, MAIN)
    if private and not info.private:
        raise UsageError(f"hf:{name}", "is public on the hub", "choose another name, or make it private on its page")
    _check_free(name, info)
    if branch != MAIN:
        asked(name, lambda api: api.create_branch(name, branch=branch, exist_ok=True))
        _check_free(name, _info(name, branch))
    operations = [hub.CommitOperationAdd(file, data) for file, data in content.items()]
    title = f"{description.noun.partition(' ')[2].capitalize()} of metazoo {version('metazoo')}"
    made = asked(name, lambda api: api.create_commit(name, operations, commit_message=title, revision=branch))
    missing = sorted(set(content) - _files(_info(name, made.oid)))
    if missing:
        raise UsageError(f"hf:{name}", f"the hub has left out {missing[0]}", "check the .gitignore of the repository")
    return str(made.oid)


def _info(name: str, revision: str) -> Any:
    return asked(name, lambda api: api.model_info(name, revision=revision, timeout=_SECONDS))


def _files(info: Any) -> set[str]:
    return {file.rfilename for file in info.siblings or ()}


def _check_free(name: str, info: Any) -> None:
    """Check that a bundle replaces nothing but a bundle, or the README.md of a repository that holds nothing else."""
    files = _files(info)
    foreign = sorted(file for file in files if not _HARMLESS.fullmatch(file))
    if foreign and not (DESCRIPTION in files and _is_bundle(HubRepository(name, info.sha, None))):
        problem = f"holds {shown(foreign[0])} on the hub, and no bundle of metazoo"
        raise UsageError(f"hf:{name}", problem, "choose another name or branch")


def _is_bundle(repository: HubRepository) -> bool:
    """Whether the description in a repository is one of metazoo, of any version."""
    try:
        return repository.read_json(DESCRIPTION, _LARGEST_TEXT).get("format") == FORMAT
    except ArtefactError:
        return False
