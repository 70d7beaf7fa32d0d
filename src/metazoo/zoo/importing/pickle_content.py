"""Names, texts and cost of pickles, found without making the objects that they describe."""

import _compat_pickle
import contextlib
import io
import pickletools
from dataclasses import dataclass, field
from typing import Any, cast

from metazoo.errors import MetazooError

# Opcodes that torch reads with `weights_only`, by what they do to the stack.
_SCALARS = frozenset(("NONE", "NEWFALSE", "NEWTRUE", "BININT", "BININT1", "BININT2", "BINFLOAT", "LONG1"))
_TEXTS = frozenset(("BINUNICODE", "SHORT_BINSTRING"))
_EMPTY = frozenset(("EMPTY_TUPLE", "EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET"))
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_PUTS, _GETS = frozenset(("BINPUT", "LONG_BINPUT")), frozenset(("BINGET", "LONG_BINGET"))
_MANY = frozenset(("APPENDS", "SETITEMS"))
_COPIES = 10
"""Items that calls may copy, as a multiple of the size of the pickle; written as torch does, it is less than 1."""


class CostlyPickleError(MetazooError):
    """A pickle repeats its calls so that it would fill the memory."""


@dataclass
class PickleContent:
    """Content of pickles, in order and without duplicates.

    Attributes:
        names: names of the classes and functions that they ask for, such as `argparse.Namespace`.
        texts: texts in them, such as keys of mappings.
        is_object: whether one of them is an object of a class, and not a mapping, list or number.
    """

    names: dict[str, None] = field(default_factory=dict)
    texts: dict[str, None] = field(default_factory=dict)
    is_object: bool = False


@dataclass(slots=True)
class _Value:
    """Stand-in for a value: its length, and the parts of a tuple, which may be the arguments of a call."""

    length: int = 1
    parts: tuple["_Value", ...] = ()


def pickle_content(data: bytes, number: int) -> PickleContent:
    """Content of the first `number` pickles in `data`, as far as torch reads them with `weights_only`.

    Raises:
        CostlyPickleError: their calls copy far more than the pickles contain.
        Exception: a pickle is damaged, longer than `data`, or has opcodes that torch does not read.
    """
    content, stream = PickleContent(), io.BytesIO(data)
    for _ in range(number):
        _scan(stream, content, _COPIES * len(data))
    return content


def names_in_pickle(data: bytes) -> list[str]:
    """Names that the first bytes of any pickle ask for."""
    names: dict[str, None] = {}
    recent = ["", ""]
    with contextlib.suppress(ValueError, OverflowError, RecursionError, MemoryError):
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name in ("GLOBAL", "INST"):
                names[_name(str(argument))] = None
            elif opcode.name == "STACK_GLOBAL":
                names[".".join(recent)] = None
            elif isinstance(argument, str):
                recent = [recent[-1], argument]
    return list(names)


def _scan(stream: io.BytesIO, content: PickleContent, most: int) -> None:
    """Add the next pickle, whose calls may copy `most` items."""
    scalar, memo, copied, is_first = _Value(), {}, 0, True
    stack: list[_Value] = []
    marks: list[list[_Value]] = []
    for opcode, found, _ in pickletools.genops(stream):
        kind, argument = opcode.name, cast("Any", found)  # its type follows from the opcode
        if kind in _SCALARS:
            stack.append(scalar)
        elif kind in _TEXTS:
            content.texts[argument] = None
            # In files of torch before 1.6, a module is a tuple of this mark, its class and its source code.
            content.is_object |= argument == "module" and not stack and marks == [[]]
            stack.append(_Value(len(argument)))
        elif kind in _PUTS:
            memo[argument] = stack[-1]
        elif kind in _GETS:
            stack.append(memo[argument])
        elif kind == "GLOBAL":
            name = _name(argument)
            content.names[name] = None
            content.is_object |= is_first and name != "collections.OrderedDict"
            stack.append(scalar)
        elif kind == "MARK":
            marks.append(stack)
            stack = []
        elif kind == "TUPLE" or kind in _MANY:
            parts, stack = stack, marks.pop()
            if kind == "TUPLE":
                stack.append(_Value(len(parts), tuple(parts)))
            else:
                stack[-1].length += len(parts)
        elif kind in _TUPLES:
            parts = stack[-_TUPLES[kind] :]
            del stack[-_TUPLES[kind] :]
            stack.append(_Value(len(parts), tuple(parts)))
        elif kind in _EMPTY:
            stack.append(_Value(0))
        elif kind in ("REDUCE", "NEWOBJ", "BUILD"):
            arguments = stack.pop()
            length = max(arguments.length, sum(part.length for part in arguments.parts))
            copied += length
            if copied > most:
                raise CostlyPickleError("pickle")
            if kind == "BUILD":
                stack[-1].length += length
            else:
                stack[-1] = _Value(length)
        elif kind in ("APPEND", "SETITEM"):
            del stack[-1 if kind == "APPEND" else -2 :]
            stack[-1].length += 1
        elif kind == "BINPERSID":
            stack[-1] = scalar
        elif kind not in ("PROTO", "STOP"):
            raise ValueError(f"opcode {kind} is not read")
        is_first = is_first and kind == "PROTO"


def _name(argument: str) -> str:
    """Name in Python 3 of a name in a pickle, which Python 2 may have written, as torch translates it."""
    module, _, name = argument.partition(" ")
    if (module, name) in _compat_pickle.NAME_MAPPING:
        return ".".join(_compat_pickle.NAME_MAPPING[module, name])
    return f"{_compat_pickle.IMPORT_MAPPING.get(module, module)}.{name}"
