"""The RUN_OR_ZOO of a command line: where features come from."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from metazoo.adapt import MetaModel
from metazoo.adapt.bundle import DESCRIPTION, description_file
from metazoo.data.load import DEFAULT_SIDE
from metazoo.errors import MetazooError, UsageError
from metazoo.evaluate import (
    Subject,
    best_teacher,
    parameter_average,
    random_initialisation,
    raw_pixels,
    zoo_ensemble,
    zoo_ensemble_in_turn,
)
from metazoo.models import ClassifierSpec
from metazoo.runs.record import Run
from metazoo.zoo import ModelContract, WhiteBoxTeacher, Zoo, zoo_with_models


@dataclass(frozen=True)
class FeatureSource:
    """A meta-model, or a zoo (`meta_model` is None).

    Attributes:
        path: path given by the user.
        meta_model: None if a zoo was given.
        zoo: the folder of the zoo, also of a run's; None if a meta-model was given without its run.
    """

    path: Path
    meta_model: MetaModel | None
    zoo: Path | None

    def subject(self, in_turn_on: str | None = None) -> Subject:
        """The row of a table.

        Args:
            in_turn_on: the device to compute on, where models of a zoo need not all be held at once: with batch norm
                `running` and a head that leaves a model alone.
        """
        if self.meta_model is None:
            return _ensemble(self.teachers(in_turn_on), in_turn_on)
        name = self.meta_model.method
        return Subject.of(f"{name} meta-model", name, self.meta_model.module)

    def teachers(self, device: str | None = None) -> Sequence[WhiteBoxTeacher]:
        """The models of the zoo on `device`, the CPU if None, each loaded when it is asked for; see `Teachers`.

        Raises:
            UsageError: it is unknown, gone, or holds none.
        """
        if self.zoo is None:
            raise UsageError(f"{self.path} is a meta-model alone, which knows of no zoo; give the run that it is from")
        return zoo_with_models(self.zoo).teachers_in_turn(device or "cpu")

    def class_lists(self) -> dict[str, tuple[str, ...]]:
        """Names of the classes of every model, by its name; of a zoo that is gone there is nothing."""
        return {contract.name: contract.class_names for contract in self._contracts()}

    def side(self) -> int:
        """The largest input of all models in pixels."""
        specs = [contract.spec for contract in self._contracts()]
        specs += [self.meta_model.spec] if self.meta_model else []
        return max((spec.input_size for spec in specs), default=DEFAULT_SIDE)

    def _contracts(self) -> list[ModelContract]:
        # A meta-model does not need its zoo any more, so it may be gone.
        try:
            return [] if self.zoo is None else list(Zoo.open(self.zoo))
        except MetazooError:
            return []

    def table(self, seed: int = 0, in_turn_on: str | None = None) -> list[Subject]:
        """The subject below everything that its zoo offers without learning; `in_turn_on` as for `subject`."""
        teachers = self.teachers(in_turn_on)
        most_frequent = _most_frequent(self._contracts())
        spec = self.meta_model.spec if self.meta_model else most_frequent
        rows = [
            raw_pixels(spec.input_size),
            random_initialisation(spec, seed),
            parameter_average(teachers, most_frequent),
            best_teacher(teachers),
            _ensemble(teachers, in_turn_on),
            self.subject() if self.meta_model else None,
        ]
        return [row for row in rows if row is not None]


def open_source(path: str) -> FeatureSource:
    """Open what the user names.

    Raises:
        UsageError: it is no run, zoo or meta-model.
        RunError: the run has not finished.
        ArtefactError: a file is missing or has changed.
    """
    folder = Path(path)
    if (folder / "run.json").is_file():
        run = Run.open(folder)
        return FeatureSource(folder, run.meta_model, Path(run.description["zoo"]["path"]))
    if (folder / "zoo.json").is_file():
        return FeatureSource(folder, None, folder)
    if description_file(folder) is not None:
        return FeatureSource(folder, MetaModel.load(folder), None)
    if not folder.exists():
        raise UsageError(f"{folder} does not exist; give a run folder, a zoo folder or a meta-model folder")
    raise UsageError(
        f"{folder} is no run folder (it has no run.json), no zoo folder (no zoo.json) and no meta-model folder "
        f"(no {DESCRIPTION})"
    )


def _ensemble(teachers: Sequence[WhiteBoxTeacher], in_turn_on: str | None) -> Subject:
    return zoo_ensemble(teachers) if in_turn_on is None else zoo_ensemble_in_turn(teachers, in_turn_on)


def _most_frequent(contracts: Sequence[ModelContract]) -> ClassifierSpec:
    specs = [contract.spec for contract in contracts]
    kinds = [(spec.architecture, spec.arguments, spec.input_size, spec.channels) for spec in specs]
    return specs[max(range(len(specs)), key=lambda index: (kinds.count(kinds[index]), -index))]
