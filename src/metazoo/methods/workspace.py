"""What a method works with, whichever it is."""

from collections.abc import Callable
from dataclasses import dataclass

from metazoo.errors import Interrupted
from metazoo.run.compute import CPU, Compute
from metazoo.run.folder import RunFolder
from metazoo.run.metrics import MetricsLog
from metazoo.zoo import ModelContract, Zoo


@dataclass(frozen=True)
class Workspace:
    """One run at work, held by this process alone.

    Attributes:
        zoo: the teachers.
        folder: where artefacts go; what stands in its manifest is not made again.
        metrics: the run's diary.
        seed: of the run.
        workers: processes for work that falls into independent units.
        check: to be called where the state on disk is whole; raises `Interrupted` once a stop was asked for.
        progress: whether to say on standard error how far the run is.
        compute: where teachers and meta-model are, and how exactly teachers answer.
        images: whether recovered images of models whose contract allows it may be shown.
    """

    zoo: Zoo
    folder: RunFolder
    metrics: MetricsLog
    seed: int
    workers: int
    check: Callable[[], None]
    progress: bool
    compute: Compute = CPU
    images: bool = True

    def is_stopping(self) -> bool:
        """Whether `check` would raise now."""
        try:
            self.check()
        except Interrupted:
            return True
        return False

    @property
    def shown(self) -> list[ModelContract]:
        """The models whose recovered images may be shown."""
        return [contract for contract in self.zoo if self.images and contract.recovered_images == "show"]
