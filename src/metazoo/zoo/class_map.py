"""Which classes of different models are the same class.

A class map is a YAML or JSON file that a user writes. It names every class that several models know, and what each of
them calls it; a class that it does not mention is one of its own, and trusted to be unlike all others:

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
"""The class map without a file: classes of equal name within one domain are the same."""

_LARGEST_FILE = 20_000_000


@final
@dataclass(frozen=True, eq=False)
class ClassIdentity:
    """The classes of a zoo, those that are the same counted once.

    Attributes:
        identities: identity of each class, int64 [classes] for each model in the order of the zoo.
        names: names of the identities; identities count from 0 to `len(names)` - 1.
        conflicts: bool [len(names), len(names)], symmetric: pairs that may not meet in one episode because they may be
            the same class; None if nothing is known of any.
    """

    identities: tuple[Tensor, ...]
    names: tuple[str, ...]
    conflicts: Tensor | None = None

    def of(self, model: int) -> Tensor:
        """The identity of each class of the model with this index, int64 [classes]."""
        return self.identities[model]

    @property
    def flat(self) -> Tensor:
        """The identities of all classes of all models, one model after the other, int64 [all classes]."""
        return torch.cat(self.identities)

    def with_conflicts(self, conflicts: Tensor) -> "ClassIdentity":
        """The same classes, of which these pairs may not meet.

        Args:
            conflicts: bool [all classes, all classes], symmetric, in the order of `flat`, as `class_conflicts` gives
                it. Identities conflict if any of their classes do; an identity has no conflict with itself.
        """
        first, second = conflicts.nonzero(as_tuple=True)
        merged = torch.zeros(len(self.names), len(self.names), dtype=torch.bool)
        merged[self.flat[first], self.flat[second]] = True
        return replace(self, conflicts=merged.fill_diagonal_(False))


def identify_classes(contracts: Iterable[ModelContract], class_map: Path | str | None = None) -> ClassIdentity:
    """Say which classes are the same.

    Args:
        contracts: contracts of the models of a zoo, in its order.
        class_map: a file as above, `names`, or None, for which every class of every model is one of its own.

    Raises:
        UsageError: the file cannot be read, is no class map, or names a model or a class that is not there, or a class
            twice; it is named.
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
    """The identity of every class, by its model and its name, that the file mentions."""
    content = read_mapping(path, "a class map", "classes: {}", _LARGEST_FILE)
    check_format_version(path, content.get("format_version", FORMAT_VERSION), FORMAT_VERSION, UsageError)
    classes = content.get("classes")
    if content.keys() - {"format_version", "classes"} or not isinstance(classes, Mapping):
        raise UsageError(f"{path} is no class map, which holds `classes` and nothing else; see `metazoo.zoo.class_map`")
    known = {contract.name: frozenset(contract.class_names) for contract in contracts}
    named: dict[tuple[str, str], tuple[str, ...]] = {}
    for identity, members in classes.items():
        if not isinstance(members, Mapping):
            raise UsageError(
                f"{path}: {_shown(identity)} must name models, each with its class, such as `model: class`"
            )
        for model, own in members.items():
            if model not in known:
                raise UsageError(f"{path}: {_shown(identity)}: the zoo has no model {_remedied(model, known)}")
            for name in own if isinstance(own, list) else [own]:
                if not isinstance(name, str):
                    raise UsageError(
                        f"{path}: {_shown(identity)}: class {_shown(name)} of {model} is no text; quote it"
                    )
                if name not in known[model]:
                    raise UsageError(
                        f"{path}: {_shown(identity)}: model {model} has no class {_remedied(name, known[model])}"
                    )
                if named.setdefault((model, name), (str(identity),)) != (str(identity),):
                    both = f"{_shown(named[model, name][0])} and {_shown(identity)}"
                    raise UsageError(f"{path}: class {_shown(name)} of {model} is both {both}; name it once")
    return named


def _remedied(given: Any, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(str(given), known, n=1)
    return f"{_shown(given)}; " + (f"did you mean {_shown(close[0])}?" if close else "see `metazoo zoo inspect`")


def _shown(value: Any) -> str:
    return ascii(value if isinstance(value, int | float | bool) else str(value)[:100])
