"""Verification of every model of a zoo and of the files in its folder."""

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
_ALLOW = f"raise --seconds or --memory, or {_REMOVE}"


@dataclass(frozen=True)
class Finding:
    """Result for one model, for duplicate models, or for one stray file.

    Attributes:
        subject: name of the model, or path of the file within the zoo.
        status: `sound`, `problem`, or `note` for stray files, duplicates and normalisations that look wrong.
        text: result, with the remedy for a problem or a note.
        images_per_second: speed of a model in evaluation, on one thread.
        memory: peak growth of the process in bytes while reading and running the model; None if not measured.
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
    """Load every model with all checks and run it on random images.

    Args:
        zoo: zoo to check.
        check: function called before every model; an exception from it ends the verification.
        images: labelled images to check the declared normalisations with, matched to the models by class name.
        limits: limits per model. With limits, models run in other processes, so that none can end or delay this one,
            and their memory is measured. None runs them in this process, without limits.

    Returns:
        One finding for each model, in the order of the contracts, then one for each group of duplicate models and for
        each stray file.

    Raises:
        ArtefactError: the zoo folder cannot be listed.
        RunError: with `limits`, no process can be started.
    """
    findings = list(_found(zoo, check, images, limits))
    findings += [Finding(", ".join(names), "note", duplicate_text(names)) for names in duplicate_models(zoo)]
    return findings + [_stray(name) for name in stray_files(zoo)]


def duplicate_text(names: tuple[str, ...]) -> str:
    """Note on duplicate models, without their names."""
    return f"{len(names)} models with the same weights, which count {len(names)} times; remove all but one"


def stray_files(zoo: Zoo) -> list[str]:
    """Sorted paths within the zoo of files and folders that belong to no model.

    Raises:
        ArtefactError: a folder cannot be listed.
    """
    suffixes = (weights.SUFFIX, contract_files.SUFFIX)
    expected = {f"{weights.FOLDER}/{contract.name}{suffix}" for contract in zoo for suffix in suffixes}
    found = []
    for folder, prefix in ((zoo.folder, ""), (zoo.folder / weights.FOLDER, f"{weights.FOLDER}/")):
        names = [prefix + name for name in _names_in(folder)]
        found += [name for name in names if name not in _OWN_FILES | {weights.FOLDER} | expected]
    return sorted(found)


def _names_in(folder: Path) -> list[str]:
    try:
        # A linked folder is reported with its models; other files in it do not belong to this zoo.
        return [] if folder.is_symlink() or not folder.is_dir() else [entry.name for entry in folder.iterdir()]
    except OSError as error:
        raise ArtefactError(folder, f"cannot be listed: {error.strerror}", "make the folder readable") from error


@dataclass(frozen=True)
class _Unit:
    """One model to check, possibly in another process."""

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
            text = f"model {contract.name!r}: check not finished, it {answer}; {_ALLOW}"
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
        # Only this contract, so that not the whole of a large zoo is sent with each model.
        teacher = Zoo(unit.zoo, [unit.contract]).teacher(name)
        problem, speed = _tried(teacher)
        if problem is not None:
            return Finding(name, "problem", problem)
        text = "hash, weights and outputs are correct"
        found = None
        if unit.images is not None:
            found = check_normalisation(teacher.classifier, teacher.contract.class_names, unit.images)
    except MetazooError as error:
        return Finding(name, "problem", str(error))
    except MemoryError:
        return Finding(name, "problem", f"model {name!r}: out of memory; {_ALLOW}")
    if unit.asked_for_images:
        text += f"; {found.text}" if found is not None else "; no images of its classes"
    return Finding(name, "note" if found is not None and found.wrong else "sound", text, speed)


def _tried(teacher: WhiteBoxTeacher) -> tuple[str | None, float]:
    """Run a model: the problem of its outputs, if any, and images per second."""
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
    except Exception as error:  # such as out of memory, or an unsuitable image size
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        return f"model {name!r}: cannot be run ({reason}); {_REMOVE}", 0.0
    if logits.shape != (2, spec.classes) or not bool(logits.isfinite().all()):
        return f"model {name!r}: outputs are not finite; {_REMOVE}", 0.0
    return None, speed


def _stray(name: str) -> Finding:
    return Finding(name, "note", "belongs to no model of the zoo; delete it if you do not need it")
