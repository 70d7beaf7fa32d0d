"""TensorBoard: event files in a folder."""

import importlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

from metazoo.text import expanded_path
from metazoo.tracking.tracker import Point, TrackedRun, Tracker

_FACTS = "run"


@final
class TensorBoardTracker(Tracker):
    """Event files of TensorBoard, in the folder `tracking` of the run, or in a folder of the run within the target.

    Options become a text and, since TensorBoard compares runs by them, its hyperparameters. Records are written without
    the `SummaryWriter` of torch, whose thread prints a traceback if the disk is full.
    """

    name = "tensorboard"
    library = "tensorboard"

    def __init__(self, run: TrackedRun, target: str | None) -> None:
        from torch.utils.tensorboard import RecordWriter, summary

        self._folder = run.folder if target is None else expanded_path(target) / run.label
        self.address = f"tensorboard --logdir {self._folder}"
        self._event = importlib.import_module("tensorboard.compat.proto.event_pb2").Event
        self._summary = summary
        self._held, has_facts = _content(self._folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        # Files are read in the order of their names.
        self._file = (self._folder / f"events.out.tfevents.{time.time_ns()}").open("xb")
        self._records = RecordWriter(self._file)
        self._write(file_version="brain.Event:2")
        if not has_facts:
            facts = json.dumps({"tags": dict(run.tags), "options": dict(run.parameters)}, indent=2, ensure_ascii=False)
            for part in (*summary.hparams(dict(run.parameters), {}), summary.text(_FACTS, f"```json\n{facts}\n```")):
                self._write(summary=part, step=0)
        self._file.flush()

    def held(self) -> set[tuple[str, int]]:
        """Scalars of all event files of the folder."""
        return self._held

    def log(self, points: Sequence[Point]) -> None:
        """Write scalars and flush them."""
        for point in points:
            self._write(summary=self._summary.scalar(point.name, point.value), step=point.step)
        self._file.flush()

    def close(self, *, finished: bool) -> None:
        """Close the event file."""
        self._file.close()

    def _write(self, **content: Any) -> None:
        self._records.write(self._event(wall_time=time.time(), **content).SerializeToString())


def _content(folder: Path) -> tuple[set[tuple[str, int]], bool]:
    """Scalars in the event files of a folder, and whether these have the facts on the run."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    if not folder.is_dir():
        return set(), False
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    names = events.Tags()
    scalars = {(name, event.step) for name in names["scalars"] for event in events.Scalars(name)}
    return scalars, f"{_FACTS}/text_summary" in names["tensors"]
