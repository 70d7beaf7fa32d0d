"""Source of features, the argument RUN_OR_ZOO of a command."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from metazoo.adapt import MetaModel
from metazoo.adapt.bundle import DESCRIPTION, description_file
from metazoo.adapt.card_text import source_licences
from metazoo.adapt.front_matter import front_matter, licences_of
from metazoo.data import UnlabelledImages
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
from metazoo.execution.progress import message
from metazoo.models import ClassifierSpec
from metazoo.pipeline.layout import DESCRIPTION as RUN
from metazoo.runs.record import Run
from metazoo.zoo import ModelContract, WhiteBoxTeacher, Zoo, zoo_with_models
from metazoo.zoo.contract_files import NAME as ZOO
from metazoo.zoo.importing.hub_files import is_hub_name


@dataclass(frozen=True)
class FeatureSource:
    """A meta-model, or a zoo (`meta_model` is None).

    Attributes:
        path: path given by the user, or hf:OWNER/NAME@COMMIT.
        meta_model: meta-model; None if a zoo was given.
        zoo: folder of the zoo; None if a meta-model was given without run and zoo.
        run: run of the meta-model; None if it was given without its run.
    """

    path: Path | str
    meta_model: MetaModel | None
    zoo: Path | None
    run: Run | None = None

    @property
    def record(self) -> str:
        """Note on the source for a classifier made from it, without folders above it, which nobody should publish."""
        return str(self.path) if is_hub_name(self.path) else Path(self.path).resolve().name

    def subject(self, in_turn_on: str | None = None) -> Subject:
        """Subject of the evaluation.

        Args:
            in_turn_on: device on which the models of a zoo are loaded one after the other, for batch norm `running`
                and a head that does not change the model; None: all models are held at once.
        """
        if self.meta_model is None:
            zoo = self._models()
            teachers = zoo.teachers_in_turn(in_turn_on or "cpu")
            return dataclasses.replace(_ensemble(teachers, in_turn_on), sha256=zoo.sha256)
        name, sha256 = self.meta_model.method, self.meta_model.sha256
        own = Subject.of(f"{name} meta-model", name, self.meta_model.module, sha256)
        return dataclasses.replace(own, unlabelled=self.meta_model.unlabelled, validated=self.meta_model.validated)

    def teachers(self) -> Sequence[WhiteBoxTeacher]:
        """Models of the zoo on the CPU, each loaded on access; see `Teachers`.

        Raises:
            UsageError: the zoo is unknown, missing or empty.
        """
        return self._models().teachers_in_turn("cpu")

    def _models(self) -> Zoo:
        if self.zoo is None:
            raise UsageError(self.path, "is a meta-model without its zoo", "give its run, or its zoo with --zoo")
        if self.meta_model is not None and not self.zoo.is_dir():
            raise UsageError(self.path, f"its zoo {self.zoo} is missing", "give the zoo with --zoo")
        return zoo_with_models(self.zoo)

    def licences(self) -> tuple[str, ...]:
        """Licences of the source models as in the card of a bundle; see `licences_of`."""
        if self.meta_model is not None:
            return licences_of(self.meta_model.card)
        return licences_of(front_matter([], source_licences({}, self._contracts(), None).values()))

    def class_lists(self) -> dict[str, tuple[str, ...]]:
        """Class names by model, also of a backbone from outside the zoo; empty if none are known."""
        backbone = {} if self.run is None else self.run.backbone_classes()
        return {contract.name: contract.class_names for contract in self._contracts()} | backbone

    def count_unlabelled(self, evaluated: UnlabelledImages) -> int | None:
        """Number of evaluated images among the unlabelled ones of the run, by their pixels.

        None for a data-free meta-model, and, with a note, for one that was given without its run.
        """
        if self.meta_model is None or not self.meta_model.unlabelled:
            return None
        found = None if self.run is None else self.run.count_unlabelled(evaluated)
        if found is None:
            message(
                f"note: {self.path} learned from {self.meta_model.unlabelled:,} unlabelled images; give its run to see "
                "whether evaluated images are among them"
            )
        return found

    def count_validated(self, evaluated: UnlabelledImages) -> int | None:
        """Number of evaluated images among the labelled validation images of the run, by their pixels.

        None for a run that used none, and, with a note, for a meta-model that was given without its run.
        """
        if self.meta_model is None or not self.meta_model.validated:
            return None
        if self.run is None:
            message(
                f"note: labelled validation images directed the run of {self.path}; give the run to see whether "
                "evaluated images are among them"
            )
            return None
        return self.run.count_validated(evaluated)

    def side(self) -> int:
        """Largest input side of all models in pixels."""
        specs = [contract.spec for contract in self._contracts()]
        specs += [self.meta_model.spec] if self.meta_model else []
        return max((spec.input_size for spec in specs), default=DEFAULT_SIDE)

    def _contracts(self) -> list[ModelContract]:
        # A meta-model works without its zoo, which may be missing.
        try:
            return [] if self.zoo is None else list(Zoo.open(self.zoo))
        except MetazooError:
            return []

    def table(self, seed: int = 0, in_turn_on: str | None = None) -> list[Subject]:
        """Baselines of the zoo, followed by the subject; see `subject` for `in_turn_on`."""
        zoo = self._models()
        teachers = zoo.teachers_in_turn(in_turn_on or "cpu")
        most_frequent = _most_frequent(zoo.contracts)
        spec = self.meta_model.spec if self.meta_model else most_frequent
        sha256 = zoo.sha256
        of_zoo = [parameter_average(teachers, most_frequent), best_teacher(teachers), _ensemble(teachers, in_turn_on)]
        return [
            raw_pixels(spec.input_size),
            random_initialisation(spec, seed),
            *(dataclasses.replace(row, sha256=sha256) for row in of_zoo if row is not None),
            *([self.subject()] if self.meta_model else []),
        ]


def open_source(path: str, zoo: str | None = None) -> FeatureSource:
    """Open a run, zoo or meta-model.

    Args:
        path: folder of a run, a zoo or a meta-model, or hf:OWNER/NAME of a meta-model, see `MetaModel.from_pretrained`.
        zoo: zoo folder of a run or meta-model; None: the zoo recorded in the run.

    Raises:
        UsageError: the folder is no run, zoo or meta-model, or `zoo` lacks a model of the run; or see
            `MetaModel.from_pretrained`.
        RunError: the run has not finished.
        ArtefactError: a file is missing or has changed.
    """
    if is_hub_name(path):
        meta_model = MetaModel.from_pretrained(path)
        return FeatureSource(meta_model.origin or path, meta_model, None if zoo is None else Zoo.open(zoo).folder)
    folder = Path(path)
    if (folder / RUN).is_file():
        run = Run.open(folder)
        if zoo is not None:
            run.check_zoo(Zoo.open(zoo))
        return FeatureSource(folder, run.meta_model, Path(zoo or run.description["zoo"]["path"]), run)
    if (folder / ZOO).is_file():
        if zoo is not None:
            raise UsageError("--zoo", f"{folder} is a zoo itself", "omit --zoo")
        return FeatureSource(folder, None, folder)
    if description_file(folder) is not None:
        return FeatureSource(folder, MetaModel.load(folder), None if zoo is None else Zoo.open(zoo).folder)
    remedy = "give a run folder, a zoo folder, a meta-model folder or hf:OWNER/NAME"
    if not folder.exists():
        raise UsageError(folder, "does not exist", remedy)
    raise UsageError(folder, f"holds no run ({RUN}), zoo ({ZOO}) or meta-model ({DESCRIPTION})", remedy)


def _ensemble(teachers: Sequence[WhiteBoxTeacher], in_turn_on: str | None) -> Subject:
    return zoo_ensemble(teachers) if in_turn_on is None else zoo_ensemble_in_turn(teachers, in_turn_on)


def _most_frequent(contracts: Sequence[ModelContract]) -> ClassifierSpec:
    specs = [contract.spec for contract in contracts]
    shapes = [(spec.architecture, spec.arguments, spec.input_size, spec.channels) for spec in specs]
    return specs[max(range(len(specs)), key=lambda index: (shapes.count(shapes[index]), -index))]
