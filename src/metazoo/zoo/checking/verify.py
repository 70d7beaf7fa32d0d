"""Checking every model of a zoo, and what else lies in its folder."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch

from metazoo.data import ImageSet
from metazoo.errors import ArtefactError, MetazooError
from metazoo.execution.bounded import ExceededError, Limits, map_bounded
from metazoo.execution.process_memory import peak_growth
from metazoo.zoo import contract_files, weights
from metazoo.zoo.checking.duplicates import duplicate_models
from metazoo.zoo.checking.normalisation import check_normalisation
from metazoo.zoo.contract import ModelContract
from metazoo.zoo.teachers import WhiteBoxTeacher
from metazoo.zoo.zoo_folder import Zoo

_OWN_FILES = frozenset({contract_files.NAME, contract_files.ADDED, ".lock", ".lock-owner.json"})
_IMAGES_AT_ONCE, _SECONDS_TO_MEASURE = 8, 0.02
_REMOVE = "remove it with `metazoo zoo remove`"
_ALLOW = f"allow it more with --seconds or --memory, or {_REMOVE}"


@dataclass(frozen=True)
class Finding:
    """What was found of one model, or of one file that belongs to none.

    Attributes:
        subject: name of the model, or the file's path within the zoo.
        status: `sound` or `problem` of a model, `note` of a stray file, or of a model whose normalisation looks wrong.
        text: result, and the remedy for a problem or a note.
        images_per_second: speed of a model in evaluation, on one thread.
        memory: bytes that reading and running it took at most, beyond what the process had; None if not measured.
    """

    subject: str
    status: Literal["sound", "problem", "note"]
    text: str
    images_per_second: float | None = field(default=None, compare=False)
    memory: int | None = field(default=None, compare=False)


def verify_zoo(
    zoo: Zoo,
    check: Callable[[], None] = lambda: None,
    *,
    images: ImageSet | None = None,
    limits: Limits | None = None,
) -> list[Finding]:
    """Load every model with all checks and try it on random images.

    Args:
        zoo: zoo to check.
        check: function called before every model; an exception from it ends the verification.
        images: a few labelled ones, to see whether the declared normalisations are right; classes go by their names.
        limits: limits per model. Models are then tried in other processes, so that none can end or delay this one, and
            their memory is measured. None tries them in this process, without limits.

    Returns:
        One finding for each model, in the order of the contracts, then one for each group of duplicate models and for
        each stray file.

    Raises:
        ArtefactError: the zoo's folder cannot be listed.
        RunError: with `limits`, no process can be started.
    """
    findings = list(_found(zoo, check, images, limits))
    findings += [Finding(", ".join(names), "note", duplicate_text(names)) for names in duplicate_models(zoo)]
    return findings + [_stray(name) for name in stray_files(zoo)]


def duplicate_text(names: tuple[str, ...]) -> str:
    """A note on duplicate models, without their names."""
    return f"{len(names)} models with the same weights, which count {len(names)} times; remove all but one"


def stray_files(zoo: Zoo) -> list[str]:
    """Paths within the zoo, sorted, of files and folders that no contract names.

    Raises:
        ArtefactError: a folder cannot be listed.
    """
    suffixes = (weights.SUFFIX, contract_files.SUFFIX)
    expected = {f"{weights.FOLDER}/{contract.name}{suffix}" for contract in zoo for suffix in suffixes}
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


@dataclass(frozen=True)
class _Unit:
    """One model to check; it travels to another process."""

    zoo: Path
    contract: ModelContract
    images: ImageSet | None
    asked_for_images: bool


def _found(zoo: Zoo, check: Callable[[], None], images: ImageSet | None, limits: Limits | None) -> Iterator[Finding]:
    units = (_Unit(zoo.folder, contract, _of_its_classes(images, contract), images is not None) for contract in zoo)
    if limits is None:
        for unit in units:
            check()
            yield _finding(unit)
        return
    answers = map_bounded(_measured_finding, units, limits, name_of=_name_of, check=check)
    for contract, answer in zip(zoo, answers, strict=True):
        if isinstance(answer, ExceededError):
            text = f"model {contract.name!r} was not checked to its end: it {answer}; {_ALLOW}"
            answer = Finding(contract.name, "problem", text)
        yield answer if isinstance(answer, Finding) else Finding(contract.name, "problem", str(answer))


def _name_of(unit: _Unit) -> str:
    return f"the check of model {unit.contract.name!r}"


def _of_its_classes(images: ImageSet | None, contract: ModelContract) -> ImageSet | None:
    if images is None:
        return None
    present = set(images.labels.unique().tolist())
    own = set(contract.class_names)
    classes = [index for index, name in enumerate(images.class_names) if name in own and index in present]
    return images.select_classes(classes) if classes else None


def _measured_finding(unit: _Unit) -> Finding:
    with peak_growth() as memory:
        finding = _finding(unit)
    return replace(finding, memory=memory.bytes)


def _finding(unit: _Unit) -> Finding:
    name = unit.contract.name
    try:
        # Of all contracts this one only: nothing of a large zoo travels with each of its models.
        teacher = Zoo(unit.zoo, [unit.contract]).teacher(name)
        problem, speed = _tried(teacher)
        if problem is not None:
            return Finding(name, "problem", problem)
        text = "hash, weights and outputs are as they must be"
        found = None
        if unit.images is not None:
            found = check_normalisation(teacher.classifier, teacher.contract.class_names, unit.images)
    except MetazooError as error:
        return Finding(name, "problem", str(error))
    except MemoryError:
        return Finding(name, "problem", f"model {name!r} needs more memory than it may have; {_ALLOW}")
    if unit.asked_for_images:
        text += f"; {found.text}" if found is not None else "; there are no images of its classes"
    return Finding(name, "note" if found is not None and found.wrong else "sound", text, speed)


def _tried(teacher: WhiteBoxTeacher) -> tuple[str | None, float]:
    """What is wrong with the outputs, and images a second."""
    name = teacher.contract.name
    try:
        spec = teacher.contract.spec
        shape = (_IMAGES_AT_ONCE, spec.channels, spec.input_size, spec.input_size)
        images = torch.rand(shape, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            logits = teacher(images[:2])
            start, passes = time.perf_counter(), 0
            while passes == 0 or time.perf_counter() - start < _SECONDS_TO_MEASURE:
                teacher(images)
                passes += 1
            speed = passes * len(images) / (time.perf_counter() - start)
    except Exception as error:  # as of torch: too large for the memory; or of a library: a size that does not suit
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        return f"model {name!r} cannot be run: {reason}; {_REMOVE}", 0.0
    if logits.shape != (2, spec.classes) or not bool(logits.isfinite().all()):
        return f"model {name!r} gives outputs that are not finite; {_REMOVE}", 0.0
    return None, speed


def _stray(name: str) -> Finding:
    return Finding(name, "note", "belongs to no model of the zoo; delete it if you do not need it")
