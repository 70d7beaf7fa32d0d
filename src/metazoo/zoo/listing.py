"""`zoo.json`: the contracts of all models of a zoo. A model is in the zoo once its contract stands here."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from metazoo.errors import ArtefactError, UsageError
from metazoo.run.artefacts import read_json, write_json
from metazoo.run.validation import check_format_version, first_problem
from metazoo.zoo.contract import ModelContract

FORMAT = "metazoo-zoo"
FORMAT_VERSION = 1
NAME = "zoo.json"


def write_listing(zoo: Path, contracts: Iterable[ModelContract]) -> None:
    """Replace the list of the zoo at once.

    Raises:
        ArtefactError: it cannot be written; the former one stays.
    """
    models = [contract.as_record() for contract in contracts]
    write_json(zoo / NAME, {"format": FORMAT, "format_version": FORMAT_VERSION, "models": models})


def read_listing(zoo: Path) -> list[ModelContract]:
    """The contracts of the zoo, as they stand.

    Raises:
        UsageError: there is no such folder, or it is not a zoo.
        ArtefactError: the list is damaged or of another format version; the model is named where it is one.
    """
    path = zoo / NAME
    _check_is_zoo(path)
    content = read_json(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ArtefactError(f"{path} is not the list of a zoo; restore it or build the zoo again")
    check_format_version(path, content.get("format_version"), FORMAT_VERSION)
    models = content.get("models")
    if not isinstance(models, list) or len(content) != 3:
        raise ArtefactError(f"{path} is damaged (it must hold models and nothing else); restore it or build again")
    contracts: dict[str, ModelContract] = {}
    for position, model in enumerate(models):
        contract = _parsed(path, position, model)
        # One file where a file system ignores capitals.
        if contracts.setdefault(contract.name.casefold(), contract) is not contract:
            raise ArtefactError(f"{path} has two models called {contract.name!r} (capitals aside); take one out")
    return [*contracts.values()]


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
