"""Curves of accuracy while a meta-model learns, measured within the cells of a study."""

import copy
import time
from functools import cached_property
from pathlib import Path
from typing import Any, final

from metazoo.data import load_images_at
from metazoo.evaluate import Subject
from metazoo.pipeline.stepping import LEARNING
from metazoo.pipeline.workspace import LearningStep
from metazoo.storage.artefacts import read_json, write_json
from metazoo.study.measuring import measure
from metazoo.study.study_file import Curve, Protocol

CURVE = "curve.json"
"""Name of the curve in the folder of a cell."""


def read_curve(folder: Path) -> list[dict[str, Any]]:
    """Points of the curve in a cell folder; empty if there are none."""
    path = folder / CURVE
    return read_json(path)["points"] if path.is_file() else []


@final
class CurveMeter:
    """Measurement of a meta-model while it learns, called after every step of learning.

    Points are stored after each measurement. A point that a killed run has stored is not measured again.

    Attributes:
        seconds: wall time of all measurements, also of earlier attempts.

    Args:
        folder: folder of the cell.
        data: sources of images of unseen classes, by name.
        side: side in pixels of images whose source has none of its own.
        protocol: protocol of the study.
        curve: options of the curve.
    """

    def __init__(self, folder: Path, data: dict[str, str], side: int, protocol: Protocol, curve: Curve) -> None:
        self._folder, self._data, self._side = folder, data, side
        self._protocol, self._curve, self._points = protocol, curve, read_curve(folder)
        self.seconds = float(read_json(folder / CURVE)["seconds"]) if self._points else 0.0

    @cached_property
    def _images(self) -> dict[str, Any]:
        return {name: load_images_at(source, self._side) for name, source in self._data.items()}

    def __call__(self, learning: LearningStep) -> None:
        """Measure the meta-model if the step is one of the curve.

        Raises:
            Interrupted: a stop was requested.
            MetazooError: features of the meta-model are not finite.
        """
        step, curve, protocol = learning.step, self._curve, self._protocol
        is_due = step % curve.every == 0 or step == learning.steps
        if learning.stage != LEARNING or not is_due or any(point["step"] == step for point in self._points):
            return
        start = time.monotonic()
        module = copy.deepcopy(learning.classifier).eval().requires_grad_(False)
        points = []
        for name, images in self._images.items():
            found = measure(
                Subject.of("learning", "learning", module),
                images,
                protocol,
                head=curve.head or protocol.head,
                batch_norm=curve.batch_norm,
                episodes=curve.episodes,
            )
            points += [
                {"step": step, "data": name, "shots": own.shots, "accuracy": own.accuracy, "interval": own.interval}
                for own in found
            ]
        self._points = sorted([*self._points, *points], key=lambda point: point["step"])
        self.seconds += time.monotonic() - start
        record = {"format_version": 1, "seconds": self.seconds, "points": self._points}
        write_json(self._folder / CURVE, record)
