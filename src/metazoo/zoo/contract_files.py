"""Contract files of a zoo: `models/NAME.json` beside each model's weights, and the marker `zoo.json`.

A model belongs to the zoo once its contract file exists, which is written after its weights and deleted before them.
A zoo of version 0.1 holds all contracts in `zoo.json`, and those added by a killed process in `added.jsonl`. It can be
read without migration; its first writer calls `migrate`.
"""

import json
from collections.abc import Iterable, Iterator
from hashlib import sha256
from os.path import lexists
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from metazoo.errors import ArtefactError, UsageError
from metazoo.storage.artefacts import flush_folder, parsed_json, read_bytes, write_json
from metazoo.storage.validation import check_format_version, first_problem
from metazoo.zoo.contract import ModelContract
from metazoo.zoo.weights import models_folder

FORMAT = "metazoo-zoo"
FORMAT_VERSION = 2
CONTRACT_VERSION = 1
NAME, ADDED, SUFFIX = "zoo.json", "added.jsonl", ".json"
_FORMER_VERSION = 1
_MARK = {"format": FORMAT, "format_version": FORMAT_VERSION}


def mark_as_zoo(zoo: Path) -> None:
    """Write `zoo.json`; see `write_json`."""
    write_json(zoo / NAME, _MARK)


def write_contract(zoo: Path, contract: ModelContract) -> None:
    """Write or replace the contract file of one model, after its weights; see `write_json`."""
    record = {"format_version": CONTRACT_VERSION, **contract.as_record()}
    write_json(models_folder(zoo) / f"{contract.name}{SUFFIX}", record)


def delete_contract(zoo: Path, name: str) -> None:
    """Delete the contract file of one model, durably.

    Raises:
        ArtefactError: it cannot be deleted.
    """
    path = models_folder(zoo) / f"{name}{SUFFIX}"
    _delete(path)
    flush_folder(path.parent)


def migrate(zoo: Path, contracts: Iterable[ModelContract]) -> None:
    """Write one contract file per model if the zoo is of version 0.1; the caller must hold the zoo for writing.

    Raises:
        ArtefactError: a file cannot be written; the zoo stays unchanged.
    """
    if _mark(zoo / NAME, read_bytes(zoo / NAME)) != _MARK:
        for contract in contracts:
            write_contract(zoo, contract)
        mark_as_zoo(zoo)
    _delete(zoo / ADDED)


def read_contracts(zoo: Path) -> list[ModelContract]:
    """Read all contracts of a zoo.

    Raises:
        UsageError: the folder does not exist or is not a zoo.
        ArtefactError: a file is damaged or of another format version.
        ZooError: the models folder is a symbolic link that leads out of the zoo.
    """
    path = zoo / NAME
    _check_is_zoo(path)
    while True:
        content = read_bytes(path)
        mark = _mark(path, content)
        contracts: dict[str, ModelContract] = {}
        for origin, contract in _contracts(zoo) if mark == _MARK else _former_contracts(zoo, content, mark):
            # Names that differ only in capitals are one file on some systems.
            if contracts.setdefault(contract.name.casefold(), contract) is not contract:
                raise ArtefactError(
                    origin, f"a second model called {contract.name!r} (ignoring capitals)", "remove one of them"
                )
        if read_bytes(path) == content:  # otherwise a writer has migrated the zoo in the meantime
            return [*contracts.values()]


def _mark(path: Path, content: bytes) -> dict[str, Any]:
    mark = parsed_json(path, content)
    if not isinstance(mark, dict) or mark.get("format") != FORMAT:
        raise ArtefactError(path, "not the marker of a zoo", "restore it or build the zoo again")
    version = mark.get("format_version")
    if version != _FORMER_VERSION:
        check_format_version(path, version, FORMAT_VERSION)
    has_models = isinstance(mark.get("models"), list)
    if mark != _MARK and not (version == _FORMER_VERSION and has_models and len(mark) == 3):
        raise ArtefactError(path, "damaged, with unknown values", "restore it or build the zoo again")
    return mark


def _contracts(zoo: Path) -> Iterator[tuple[Path, ModelContract]]:
    for path in sorted(models_folder(zoo).glob(f"[!.]*{SUFFIX}")):
        if not path.is_file():
            if lexists(path):
                raise ArtefactError(path, "not a file", "restore the contract of this model, or delete it")
            continue  # a writer has just removed the model
        try:
            record = parsed_json(path, read_bytes(path))
        except ArtefactError:
            if path.exists():
                raise
            continue
        if isinstance(record, dict):
            check_format_version(path, record.pop("format_version", None), CONTRACT_VERSION)
        contract = _parsed(path, record)
        if contract.name != path.stem:
            raise ArtefactError(path, f"holds the contract of {contract.name!r}", "name the file after its model")
        yield path, contract


def _former_contracts(zoo: Path, content: bytes, mark: dict[str, Any]) -> Iterator[tuple[Path, ModelContract]]:
    """Contracts in `zoo.json`, and in the complete lines of `added.jsonl` if its first is the hash of `zoo.json`."""
    for model in mark["models"]:
        yield zoo / NAME, _parsed(zoo / NAME, model)
    path = zoo / ADDED
    first, *added = read_bytes(path).split(b"\n")[:-1] or [b""] if path.exists() else [b""]
    if first == json.dumps(sha256(content).hexdigest()).encode():
        for line in added:
            yield path, _parsed(path, parsed_json(path, line))


def _parsed(path: Path, model: Any) -> ModelContract:
    try:
        return ModelContract.model_validate(model)
    except ValidationError as error:
        name = model.get("name") if isinstance(model, dict) else None
        raise ArtefactError(
            path, f"damaged contract of model {str(name)[:100]!a} ({first_problem(error)})", "restore it or remove it"
        ) from error


def _check_is_zoo(path: Path) -> None:
    remedy = "give a folder that `metazoo zoo build` or `metazoo zoo add` has made"
    try:
        is_folder, is_zoo = path.parent.is_dir(), path.is_file()
    except OSError as error:
        raise UsageError(path.parent, f"cannot be opened: {error.strerror}", remedy) from error
    if not is_folder:
        raise UsageError(path.parent, "not a folder", remedy)
    if not is_zoo:
        raise UsageError(path.parent, f"not a zoo: no {NAME}", remedy)


def _delete(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise ArtefactError(path, f"cannot be deleted: {error.strerror}", "delete it yourself") from error
