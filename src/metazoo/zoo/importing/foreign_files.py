"""Recognition of files and folders that hold no readable weights, by their content."""

import re
import shlex
import zipfile
from pathlib import Path

from metazoo.errors import UsageError, shown
from metazoo.storage.artefacts import cannot_read
from metazoo.zoo.importing.pickle_content import names_in_pickle
from metazoo.zoo.importing.zip_entries import zip_entries

ZIP, LEGACY = b"PK\x03\x04", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""First bytes of the files of `torch.save`, in the format of torch 1.6 and later, and in the one before."""
FOREIGN_SUFFIXES = (".pt2", ".h5", ".hdf5", ".keras", ".msgpack", ".tflite", ".pb")
"""Suffixes of weights that are not read."""
_HEAD = 1 << 16
# Of safetensors, by its definition; four characters of a text read as a number are more.
_LONGEST_HEADER = 100_000_000
_UNPACK = "unpack it, and give the weights file in it"
_AGAIN = "copy or download it again"
_KERAS = "export it as ONNX, where keras is installed: import keras; keras.models.load_model({path!r})"
_KERAS += ".export({onnx!r}, format='onnx')"
_SAVED_MODEL = "convert it to ONNX, where tf2onnx is installed: python -m tf2onnx.convert --saved-model {} --output {}"
_TRUSTED = "if you trust it, run in Python: "
_TORCHSCRIPT = _TRUSTED + "import torch; torch.save(torch.jit.load({path!r}, 'cpu').state_dict(), {new!r})"
_EXPORTED = _TRUSTED + "import torch; torch.save(torch.export.load({path!r}).state_dict, {new!r})"
_PICKLED = _TRUSTED + "import pickle, torch; torch.save(pickle.load(open({path!r}, 'rb')), {new!r})"
# First bytes of the file, problem and remedy. A remedy may contain the path and names of new files.
_STARTS: tuple[tuple[bytes, str, str], ...] = (
    (b"version https://git-lfs", "is a Git LFS pointer, not the file itself", "run git lfs pull"),
    (b"\x89HDF\r\n\x1a\n", "is an HDF5 file, as Keras writes them", _KERAS),
    (b"\x93NUMPY", "is a single numpy array", "give a file with all tensors of the model"),
    (b"\x1f\x8b", "is compressed by gzip", _UNPACK),
    (b"BZh", "is compressed by bzip2", _UNPACK),
    (b"\xfd7zXZ\x00", "is compressed by xz", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "is compressed by zstd", _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "is a 7z archive", _UNPACK),
    (b"Rar!", "is a RAR archive", _UNPACK),
    (b"PK\x05\x06", "is an empty zip archive", _AGAIN),
)


def check_content(path: Path) -> None:
    """Check that a file is safetensors or of `torch.save`, as far as its first bytes and its archive show.

    Raises:
        UsageError: it is neither; the error states its format and how to convert it.
        ArtefactError: it cannot be read, or is a damaged archive.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        raise cannot_read(path, error) from error
    reason = _reason_of_archive(path) if head.startswith(ZIP) else _reason(head)
    if reason is not None:
        problem, remedy = reason
        new = f"{path.stem}-weights.pth"
        raise UsageError(path, problem, remedy.format(path=str(path), new=new, onnx=f"{path.stem}.onnx"))
    if path.suffix.lower() == ".safetensors" and not is_safetensors(head):
        raise UsageError(path, "is a file of torch.save, not safetensors", "rename it to .pth")


def is_safetensors(head: bytes) -> bool:
    """Whether a file with these first bytes can only be safetensors."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= _LONGEST_HEADER


def check_folder(path: Path) -> None:
    """Raise a UsageError that explains why a folder without config.json is not a model."""
    if (path / "saved_model.pb").exists():
        problem = "is a SavedModel of TensorFlow"
        remedy = _SAVED_MODEL.format(shlex.quote(str(path)), shlex.quote(f"{path.absolute().name}.onnx"))
    else:
        problem = "is a folder without config.json, which `save_pretrained` of transformers or timm writes"
        remedy = f"give a weights file in it, or all of them with --from-folder {path}"
    raise UsageError(path, problem, remedy)


def _reason(head: bytes) -> tuple[str, str] | None:
    """Problem and remedy by the first bytes of a file that is no zip archive; None if it may be weights."""
    if not head:
        return "is empty", _AGAIN
    for start, problem, remedy in _STARTS:
        if head.startswith(start):
            return problem, remedy
    if head.startswith(LEGACY) or is_safetensors(head):
        return None
    if re.match(rb"\s*<(!doctype|html|\?xml)", head, re.IGNORECASE):
        return "is a web page, not the file that its address promises", "open the address in a browser and download it"
    if head[257:262] == b"ustar":
        return "is a tar archive", _UNPACK
    if head[4:8] == b"TFL3":
        return "is a model of TensorFlow Lite", "give the model that it was made of"
    if re.match(rb"\x80[\x01-\x05]|c[\w.]+\n[\w.]+\n", head):
        names = names_in_pickle(head)
        made_of = f" of {', '.join(shown(name) for name in names[:2])}" if names else ""
        has_tensors = any(name.startswith("torch.") for name in names)
        return f"is a pickle{made_of}, not of torch.save", _PICKLED if has_tensors else "give weights of a network"
    if re.match(rb"\s*[{\[]", head) or re.fullmatch(rb"[\t\n\r\x20-\x7e]+", head):
        return "is a text file", "give a weights file"
    return "is neither safetensors nor a file of torch.save", _AGAIN


def _reason_of_archive(path: Path) -> tuple[str, str] | None:
    """Problem and remedy by the entries of a zip archive; None if it may be of `torch.save`."""
    entries = zip_entries(path)
    # Entries of torch are in one folder, whose name is free.
    names = {entry.filename.partition("/")[2] for entry in entries}
    full = {entry.filename for entry in entries}
    if any(name.startswith("code/") for name in names) or "constants.pkl" in names:
        problem = "is TorchScript (torch.jit.save), which contains code"
        return problem, _TORCHSCRIPT
    if {"archive_format", "serialized_exported_program.json"} & (names | full):
        problem = "is an exported program (.pt2 of torch.export.save), which contains code"
        return problem, _EXPORTED
    if "model.weights.h5" in full:
        return "is a model of Keras", _KERAS
    if full and all(name.endswith(".npy") for name in full):
        remedy = "if its arrays are the tensors of a network, run in Python: import numpy, torch; torch.save({{name: "
        remedy += "torch.from_numpy(array) for name, array in numpy.load({path!r}).items()}}, {new!r})"
        return "is an archive of numpy arrays", remedy
    if "data.pkl" not in names:
        return "is a zip archive without the data.pkl of torch.save", _UNPACK
    # torch compresses the code of TorchScript only. A compressed entry may unpack to any size.
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        problem = "has been compressed after torch.save, so that it could unpack to any size"
        return problem, "unpack it and archive it without compression: zip -0 -r NEW.pth FOLDER"
    return None
