"""What every method is, and what it asks of a zoo."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

from pydantic import BaseModel

from metazoo.errors import UsageError
from metazoo.features.embedders import MultiDomainClassifier
from metazoo.models import ClassifierSpec, ImageClassifier, network_without_weights
from metazoo.pipeline.stage_plan import StagePlan
from metazoo.pipeline.workspace import Workspace
from metazoo.recover.statistics import batch_norm_layers
from metazoo.zoo import Zoo


@dataclass(frozen=True)
class Requirements:
    """What a method needs; a run that lacks it is refused before any work.

    Attributes:
        white_box: the weights of every model, and not only its answers.
        one_architecture: models that are all built alike, so that their weights can be joined.
        batch_norm: stored batch-norm statistics in every model.
        labelled_validation: a labelled validation set, in an option called `validation`; the run is not data-free.
    """

    white_box: bool = True
    one_architecture: bool = False
    batch_norm: bool = False
    labelled_validation: bool = False

    def __str__(self) -> str:
        """The names of what is needed, such as `white box, batch norm`."""
        return ", ".join(name.replace("_", " ") for name, needed in vars(self).items() if needed) or "nothing"


class Method(ABC):
    """A published method, in one or several presets.

    Attributes:
        name: as users type it.
        title: in full.
        reference: to cite.
        presets: named values of all its options; the type of the values is their schema.
        requires: what it needs of a zoo and of its options.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    reference: ClassVar[str]
    presets: ClassVar[Mapping[str, BaseModel]]
    requires: ClassVar[Requirements] = Requirements()

    def check(self, zoo: Zoo, config: Any, seed: int) -> None:  # noqa: B027 - most methods have nothing to add
        """Find what a run would come upon later, before any work; `requires` is checked already. Nothing is written.

        Args:
            zoo: one model or more.
            config: options, of the type of one of `presets`.
            seed: seed of the run.

        Raises:
            MetazooError: the error that the stage itself would raise.
        """

    def plan(self, zoo: Zoo, config: Any) -> Sequence[StagePlan]:
        """Declare the stages of a run with their numbers of units; see `metazoo.pipeline.stage_plan`.

        Args:
            zoo: one model or more.
            config: options, of the type of one of `presets`.

        Returns:
            Plans in the order of the run; none, as here, where nothing can be told before it.
        """
        return ()

    @abstractmethod
    def train(self, workspace: Workspace, config: Any) -> ImageClassifier | MultiDomainClassifier:
        """Learn a meta-model from the zoo; what an earlier call has finished is not done again.

        Args:
            workspace: zoo, run folder, seed and means of computation.
            config: options, of the type of one of `presets`.
        """


def check_before_work(method: Method, zoo: Zoo, config: Any, seed: int) -> None:
    """Check what `method` requires of the zoo and its options, then what it checks by itself.

    Raises:
        UsageError: a model or an option does not fit; it is named.
        MetazooError: as `Method.check`.
    """
    options = dict(_options_called("validation", config)) if method.requires.labelled_validation else {}
    unset = next((path for path, value in options.items() if value is None), None)
    if unset is not None:
        raise UsageError(f"{method.name} needs labelled images to validate on; name a set in the option {unset}")
    first = zoo.contracts[0]
    has_batch_norm = cache(_has_batch_norm)
    for contract in zoo:
        needed = None
        if method.requires.white_box and not contract.is_white_box:
            needed = "the weights of every model", "has none"
        elif method.requires.one_architecture and not _are_alike(contract.spec, first.spec):
            needed = "models that are all built alike", f"is not built as {first.name!r}"
        elif method.requires.batch_norm and not has_batch_norm(contract.spec.model_dump_json()):
            needed = "batch norm in every model", "has none"
        if needed is not None:
            raise UsageError(
                f"{method.name} needs {needed[0]}, and {contract.name!r} {needed[1]}; take it out by `metazoo zoo "
                f"remove {zoo.folder} {contract.name}`, or choose another of `metazoo methods`"
            )
    method.check(zoo, config, seed)


def _are_alike(one: ClassifierSpec, other: ClassifierSpec) -> bool:
    return (one.architecture, one.arguments) == (other.architecture, other.arguments)


def _has_batch_norm(spec: str) -> bool:
    return bool(batch_norm_layers(network_without_weights(ClassifierSpec.model_validate_json(spec))))


def _options_called(name: str, options: BaseModel, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The paths and values of all options of that name, at any depth."""
    for field in type(options).model_fields:
        value = getattr(options, field)
        if field == name:
            yield prefix + field, value
        elif isinstance(value, BaseModel):
            yield from _options_called(name, value, f"{prefix}{field}.")
