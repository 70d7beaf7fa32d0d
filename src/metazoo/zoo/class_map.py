"""Class maps: which classes of different models are the same class.

A class map is a YAML or JSON file written by the user. It lists every class shared by several models, with its name in
each of them. A class that it does not list is treated as different from all others.

    format_version: 1
    classes:
      cat:
        animals-conv4-s0-000: cat
        pets-thin-resnet-s0-001: [tabby, siamese]
"""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from metazoo.errors import UsageError
from metazoo.storage.validation import check_format_version, read_mapping
from metazoo.zoo.contract import ModelContract

FORMAT_VERSION = 1
NAMES = "names"
"""Value of `class_map` that needs no file: classes of equal name within one domain are the same."""

_LARGEST_FILE = 20_000_000


@final
@dataclass(frozen=True, eq=False)
class ClassIdentity:
    """Identities of the classes of a zoo; classes that are the same share one identity.

    Attributes:
        identities: identity of each class, int64 [classes] for each model in the order of the zoo.
        names: names of the identities, which are numbered from 0 to `len(names)` - 1.
        conflicts: bool [len(names), len(names)], symmetric: pairs that may be the same class and are therefore kept
            out of one episode; None if no pair is known.
    """

    identities: tuple[Tensor, ...]
    names: tuple[str, ...]
    conflicts: Tensor | None = None

    def of(self, model: int) -> Tensor:
        """Identity of each class of the model with index `model`, int64 [classes]."""
        return self.identities[model]

    @property
    def flat(self) -> Tensor:
        """Identities of all classes of all models, one model after the other, int64 [all classes]."""
        return torch.cat(self.identities)

    def with_conflicts(self, conflicts: Tensor) -> "ClassIdentity":
        """Copy with these pairs of classes kept out of one episode.

        Args:
            conflicts: bool [all classes, all classes], symmetric, in the order of `flat`, as returned by
                `class_conflicts`. Identities conflict if any of their classes do, and never with themselves.
        """
        first, second = conflicts.nonzero(as_tuple=True)
        merged = torch.zeros(len(self.names), len(self.names), dtype=torch.bool)
        merged[self.flat[first], self.flat[second]] = True
        return replace(self, conflicts=merged.fill_diagonal_(False))


def identify_classes(contracts: Iterable[ModelContract], class_map: Path | str | None = None) -> ClassIdentity:
    """Find the classes that are the same.

    Args:
        contracts: contracts of the models of a zoo, in its order.
        class_map: path of a class map, `names`, or None: every class of every model is different.

    Raises:
        UsageError: the file cannot be read, is not a class map, names an unknown model or class, or gives one class two
            identities.
    """
    contracts = tuple(contracts)
    named: Mapping[tuple[str, str], tuple[str, ...]] = {}
    if class_map == NAMES:
        named = {
            (contract.name, name): (name, contract.domain) for contract in contracts for name in contract.class_names
        }
    elif class_map is not None:
        named = _read(Path(class_map), contracts)
    numbers: dict[tuple[str, ...], int] = {}
    identities = []
    for contract in contracts:
        keys = (named.get((contract.name, name), (name, contract.name)) for name in contract.class_names)
        identities.append(torch.tensor([numbers.setdefault(key, len(numbers)) for key in keys]))
    return ClassIdentity(tuple(identities), tuple(map(" of ".join, numbers)))


def _read(path: Path, contracts: Sequence[ModelContract]) -> dict[tuple[str, str], tuple[str, ...]]:
    """Identities of the classes that the file lists, by model and class name."""
    content = read_mapping(path, "a class map", "classes: {}", _LARGEST_FILE)
    check_format_version(path, content.get("format_version", FORMAT_VERSION), FORMAT_VERSION, UsageError)
    classes = content.get("classes")
    if content.keys() - {"format_version", "classes"} or not isinstance(classes, Mapping):
        raise UsageError(path, "not a class map, which holds only `classes`", "see `metazoo.zoo.class_map`")
    known = {contract.name: frozenset(contract.class_names) for contract in contracts}
    named: dict[tuple[str, str], tuple[str, ...]] = {}
    for identity, members in classes.items():
        subject = f"{path}, class {_shown(identity)}"
        if not isinstance(members, Mapping):
            raise UsageError(subject, "does not map models to their classes", "write `model: class`")
        for model, own in members.items():
            if model not in known:
                raise UsageError(subject, f"the zoo has no model {_shown(model)}", _remedy(model, known))
            for name in own if isinstance(own, list) else [own]:
                if not isinstance(name, str):
                    raise UsageError(subject, f"class {_shown(name)} of {model} is not text", "quote it")
                if name not in known[model]:
                    problem = f"model {model} has no class {_shown(name)}"
                    raise UsageError(subject, problem, _remedy(name, known[model]))
                if named.setdefault((model, name), (str(identity),)) != (str(identity),):
                    problem = f"class {_shown(name)} of {model} is already {_shown(named[model, name][0])}"
                    raise UsageError(subject, problem, "name it once")
    return named


def _remedy(given: Any, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(str(given), known, n=1)
    return f"did you mean {_shown(close[0])}?" if close else "see `metazoo zoo inspect`"


def _shown(value: Any) -> str:
    return ascii(value if isinstance(value, int | float | bool) else str(value)[:100])
