"""Checking every model of a zoo, and what else lies in its folder."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from metazoo.data import ImageSet
from metazoo.errors import ArtefactError, MetazooError
from metazoo.zoo import listing, weights
from metazoo.zoo.folder import Zoo
from metazoo.zoo.normalisation import check_normalisation
from metazoo.zoo.teacher import WhiteBoxTeacher

_OWN_FILES = frozenset({listing.NAME, ".lock", ".lock-owner.json"})


@dataclass(frozen=True)
class Finding:
    """What was found of one model, or of one file that belongs to none.

    Attributes:
        subject: name of the model, or the file's path within the zoo.
        status: `sound` or `problem` of a model, `note` of a stray file, or of a model whose normalisation looks wrong.
        text: what it is, and what to do about a problem or a note.
    """

    subject: str
    status: Literal["sound", "problem", "note"]
    text: str


def verify_zoo(zoo: Zoo, check: Callable[[], None] = lambda: None, *, images: ImageSet | None = None) -> list[Finding]:
    """Load every model with all checks and try it on random images.

    Args:
        zoo: to be checked.
        check: called before every model; what it raises ends the verification.
        images: a few labelled ones, to see whether the declared normalisations are right; classes go by their names.

    Returns:
        One finding a model, in the order of the contracts, then one a stray file.

    Raises:
        ArtefactError: the zoo's folder cannot be listed.
    """
    findings = []
    for contract in zoo:
        check()
        findings.append(_finding(zoo, contract.name, images))
    return findings + [_stray(name) for name in stray_files(zoo)]


def stray_files(zoo: Zoo) -> list[str]:
    """Paths within the zoo, sorted, of files and folders that no contract names.

    Raises:
        ArtefactError: a folder cannot be listed.
    """
    expected = {f"{weights.FOLDER}/{contract.name}{weights.SUFFIX}" for contract in zoo}
    found = []
    for place, prefix in ((zoo.folder, ""), (zoo.folder / weights.FOLDER, f"{weights.FOLDER}/")):
        names = [prefix + name for name in _names_in(place)]
        found += [name for name in names if name not in _OWN_FILES | {weights.FOLDER} | expected]
    return sorted(found)


def _names_in(place: Path) -> list[str]:
    try:
        # A link to a folder elsewhere is a problem of the models in it; what else is there is not of this zoo.
        return [] if place.is_symlink() or not place.is_dir() else [entry.name for entry in place.iterdir()]
    except OSError as error:
        raise ArtefactError(f"cannot list {place}: {error.strerror}; make the folder readable") from error


def _finding(zoo: Zoo, name: str, images: ImageSet | None) -> Finding:
    try:
        teacher = zoo.teacher(name)
        problem = _problem(teacher)
        if problem is not None:
            return Finding(name, "problem", problem)
        text = "hash, weights and outputs are as they must be"
        found = (
            None if images is None else check_normalisation(teacher.classifier, teacher.contract.class_names, images)
        )
    except MetazooError as error:
        return Finding(name, "problem", str(error))
    if images is not None:
        text += f"; {found.text}" if found is not None else "; there are no images of its classes"
    return Finding(name, "note" if found is not None and found.wrong else "sound", text)


def _problem(teacher: WhiteBoxTeacher) -> str | None:
    name = teacher.contract.name
    try:
        spec = teacher.contract.spec
        shape = (2, spec.channels, spec.input_size, spec.input_size)
        images = torch.rand(shape, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            logits = teacher(images)
    except Exception as error:  # as of torch: too large for the memory; or of a library: a size that does not suit
        return (
            f"model {name!r} cannot be run: {' '.join(str(error).split())[:200]}; remove it with `metazoo zoo remove`"
        )
    if logits.shape != (2, spec.classes) or not bool(logits.isfinite().all()):
        return f"model {name!r} gives outputs that are not finite; remove it with `metazoo zoo remove`"
    return None


def _stray(name: str) -> Finding:
    return Finding(name, "note", "belongs to no model of the zoo; delete it if you do not need it")
