"""Subjects of an evaluation: meta-models and the baselines of a zoo."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from torch import nn

from metazoo.execution.randomness import generator
from metazoo.features.embedders import (
    Embedder,
    JointFeatures,
    JointFeaturesInTurn,
    PixelFeatures,
    count_parameters,
    input_size,
)
from metazoo.fusion import average_parameters
from metazoo.models import ClassifierSpec, build_classifier
from metazoo.zoo import WhiteBoxTeacher


@dataclass(frozen=True, eq=False)
class Subject:
    """Row of a table of results.

    Attributes:
        name: unique name in the table.
        method: name of a method of metazoo or of a baseline below.
        module: source of the features.
        parameters: number of parameters that the features depend on, without class heads.
        sha256: SHA-256 of the weights of a meta-model, or of the contracts of a zoo; None if unknown.
        unlabelled: number of unlabelled images that it learned from; 0 if there were none.
        validated: whether labelled validation images directed its run. With neither, it is data-free.
    """

    name: str
    method: str
    module: Embedder
    parameters: int
    sha256: str | None = None
    unlabelled: int = 0
    validated: bool = False

    def on(self, device: str) -> Self:
        """Move the module to a device and return the subject."""
        if isinstance(self.module, nn.Module):
            self.module.to(device)
        return self

    @classmethod
    def of(cls, name: str, method: str, module: Embedder, sha256: str | None = None) -> Self:
        """Make a subject and count its parameters."""
        return cls(name, method, module, count_parameters(module), sha256)


FIXED_BASELINES = frozenset({"raw-pixels", "random-initialisation"})
"""Names of the baselines that depend on no zoo."""
ZOO_BASELINES = frozenset({"parameter-average", "best-teacher", "zoo-ensemble"})
"""Names of the baselines that a zoo gives without meta-learning."""


def raw_pixels(side: int) -> Subject:
    """Baseline with the pixels of `side` x `side` images as features, without any model."""
    return Subject.of("raw pixels", "raw-pixels", PixelFeatures(side))


def random_initialisation(spec: ClassifierSpec, seed: int) -> Subject:
    """Baseline with the architecture of `spec` and random weights, determined by `seed`."""
    classifier = build_classifier(spec, generator(seed, "random-initialisation", spec.architecture))
    return Subject.of("random initialisation", "random-initialisation", classifier.eval())


def parameter_average(teachers: Sequence[WhiteBoxTeacher], spec: ClassifierSpec) -> Subject | None:
    """Baseline with averaged weights, see `metazoo.fusion.average_parameters`; None if fewer than 2 teachers fit."""
    average = average_parameters((teacher.classifier for teacher in teachers), spec)
    return None if average is None else Subject.of("parameter average", "parameter-average", average)


def best_teacher(teachers: Sequence[WhiteBoxTeacher]) -> Subject | None:
    """Teacher with the highest recorded accuracy (ties: the first by name); None if no accuracy is recorded."""
    contracts = [(teacher.contract, index) for index, teacher in enumerate(teachers)]
    recorded = [(-own.accuracy, own.name, index) for own, index in contracts if own.accuracy is not None]
    if not recorded:
        return None
    return Subject.of("best single teacher", "best-teacher", teachers[min(recorded)[2]].classifier)


_ENSEMBLE = "zoo ensemble", "zoo-ensemble"


def zoo_ensemble(teachers: Sequence[WhiteBoxTeacher]) -> Subject:
    """Ensemble of all teachers without meta-learning: their normalised features, concatenated.

    Raises:
        UsageError: there is no teacher.
    """
    return Subject.of(*_ENSEMBLE, JointFeatures([teacher.classifier for teacher in teachers]))


def zoo_ensemble_in_turn(teachers: Sequence[Embedder], device: str) -> Subject:
    """Ensemble of teachers on `device` that are loaded one after another; see `JointFeaturesInTurn`."""
    sizes = [(count_parameters(teacher), input_size(teacher)) for teacher in teachers]
    side = max(own for _, own in sizes)
    return Subject(*_ENSEMBLE, JointFeaturesInTurn(teachers, side, device), sum(own for own, _ in sizes))
