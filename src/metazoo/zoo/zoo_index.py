"""The list of a zoo: the contracts of all its models. A model is in the zoo once its contract stands here.

`zoo.json` is the list. While several models are added in one go, `added.jsonl` beside it takes them, a line for each,
so that a model more costs the same however many there are: its first line is the SHA-256 of the `zoo.json` that it goes
on from, and the others are contracts. Its writer puts all into `zoo.json` at the end, which makes it void at the same
moment, and deletes it; what a killed process left still counts, and the next writer does the same with it. A line that
was half written does not count.
"""

import json
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from metazoo.errors import ArtefactError, UsageError
from metazoo.storage.artefacts import append_line, parsed_json, read_bytes, sha256_of_file, write_json
from metazoo.storage.validation import check_format_version, first_problem
from metazoo.zoo.contract import ModelContract

FORMAT = "metazoo-zoo"
FORMAT_VERSION = 1
NAME, ADDED = "zoo.json", "added.jsonl"


def write_listing(zoo: Path, contracts: Iterable[ModelContract]) -> None:
    """Replace the list of the zoo at once.

    Raises:
        ArtefactError: it cannot be written; the former one stays. Or what was added to that cannot be deleted.
    """
    models = [contract.as_record() for contract in contracts]
    write_json(zoo / NAME, {"format": FORMAT, "format_version": FORMAT_VERSION, "models": models})
    try:
        (zoo / ADDED).unlink(missing_ok=True)
    except OSError as error:
        raise ArtefactError(f"cannot delete {zoo / ADDED}: {error.strerror}; delete it yourself") from error


def add_to_listing(zoo: Path, contract: ModelContract) -> None:
    """Add one model to the list; when this returns it is on the disk. For the one writer, who ends by `write_listing`.

    Raises:
        ArtefactError: it cannot be written; the model does not count.
    """
    path = zoo / ADDED
    entries = [contract.as_record()] if path.exists() else [sha256_of_file(zoo / NAME), contract.as_record()]
    text = "".join(f"{json.dumps(entry, ensure_ascii=False)}\n" for entry in entries)
    append_line(path, text.encode(errors="backslashreplace"), durable=True)


def has_additions(zoo: Path) -> bool:
    """Whether a writer is adding models, or was killed while it did."""
    return (zoo / ADDED).exists()


def read_listing(zoo: Path) -> list[ModelContract]:
    """The contracts of the zoo, as they stand.

    Raises:
        UsageError: there is no such folder, or it is not a zoo.
        ArtefactError: the list is damaged or of another format version; the model is named where it is one.
    """
    path = zoo / NAME
    _check_is_zoo(path)
    content, added = _read_together(zoo)
    listing = parsed_json(path, content)
    if not isinstance(listing, dict) or listing.get("format") != FORMAT:
        raise ArtefactError(f"{path} is not the list of a zoo; restore it or build the zoo again")
    check_format_version(path, listing.get("format_version"), FORMAT_VERSION)
    models = listing.get("models")
    if not isinstance(models, list) or len(listing) != 3:
        raise ArtefactError(f"{path} is damaged (it must hold models and nothing else); restore it or build again")
    contracts: dict[str, ModelContract] = {}
    entries = [(path, position, model) for position, model in enumerate(models)]
    entries += [(zoo / ADDED, position, parsed_json(zoo / ADDED, line)) for position, line in enumerate(added)]
    for origin, position, model in entries:
        contract = _parsed(origin, position, model)
        # One file where a file system ignores capitals.
        if contracts.setdefault(contract.name.casefold(), contract) is not contract:
            raise ArtefactError(f"{origin} has two models called {contract.name!r} (capitals aside); take one out")
    return [*contracts.values()]


def _read_together(zoo: Path) -> tuple[bytes, list[bytes]]:
    """The list, and the lines that were added to it.

    A writer may put the latter into the former between the two reads; then both are read again.
    """
    content = read_bytes(zoo / NAME)
    while True:
        lines = _added_lines(zoo / ADDED)
        if lines and lines[0] == json.dumps(sha256(content).hexdigest()).encode():
            return content, lines[1:]
        again = read_bytes(zoo / NAME)
        if again == content:
            return content, []
        content = again


def _added_lines(path: Path) -> list[bytes]:
    try:
        return read_bytes(path).split(b"\n")[:-1] if path.exists() else []
    except ArtefactError:
        if path.exists():
            raise
        return []  # its writer has just deleted it


def _check_is_zoo(path: Path) -> None:
    try:
        is_folder, is_zoo = path.parent.is_dir(), path.is_file()
    except OSError as error:
        raise UsageError(f"{path.parent} cannot be opened: {error.strerror}; give a zoo that can be read") from error
    if not is_folder:
        raise UsageError(f"{path.parent} is not a folder; give a zoo as `metazoo zoo build` makes it")
    if not is_zoo:
        raise UsageError(f"{path.parent} is not a zoo (it has no {NAME}); give one as `metazoo zoo build` makes it")


def _parsed(path: Path, position: int, model: Any) -> ModelContract:
    try:
        return ModelContract.model_validate(model)
    except ValidationError as error:
        name = model.get("name") if isinstance(model, dict) else None
        subject = f"model {str(name)[:100]!a}" if name is not None else f"model number {position + 1}"
        raise ArtefactError(
            f"{subject} in {path} is damaged ({first_problem(error)}); restore it or remove it"
        ) from error
