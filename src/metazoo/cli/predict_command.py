"""`metazoo predict`: one answer per image, of which a damaged one loses only its own."""

import contextlib
import csv
import glob
import http.client
import io
import json
import os
import re
import shutil
import sys
import urllib.request
from abc import ABC, abstractmethod
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.table import Table
from rich.text import Text
from torch import Tensor

from metazoo.adapt import FewShotClassifier, Neighbour
from metazoo.cli.options import STANDARD_INPUT
from metazoo.cli.output import print_table
from metazoo.data import decoded_or_errors, image_files
from metazoo.errors import MetazooError, UsageError
from metazoo.execution.compute import Compute
from metazoo.execution.progress import message
from metazoo.execution.threads import torch_threads
from metazoo.models import square_images
from metazoo.text import local_path, printable

_FILES_AT_ONCE = 256
_MOST_BYTES = 2**28
_SECONDS = 30
_UNKNOWN = "unknown"


@dataclass(frozen=True)
class _Answer:
    """Answer for one image.

    Attributes:
        image: path, address, or `-` for standard input.
        probabilities: probability of every class by name; empty if there is an error.
        is_unknown: whether the image belongs to none of the classes.
        nearest: most similar support images, if asked for.
        error: reason why the image has no class; None if it has one.
    """

    image: str
    probabilities: dict[str, float]
    is_unknown: bool = False
    nearest: Sequence[Neighbour] = ()
    error: str | None = None

    @property
    def name(self) -> str:
        """Most probable class."""
        return max(self.probabilities, key=self.probabilities.__getitem__)


def predict(options: Namespace) -> int:
    """Classify images and print their classes; 1 if an image could not be read or copied."""
    classifier = FewShotClassifier.from_pretrained(options.classifier).to(Compute.choose(options.device).device)
    if options.images.count(STANDARD_INPUT) > 1:
        raise UsageError(STANDARD_INPUT, "given twice", "give it once, since it holds one image")
    images = [image for given in options.images for image in images_of(given, allow_urls=options.allow_urls)]
    if options.nearest is not None and classifier.support_features is None:
        remedy = "omit --nearest, or adapt again with head logistic and batch norm running"
        raise UsageError(options.classifier, "stores no features of its support images", remedy)
    copies = None
    if options.copy_to is not None:
        copies = _Copies(Path(options.copy_to), classifier.class_names, options.images)
    writer = _WRITERS[options.format](shows_nearest=options.nearest is not None)
    if classifier.transductive:
        message(_transductive(classifier))
    unread = uncopied = 0
    with torch_threads(options.threads):
        for answer in _answers(classifier, images, options.nearest):
            writer.write(answer)
            unread += answer.error is not None
            if copies is not None and answer.error is None:
                uncopied += not copies.add(answer)
    writer.end()
    for count, verb in ((unread, "read"), (uncopied, "copied")):
        if count:
            message(f"metazoo: {count} of {len(images)} images could not be {verb}")
    return int(unread + uncopied > 0)


def _answers(classifier: FewShotClassifier, images: Sequence[str], nearest: int | None) -> Iterator[_Answer]:
    """Answers in the order of `images`; a transductive classifier predicts all of them together."""
    size = len(images) if classifier.transductive else _FILES_AT_ONCE
    for start in range(0, len(images), size):
        part = images[start : start + size]
        # Pictures are resized as they come, so that few large ones are in memory.
        found = [
            own if isinstance(own, MetazooError) else square_images(own.unsqueeze(0), classifier.side)
            for own in _decoded(part)
        ]
        squares = [own for own in found if isinstance(own, Tensor)]
        rows = iter(_rows(classifier, torch.cat(squares), nearest) if squares else ())
        for image, own in zip(part, found, strict=True):
            if isinstance(own, MetazooError):
                yield _Answer(image, {}, error=f"{own.problem}; {own.remedy}")
            else:
                probabilities, is_unknown, neighbours = next(rows)
                by_class = dict(zip(classifier.class_names, probabilities, strict=True))
                yield _Answer(image, by_class, is_unknown, neighbours)


