"""What a table compares: the meta-model, and the baselines that any zoo offers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import torch
from torch import Tensor, nn

from metazoo.learn.embedders import Embedder, JointFeatures, JointFeaturesInTurn, PixelFeatures, count_parameters
from metazoo.models import ClassifierSpec, ImageClassifier, Network, build_classifier, network_without_weights
from metazoo.run.randomness import generator


@dataclass(frozen=True, eq=False)
class Subject:
    """One row of a table.

    Attributes:
        name: shown in the table, unique in it.
        method: machine-readable: a method of metazoo, or a baseline below.
        module: what features come from.
        parameters: that the features depend on (class heads not counted, since every new task replaces them).
    """

    name: str
    method: str
    module: Embedder
    parameters: int

    def on(self, device: str) -> Self:
        """The subject with its module moved to `device`."""
        if isinstance(self.module, nn.Module):
            self.module.to(device)
        return self

    @classmethod
    def of(cls, name: str, method: str, module: Embedder) -> Self:
        """A subject with its parameters counted."""
        return cls(name, method, module, count_parameters(module))


class Contract(Protocol):
    """What is needed of a zoo model's contract."""

    @property
    def name(self) -> str:
        """Of the model."""
        ...

    @property
    def accuracy(self) -> float | None:
        """Recorded validation accuracy in percent."""
        ...


class Teacher(Protocol):
    """What is needed of a frozen zoo model."""

    @property
    def contract(self) -> Contract:
        """Its record in the zoo."""
        ...

    @property
    def classifier(self) -> ImageClassifier:
        """Its network behind its preprocessing."""
        ...


def raw_pixels(side: int) -> Subject:
    """The pixels of images of `side` x `side` as features: what a task gives away without any model."""
    return Subject.of("raw pixels", "raw-pixels", PixelFeatures(side))


def random_initialisation(spec: ClassifierSpec, seed: int) -> Subject:
    """The architecture of `spec` with fresh weights, fixed by `seed`."""
    classifier = build_classifier(spec, generator(seed, "random-initialisation", spec.architecture))
    return Subject.of("random initialisation", "random-initialisation", classifier.eval())


def parameter_average(teachers: Sequence[Teacher], spec: ClassifierSpec) -> Subject | None:
    """Elementwise mean of weights and buffers over all teachers of `spec`'s architecture; None if fewer than 2 fit.

    A teacher fits if architecture, input size, channels and the shapes of the weights agree. Its mean and standard
    deviation of the pixels are averaged like any other parameter. Class heads, which the features do not pass, are left
    out (zero): those of different teachers stand for different classes.
    """
    specs: list[ClassifierSpec] = []
    sums: dict[str, Tensor] = {}
    for teacher in teachers:
        if _same_features(teacher.classifier, spec):
            specs.append(teacher.classifier.spec)
            for name, tensor in teacher.classifier.network.state_dict().items():
                if not name.startswith("head."):
                    # Integer buffers (batches seen) are averaged as numbers; copying the mean back casts it.
                    own = tensor.cpu().double()
                    sums[name] = sums[name].add_(own) if name in sums else own.clone()
    if len(specs) < 2:
        return None
    pixels = {
        name: tuple(sum(values) / len(specs) for values in zip(*(getattr(spec, name) for spec in specs), strict=True))
        for name in ("mean", "std")
    }
    average = build_classifier(spec.model_copy(update=pixels), torch.Generator().manual_seed(0)).eval()
    with torch.no_grad():
        for name, target in average.network.state_dict().items():
            if name in sums:
                target.copy_(sums[name] / len(specs))
        average.network.head.weight.zero_()
        average.network.head.bias.zero_()
    return Subject.of("parameter average", "parameter-average", average)


def best_teacher(teachers: Sequence[Teacher]) -> Subject | None:
    """The teacher with the highest recorded accuracy (of equals the first by name); None if none has one."""
    contracts = [teacher.contract for teacher in teachers]
    recorded = [
        (-contract.accuracy, contract.name, index)
        for index, contract in enumerate(contracts)
        if contract.accuracy is not None
    ]
    if not recorded:
        return None
    return Subject.of("best single teacher", "best-teacher", teachers[min(recorded)[2]].classifier)


_ENSEMBLE = "zoo ensemble", "zoo-ensemble"


def zoo_ensemble(teachers: Sequence[Teacher]) -> Subject:
    """The untrained ensemble: all teachers' normalised features side by side.

    Raises:
        UsageError: there is no teacher.
    """
    return Subject.of(*_ENSEMBLE, JointFeatures([teacher.classifier for teacher in teachers]))


def zoo_ensemble_in_turn(teachers: Sequence[Embedder], device: str) -> Subject:
    """The same of teachers on `device` that are loaded when they are asked for; see `JointFeaturesInTurn`."""
    parameters = sum(count_parameters(teacher) for teacher in teachers)
    return Subject(*_ENSEMBLE, JointFeaturesInTurn(teachers, device), parameters)


def _same_features(classifier: ImageClassifier, spec: ClassifierSpec) -> bool:
    names = ("architecture", "input_size", "channels")
    if any(getattr(classifier.spec, name) != getattr(spec, name) for name in names):
        return False
    return _shapes(classifier.network) == _shapes(network_without_weights(spec))


def _shapes(network: Network) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in network.state_dict().items() if not name.startswith("head.")}
