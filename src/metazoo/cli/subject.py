"""The RUN_OR_ZOO of a command line: where features come from."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from metazoo.adapt import MetaModel
from metazoo.data.load import DEFAULT_SIDE
from metazoo.errors import MetazooError, UsageError
from metazoo.evaluate import (
    Subject,
    best_teacher,
    parameter_average,
    random_initialisation,
    raw_pixels,
    zoo_ensemble,
)
from metazoo.models import ClassifierSpec
from metazoo.training import Run
from metazoo.zoo import ModelContract, WhiteBoxTeacher, Zoo


@dataclass(frozen=True)
class Source:
    """A run's meta-model, or a zoo (`meta_model` is None). `zoo` is the folder of the zoo, also of a run's."""

    meta_model: MetaModel | None
    zoo: Path

    def subject(self) -> Subject:
        """The row of a table."""
        if self.meta_model is None:
            return zoo_ensemble(self.teachers())
        name = self.meta_model.method
        return Subject.of(f"{name} meta-model", name, self.meta_model.classifier)

    def teachers(self) -> Sequence[WhiteBoxTeacher]:
        """The models of the zoo."""
        teachers = Zoo.open(self.zoo).teachers()
        if not teachers:
            raise UsageError(f"{self.zoo} holds no model; add some with `metazoo zoo build`")
        return teachers

    def class_names(self) -> set[str]:
        """Of all models of the zoo."""
        return {name for contract in self._contracts() for name in contract.class_names}

    def side(self) -> int:
        """The largest input of all models in pixels."""
        specs = [contract.spec for contract in self._contracts()]
        specs += [self.meta_model.classifier.spec] if self.meta_model else []
        return max((spec.input_size for spec in specs), default=DEFAULT_SIDE)

    def _contracts(self) -> list[ModelContract]:
        # A run does not need its zoo any more, so it may be gone.
        try:
            return list(Zoo.open(self.zoo))
        except MetazooError:
            return []

    def table(self, seed: int = 0) -> list[Subject]:
        """The subject below everything that its zoo offers without learning."""
        teachers = self.teachers()
        spec = self.meta_model.classifier.spec if self.meta_model else _most_frequent(teachers)
        rows = [
            raw_pixels(spec.input_size),
            random_initialisation(spec, seed),
            parameter_average(teachers, spec),
            best_teacher(teachers),
            zoo_ensemble(teachers),
            self.subject() if self.meta_model else None,
        ]
        return [row for row in rows if row is not None]


def open_source(path: str) -> Source:
    """Open what the user names.

    Raises:
        UsageError: it is neither a run nor a zoo.
        RunError: the run has not finished.
        ArtefactError: a file is missing or has changed.
    """
    folder = Path(path)
    if (folder / "run.json").is_file():
        run = Run.open(folder)
        return Source(run.meta_model, Path(run.description["zoo"]["path"]))
    if (folder / "zoo.json").is_file():
        return Source(None, folder)
    if not folder.exists():
        raise UsageError(f"{folder} does not exist; give a run folder or a zoo folder")
    raise UsageError(f"{folder} is neither a run folder (it has no run.json) nor a zoo folder (no zoo.json)")


def _most_frequent(teachers: Sequence[WhiteBoxTeacher]) -> ClassifierSpec:
    specs = [teacher.contract.spec for teacher in teachers]
    kinds = [(spec.architecture, spec.input_size, spec.channels) for spec in specs]
    return specs[max(range(len(specs)), key=lambda index: (kinds.count(kinds[index]), -index))]