def _rows(
    classifier: FewShotClassifier, squares: Tensor, nearest: int | None
) -> Iterator[tuple[list[float], bool, Sequence[Neighbour]]]:
    found = classifier.predict(squares)
    neighbours = [[]] * len(squares) if nearest is None else classifier.nearest(squares, nearest)
    return zip(found.probabilities.tolist(), found.unknown.tolist(), neighbours, strict=True)


def _decoded(images: Sequence[str]) -> Iterator[Tensor | MetazooError]:
    from_files = decoded_or_errors([Path(image) for image in images if not _is_stream(image)])
    for image in images:
        if image == STANDARD_INPUT:
            yield _from_standard_input()
        else:
            yield _from_address(image) if _is_address(image) else next(from_files)


def _is_stream(image: str) -> bool:
    return image == STANDARD_INPUT or _is_address(image)


def _is_address(image: str) -> bool:
    return re.match("https?://", image, re.IGNORECASE) is not None


def _from_address(address: str) -> Tensor | MetazooError:
    request = urllib.request.Request(address, headers={"User-Agent": "metazoo"})
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
            data = answer.read(_MOST_BYTES + 1)
    except (OSError, ValueError, http.client.HTTPException) as error:
        return UsageError(address, f"cannot be fetched ({error})", "check the address")
    return _from_bytes(address, data)


def _from_standard_input() -> Tensor | MetazooError:
    return _from_bytes("standard input", b"" if sys.stdin is None else sys.stdin.buffer.read(_MOST_BYTES + 1))


def _from_bytes(name: str, data: bytes) -> Tensor | MetazooError:
    if not data or len(data) > _MOST_BYTES:
        problem = f"holds more than {_MOST_BYTES:,} bytes" if data else "holds nothing"
        return UsageError(name, problem, "give an image file")
    return next(decoded_or_errors([io.BytesIO(data)]))


def images_of(given: str, *, allow_urls: bool = False) -> list[str]:
    """Images of an argument: a file, a folder with images at any depth, a pattern, standard input, or an address.

    Raises:
        UsageError: a folder or pattern without images, or an address without `allow_urls`.
    """
    if given == STANDARD_INPUT or (allow_urls and _is_address(given)):
        return [given]
    if _is_address(given):
        raise UsageError(printable(given[:100]), "is an address", "give --allow-urls to fetch images")
    path = Path(local_path(given))
    if os.path.isdir(given):  # noqa: PTH112 - no error for a name that is too long
        below = sorted(folder for folder in path.rglob("*") if folder.is_dir())
        folders = [path, *(folder for folder in below if not any(map(_is_hidden, folder.relative_to(path).parts)))]
        files = [str(file) for folder in folders for file in image_files(folder, unsupported=True)]
        if not files:
            raise UsageError(given, "holds no image", "give images or a folder with images")
        return files
    if not os.path.exists(given) and re.search(r"[*?[]", given):  # noqa: PTH110
        found = glob.glob(given, recursive=True)  # noqa: PTH207 - a pattern may be absolute
        files = [file for file in sorted(found) if Path(file).is_file()]
        if not files:
            raise UsageError(given, "matches no file", "check the pattern")
        return files
    return [given]


def _is_hidden(name: str) -> bool:
    return name.startswith(".")


class _Copies:
    """Copies of the images in one folder per class. Nothing is replaced: a name that is taken gets a number."""

    def __init__(self, folder: Path, class_names: Sequence[str], inputs: Sequence[str]) -> None:
        if folder.exists() and not folder.is_dir():
            raise UsageError(folder, "is not a folder", "choose another --copy-to")
        for given in inputs:
            if not _is_stream(given) and Path(given).resolve() in (folder.resolve(), *folder.resolve().parents):
                raise UsageError(folder, f"is in {given}, whose images are classified", "choose another --copy-to")
        # A class of the same name keeps its folder.
        names = _folder_names([*class_names, *({_UNKNOWN} - set(class_names))])
        self._folders = {name: folder / own for name, own in names.items()}

    def add(self, answer: _Answer) -> bool:
        """Copy an image; False, with a message, if the system cannot."""
        if _is_stream(answer.image):
            return True
        source, folder = Path(answer.image), self._folders[_UNKNOWN if answer.is_unknown else answer.name]
        temporary = folder / f".{os.getpid()}.tmp"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, temporary)
            target, number = folder / source.name, 1
            while target.exists():
                number += 1
                target = folder / f"{source.stem}-{number}{source.suffix}"
            temporary.rename(target)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            message(f"{printable(answer.image)}: cannot be copied to {folder} ({error.strerror or error})")
            return False
        return True


