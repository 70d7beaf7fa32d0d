"""`metazoo predict`: one answer per image, of which a damaged one loses only its own."""

import csv
import glob
import io
import json
import re
import shutil
import sys
from abc import ABC, abstractmethod
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from rich.table import Table
from rich.text import Text
from torch import Tensor

from metazoo.adapt import FewShotClassifier
from metazoo.cli.options import STANDARD_INPUT
from metazoo.cli.output import print_table
from metazoo.data import decoded_or_errors, image_files
from metazoo.errors import MetazooError, UsageError
from metazoo.execution.compute import Compute
from metazoo.execution.progress import message
from metazoo.execution.threads import torch_threads
from metazoo.text import printable

_FILES_AT_ONCE = 256
_MOST_BYTES = 2**28


@dataclass(frozen=True)
class _Answer:
    """Answer for one image.

    Attributes:
        image: path, or `-` for standard input.
        probabilities: probability of every class by name; empty if there is an error.
        error: reason why the image has no class; None if it has one.
    """

    image: str
    probabilities: dict[str, float]
    error: str | None = None

    @property
    def name(self) -> str:
        """Most probable class."""
        return max(self.probabilities, key=self.probabilities.__getitem__)


def predict(options: Namespace) -> int:
    """Classify images and print their classes; 1 if an image could not be read."""
    classifier = FewShotClassifier.load(options.classifier).to(Compute.choose(options.device).device)
    images = [image for given in options.images for image in images_of(given)]
    copies = None if options.copy_to is None else _Copies(Path(options.copy_to))
    writer = _WRITERS[options.format]()
    if classifier.transductive:
        message(_transductive(classifier))
    failed = 0
    with torch_threads(options.threads):
        for answer in _answers(classifier, images):
            writer.write(answer)
            failed += answer.error is not None
            if copies is not None and answer.error is None:
                copies.add(answer)
    writer.end()
    if failed:
        message(f"metazoo: {failed} of {len(images)} images could not be read")
    return int(failed > 0)


def _answers(classifier: FewShotClassifier, images: Sequence[str]) -> Iterator[_Answer]:
    """Answers in the order of `images`; a transductive classifier predicts all of them together."""
    size = len(images) if classifier.transductive else _FILES_AT_ONCE
    for start in range(0, len(images), size):
        part = images[start : start + size]
        decoded = [*decoded_or_errors([_source(image) for image in part])]
        readable = [pixels for pixels in decoded if isinstance(pixels, Tensor)]
        rows = iter(classifier.predict(readable).probabilities.tolist() if readable else ())
        for image, pixels in zip(part, decoded, strict=True):
            if isinstance(pixels, MetazooError):
                yield _Answer(image, {}, f"{pixels.problem}; {pixels.remedy}")
            else:
                yield _Answer(image, dict(zip(classifier.class_names, next(rows), strict=True)))


def _source(image: str) -> Path | io.BytesIO:
    if image != STANDARD_INPUT:
        return Path(image)
    data = sys.stdin.buffer.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise UsageError("standard input", f"holds more than {_MOST_BYTES:,} bytes", "give an image file")
    return io.BytesIO(data)


def images_of(given: str) -> list[str]:
    """Images of an argument: a file, a folder with images at any depth, a pattern, or standard input.

    Raises:
        UsageError: a folder or pattern without images.
        DataError: a folder with an image of an unsupported format.
    """
    path = Path(given)
    if given == STANDARD_INPUT:
        return [given]
    if path.is_dir():
        below = sorted(folder for folder in path.rglob("*") if folder.is_dir())
        folders = [path, *(folder for folder in below if not any(map(_is_hidden, folder.relative_to(path).parts)))]
        files = [str(file) for folder in folders for file in image_files(folder)]
        if not files:
            raise UsageError(given, "holds no image", "give images or a folder with images")
        return files
    if not path.exists() and re.search(r"[*?[]", given):
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

    def __init__(self, folder: Path) -> None:
        if folder.exists() and not folder.is_dir():
            raise UsageError(folder, "is not a folder", "choose another --copy-to")
        self._folder = folder

    def add(self, answer: _Answer) -> None:
        if answer.image == STANDARD_INPUT:
            return
        source, folder = Path(answer.image), self._folder / _folder_name(answer.name)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            target, number = folder / source.name, 1
            while target.exists():
                number += 1
                target = folder / f"{source.stem}-{number}{source.suffix}"
            shutil.copyfile(source, target)
        except OSError as error:
            problem = f"{source.name} cannot be copied ({error.strerror or error})"
            raise MetazooError(folder, problem, "choose another --copy-to") from error


def _folder_name(name: str) -> str:
    cleaned = re.sub(r'[\x00-\x1f/\\:*?"<>|]', "_", name).strip(" .")
    return cleaned or "_"


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

    @abstractmethod
    def write(self, answer: _Answer) -> None:
        """Write an answer, or keep it for the end."""

    def end(self) -> None:  # noqa: B027 - most formats have no end
        """Write what is left."""


class _TableWriter(_Writer):
    def __init__(self) -> None:
        self._table = Table(caption="probabilities are not calibrated")
        self._table.add_column("image", overflow="fold")
        self._table.add_column("class", overflow="fold")
        self._table.add_column("probability", justify="right")

    def write(self, answer: _Answer) -> None:
        image = Text(printable(answer.image))
        if answer.error is None:
            self._table.add_row(image, Text(printable(answer.name)), f"{answer.probabilities[answer.name]:.3f}")
        else:
            self._table.add_row(image, Text(f"error: {printable(answer.error)}"), "")

    def end(self) -> None:
        print_table(self._table)


class _CsvWriter(_Writer):
    _columns: ClassVar = ("image", "class", "probability", "error")

    def __init__(self) -> None:
        self._writer = csv.writer(sys.stdout, lineterminator="\n")
        self._writer.writerow(self._columns)

    def write(self, answer: _Answer) -> None:
        if answer.error is None:
            row = (answer.image, answer.name, f"{answer.probabilities[answer.name]:.6f}", "")
        else:
            row = (answer.image, "", "", answer.error)
        self._writer.writerow(row)


class _JsonLinesWriter(_Writer):
    def write(self, answer: _Answer) -> None:
        if answer.error is None:
            record = {"image": answer.image, "class": answer.name, "probabilities": answer.probabilities}
        else:
            record = {"image": answer.image, "error": answer.error}
        print(json.dumps(record))


_WRITERS: dict[str, type[_Writer]] = {"table": _TableWriter, "csv": _CsvWriter, "jsonl": _JsonLinesWriter}
