"""Safe reading of the files of `torch.save`.

Such a file is a pickle and may ask for any function to be called. It is read with torch's `weights_only`, which calls a
few functions only. Some of these can still fill the memory, so that a shorter list of names is checked first. Objects
that training scripts store beside the weights, such as their options, become inert stand-ins: their classes are neither
imported nor called.
"""

import codecs
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from metazoo.errors import ArtefactError, shown
from metazoo.text import some_of
from metazoo.zoo.importing.foreign_files import ZIP
from metazoo.zoo.importing.pickle_content import CostlyPickleError, PickleContent, pickle_content
from metazoo.zoo.importing.zip_entries import zip_entries

# Enough for the names and shapes of ten thousand tensors; reading a megabyte takes seconds.
_LARGEST_PICKLE = 2 << 20
_PICKLES_OF_LEGACY = 5
"""Number of pickles in a file of torch before 1.6: mark, version, system, content, names of storages."""
_ALLOWED = re.compile(
    r"collections\.(OrderedDict|Counter)|builtins\.(set|complex)"
    r"|torch\.(Size|device|\w+Storage|(b?float|u?int|complex|bool)\d*\w*|half|double|short|long)"
    r"|torch\._utils\._rebuild_(tensor(_v2)?|parameter)"
)
_IGNORED = re.compile(
    r"argparse\.Namespace|numpy(\.\w+)*|pathlib(\._local)?\.(Pure)?(Posix|Windows)?Path"
    r"|builtins\.(dict|list|tuple|str|int|float|bool)"
)
_MAPPINGS = re.compile(
    r"collections\.defaultdict|(pytorch_lightning|lightning|lightning_fabric)(\.\w+)*\.AttributeDict"
)
_ENCODE, _LATIN = "_codecs.encode", "iso8859-1"
_NOT_DENSE = re.compile(
    r"torch\._utils\._rebuild_(q|sparse_|meta_|wrapper_|nested_)\w+|torch\.serialization\._get_layout"
)
WRAPPERS = (
    *("state_dict", "model_state_dict", "model_state", "model", "net", "network", "module", "weights", "params"),
    *("ema", "model_ema", "ema_model", "state_dict_ema", "ema_state_dict", "model_ema_state_dict", "params_ema"),
)
"""Usual names of state_dicts in files of training scripts."""


class _Ignored:
    """Stand-in for an object of another class. It keeps nothing."""

    def __new__(cls, *_: object) -> "_Ignored":
        return super().__new__(cls)

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


class _Mapping:
    """Stand-in for a mapping of another class, which becomes a dictionary."""

    def __new__(cls, *_: object) -> Any:
        return {}


def read_torch_file(path: Path, most: int) -> Any:
    """Read the content of a file of `torch.save` whose content was checked by `check_content`.

    Args:
        path: path of the file.
        most: size in bytes to which it may unpack.

    Raises:
        ArtefactError: it is damaged, unpacks to more, or asks for other classes than those of tensors.
    """
    structure, number = _structure(path, most)
    try:
        content = pickle_content(structure, number)
    except CostlyPickleError as error:
        problem = "repeats its calls, which would fill the memory"
        raise ArtefactError(path, problem, "store a state_dict alone") from error
    except Exception as error:  # a hostile file can cause any exception
        problem = "is damaged, or was not saved with the pickle protocol of torch (2)"
        if len(structure) > _LARGEST_PICKLE:
            problem = f"is damaged, or describes its content in more than {_LARGEST_PICKLE:,} bytes"
        raise ArtefactError(path, problem, "store a state_dict alone, with torch.save") from error
    _check_names(path, content)
    stand_ins: list[Any] = [(_Ignored, name) for name in content.names if _IGNORED.fullmatch(name)]
    stand_ins += [(_Mapping, name) for name in content.names if _MAPPINGS.fullmatch(name)]
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(stand_ins):
            warnings.simplefilter("ignore")  # warnings about old files are for torch's developers
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # see above; torch's own message advises to read the file without this protection
        remedy = "store a state_dict as .safetensors"
        raise ArtefactError(path, "is damaged or not a checkpoint", remedy) from error


def _structure(path: Path, most: int) -> tuple[bytes, int]:
    """Pickles of a file, with at most one byte more than the largest size, and their number."""
    with path.open("rb") as file:
        head = file.read(_LARGEST_PICKLE + 1)
    if not head.startswith(ZIP):
        return head, _PICKLES_OF_LEGACY
    entries = zip_entries(path)
    pickles = [entry for entry in entries if entry.filename.partition("/")[2].lower() == "data.pkl"]
    is_large = any(entry.file_size > _LARGEST_PICKLE for entry in pickles)
    if is_large or sum(entry.file_size for entry in entries) > most:
        raise ArtefactError(path, "unpacks to more than its architecture can need", "check both")
    if len(pickles) != 1:
        raise ArtefactError(path, f"has {len(pickles)} files data.pkl", "store it again")
    with zipfile.ZipFile(path) as archive:
        return archive.read(pickles[0]), 1


def _check_names(path: Path, content: PickleContent) -> None:
    known = (_ALLOWED, _IGNORED, _MAPPINGS)
    foreign = [name for name in content.names if not any(pattern.fullmatch(name) for pattern in known)]
    if _ENCODE in foreign and not any(_is_other_codec(text) for text in content.texts):
        foreign.remove(_ENCODE)
    if not foreign:
        return
    if all(_NOT_DENSE.fullmatch(name) for name in foreign):
        raise ArtefactError(path, "has sparse or quantised tensors", "store dense tensors of float32")
    names = some_of([shown(name) for name in foreign], 3)
    problem = "holds a whole module and not only its weights" if _has_module(content) else "holds more than tensors"
    problem += f": it asks for {names}, and reading that could run code"
    raise ArtefactError(path, problem, f"if you trust it, run in Python: {_conversion(path, content)}")


def _has_module(content: PickleContent) -> bool:
    return any(name.startswith("torch.nn.modules.") for name in content.names)


def _is_other_codec(text: str) -> bool:
    """Whether a text names an encoding other than that of bytes in pickles; some encodings grow or take long."""
    try:
        return codecs.lookup(text).name != _LATIN
    except (LookupError, ValueError):
        return False


def _conversion(path: Path, content: PickleContent) -> str:
    """Line of Python that stores the weights of a file without the objects around them."""
    loaded = f"torch.load({str(path)!r}, map_location='cpu', weights_only=False)"
    key = None if content.is_object else next((key for key in WRAPPERS if key in content.texts), None)
    loaded += "" if key is None else f"[{key!r}]"
    if content.is_object or _has_module(content):
        loaded += ".state_dict()"
    return f"import torch; torch.save({loaded}, {f'{path.stem}-weights.pth'!r})"