def _folder_names(class_names: Sequence[str]) -> dict[str, str]:
    """Different folder names for classes, also where case does not matter."""
    names: dict[str, str] = {}
    taken = set[str]()
    for class_name in class_names:
        plain = re.sub(r'[\x00-\x1f/\\:*?"<>|]', "_", class_name).strip(" .")[:100] or "_"
        plain = f"_{plain}" if re.fullmatch(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?", plain) else plain
        name, number = plain, 1
        while name.casefold() in taken:
            number += 1
            name = f"{plain}-{number}"
        taken.add(name.casefold())
        names[class_name] = name
    return names


def _transductive(classifier: FewShotClassifier) -> str:
    made = classifier.description
    text = (
        f"note: this classifier (head {made.head}, batch norm {made.batch_norm}) predicts all images together: "
        "the result of one depends on the others"
    )
    if made.head_kind == "soft-k-means-balanced":
        text += ", and equally many images per class are assumed"
    return text


class _Writer(ABC):
    """Writer of answers in one format."""

    def __init__(self, *, shows_nearest: bool) -> None:
        self._shows_nearest = shows_nearest

    @abstractmethod
    def write(self, answer: _Answer) -> None:
        """Write an answer, or keep it for the end."""

    def end(self) -> None:  # noqa: B027 - most formats have no end
        """Write what is left."""


class _TableWriter(_Writer):
    def __init__(self, *, shows_nearest: bool) -> None:
        super().__init__(shows_nearest=shows_nearest)
        self._table = Table()
        self._table.add_column("image", overflow="fold")
        self._table.add_column("class", overflow="fold")
        self._table.add_column("probability", justify="right")
        if shows_nearest:
            self._table.add_column("most similar support images", overflow="fold")

    def write(self, answer: _Answer) -> None:
        image = Text(printable(answer.image))
        if answer.error is not None:
            self._table.add_row(image, Text(f"error: {printable(answer.error)}"), "")
            return
        name = printable(answer.name)
        row = [image, Text(f"unknown ({name}?)" if answer.is_unknown else name)]
        row.append(Text(f"{answer.probabilities[answer.name]:.3f}"))
        if self._shows_nearest:
            row.append(Text(_neighbours_text(answer)))
        self._table.add_row(*row)

    def end(self) -> None:
        print_table(self._table)


class _CsvWriter(_Writer):
    def __init__(self, *, shows_nearest: bool) -> None:
        super().__init__(shows_nearest=shows_nearest)
        self._writer = csv.writer(sys.stdout, lineterminator="\n")
        nearest = ("nearest",) if shows_nearest else ()
        self._writer.writerow(("image", "class", "probability", "unknown", *nearest, "error"))

    def write(self, answer: _Answer) -> None:
        nearest = (_neighbours_text(answer),) if self._shows_nearest else ()
        if answer.error is None:
            probability, unknown = f"{answer.probabilities[answer.name]:.6f}", str(answer.is_unknown).lower()
            row = (answer.image, answer.name, probability, unknown, *nearest, "")
        else:
            row = (answer.image, "", "", "", *nearest, answer.error)
        self._writer.writerow(row)


class _JsonLinesWriter(_Writer):
    def write(self, answer: _Answer) -> None:
        if answer.error is None:
            record = {"image": answer.image, "class": answer.name, "probabilities": answer.probabilities}
            record["unknown"] = answer.is_unknown
            if self._shows_nearest:
                record["nearest"] = [
                    {"image": own.name, "class": own.class_name, "similarity": own.similarity} for own in answer.nearest
                ]
        else:
            record = {"image": answer.image, "error": answer.error}
        print(json.dumps(record))


def _neighbours_text(answer: _Answer) -> str:
    return ", ".join(f"{printable(own.name)} ({own.similarity:.3f})" for own in answer.nearest)


_WRITERS: dict[str, type[_Writer]] = {"table": _TableWriter, "csv": _CsvWriter, "jsonl": _JsonLinesWriter}
