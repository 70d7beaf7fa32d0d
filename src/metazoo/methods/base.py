"""Base class of methods, and the requirements of a method."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from metazoo.data import UnlabelledImages
from metazoo.errors import UsageError
from metazoo.features.embedders import MetaModelModule
from metazoo.models import ClassifierSpec, check_registered, network_without_weights
from metazoo.pipeline.stage_plan import StagePlan
from metazoo.pipeline.unlabelled_stage import UnlabelledConfig
from metazoo.pipeline.workspace import Workspace
from metazoo.recover.statistics import batch_norm_layers
from metazoo.zoo import Zoo

Origin = Literal["images", "weights", "backbone", "nothing"]
"""What a meta-model is made of: images recovered from the models (or given), the weights of the models themselves, a
pre-trained network from outside the zoo, or random weights."""


@dataclass(frozen=True)
class Requirements:
    """Requirements of a method, which are checked before any work.

    Attributes:
        white_box: whether it needs the weights of every model, not only its outputs.
        one_architecture: whether all models must have one architecture, so that their weights can be joined.
        batch_norm: whether it needs stored batch-norm statistics in every model.
        labelled_validation: whether it needs a labelled validation set, in an option called `validation`; such a run is
            not data-free, and says so wherever its accuracy stands.
    """

    white_box: bool = True
    one_architecture: bool = False
    batch_norm: bool = False
    labelled_validation: bool = False

    def __str__(self) -> str:
        """Names of the requirements, such as `white box, batch norm`."""
        return ", ".join(name.replace("_", " ") for name, needed in vars(self).items() if needed) or "nothing"


class NoOptions(BaseModel):
    """Options of a method that has none."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Method(ABC):
    """Method with one or several presets.

    Attributes:
        name: name on the command line.
        title: full name.
        reference: publication to cite.
        presets: values of all its options by the name of the preset; the type of a value is the schema of the options.
        requires: requirements of the zoo and of the options; see also `requires_in`.
        is_random: whether the result depends on the seed.
        uses: what the meta-model is made of; see also `uses_in`.
        paths: options that may be paths, each with the function that makes its value absolute, from the value and the
            folder of relative paths. A study takes such values relative to its file, or from its sources.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    reference: ClassVar[str]
    presets: ClassVar[Mapping[str, BaseModel]]
    requires: ClassVar[Requirements] = Requirements()
    is_random: ClassVar[bool] = True
    uses: ClassVar[Origin] = "images"
    paths: ClassVar[Mapping[str, Callable[[str, Path], str]]] = {}

    def absolute_paths(self, options: Mapping[str, Any], folder: Path) -> dict[str, Any]:
        """Values of those `options` that may be paths, made absolute.

        Args:
            options: values by the name of the option.
            folder: folder of relative paths.

        Raises:
            UsageError: a value is no path.
        """
        given = {name: options[name] for name in self.paths if isinstance(options.get(name), str)}
        return {name: self.paths[name](value, folder) for name, value in given.items()}

    def uses_in(self, zoo: Zoo, config: Any) -> Origin:
        """What the meta-model of a run is made of, by default `uses`.

        Args:
            zoo: one model or more.
            config: options, of the type of one of `presets`.
        """
        return self.uses

    def requires_in(self, config: Any) -> Requirements:
        """Requirements of a run, by default `requires`.

        Args:
            config: options, of the type of one of `presets`.
        """
        return self.requires

    def inputs(self, zoo: Zoo, config: Any) -> Mapping[str, str]:
        """SHA-256 of what a run depends on besides the zoo and the options, by its name; by default empty.

        A run records them when it begins, and is not continued with others.

        Args:
            zoo: one model or more.
            config: options, of the type of one of `presets`.
        """
        return {}

    def check(self, zoo: Zoo, config: Any, seed: int) -> None:  # noqa: B027 - most methods have nothing to add
        """Raise the errors that a run would meet later. Nothing is written; `requires` is already checked.

        Args:
            zoo: one model or more.
            config: options, of the type of one of `presets`.
            seed: seed of the run.

        Raises:
            MetazooError: the error that a stage would raise.
        """

    def plan(self, zoo: Zoo, config: Any, unlabelled: UnlabelledImages | None = None) -> Sequence[StagePlan]:
        """Declare the stages of a run with their numbers of units; see `metazoo.pipeline.stage_plan`.

        Args:
            zoo: one model or more.
            config: options, of the type of one of `presets`.
            unlabelled: unlabelled images; given only to a method that takes some, see `unlabelled_options`.

        Returns:
            Plans in the order of the run; empty, the default, if nothing is known before it.
        """
        return ()

    @abstractmethod
    def train(self, workspace: Workspace, config: Any) -> MetaModelModule:
        """Learn a meta-model from the zoo, and skip work that an earlier call has finished.

        Args:
            workspace: zoo, run folder, seed and means of computation.
            config: options, of the type of one of `presets`.
        """


def unlabelled_options(config: BaseModel) -> UnlabelledConfig | None:
    """Options of unlabelled images, the section `unlabelled` of a method that takes some; None if it takes none."""
    found = getattr(config, "unlabelled", None)
    return found if isinstance(found, UnlabelledConfig) else None


def check_before_work(
    method: Method, zoo: Zoo, config: Any, seed: int, unlabelled: UnlabelledImages | None = None
) -> None:
    """Check the requirements of `method` and the unlabelled images, then call `Method.check`.

    Raises:
        UsageError: a model or an option does not meet the requirements, or unlabelled images cannot be used.
        DataError: the source of unlabelled images cannot be used.
        MetazooError: an error of `Method.check`.
    """
    if unlabelled is not None:
        _check_unlabelled(method, config, unlabelled)
    requires = method.requires_in(config)
    options = dict(_options_called("validation", config)) if requires.labelled_validation else {}
    unset = next((path for path, value in options.items() if value is None), None)
    if unset is not None:
        raise UsageError(unset, f"missing, and {method.name} needs labelled images for validation", "name an image set")
    first = zoo.contracts[0]
    has_batch_norm = cache(_has_batch_norm)
    for contract in zoo:
        try:
            check_registered(contract.spec.architecture)
        except UsageError as error:
            model = f"model {contract.name!r} of {zoo.folder}"
            raise UsageError(model, f"{error.subject}: {error.problem}", error.remedy) from error
        needed = None
        if requires.white_box and not contract.is_white_box:
            needed = "the weights of every model", "it has none"
        elif requires.one_architecture and not _are_alike(contract.spec, first.spec):
            needed = "models of one architecture", f"it differs from {first.name!r}"
        elif requires.batch_norm and not has_batch_norm(contract.spec.model_dump_json()):
            needed = "batch norm in every model", "it has none"
        if needed is not None:
            raise UsageError(
                f"model {contract.name!r}",
                f"{method.name} needs {needed[0]}; {needed[1]}",
                f"remove it with `metazoo zoo remove {zoo.folder} {contract.name}`, or choose another method",
            )
    method.check(zoo, config, seed)


def check_takes_unlabelled(method: Method, config: BaseModel) -> UnlabelledConfig:
    """Options of unlabelled images of a method that takes some.

    Raises:
        UsageError: the method takes none with these options.
    """
    options = unlabelled_options(config)
    if options is None:
        takes = [name for name, own in method.presets.items() if unlabelled_options(own) is not None]
        remedy = f"choose a preset that does: {', '.join(takes)}" if takes else "choose tgr or zoo-distillation"
        raise UsageError("unlabelled images", f"{method.name} does not learn from them with these options", remedy)
    return options


def _check_unlabelled(method: Method, config: Any, unlabelled: UnlabelledImages) -> None:
    options = check_takes_unlabelled(method, config)
    if options.share == 1 and getattr(getattr(config, "trust", None), "mode", "keep") != "keep":
        problem = "needs recovered images, and there are none if all images are unlabelled"
        raise UsageError("trust.mode", problem, "choose keep, or an unlabelled.share below 1")
    if unlabelled.count < 2:
        raise UsageError("unlabelled images", f"has only {unlabelled.count}", "give at least 2")


def _are_alike(one: ClassifierSpec, other: ClassifierSpec) -> bool:
    return (one.architecture, one.arguments) == (other.architecture, other.arguments)


def _has_batch_norm(spec: str) -> bool:
    return bool(batch_norm_layers(network_without_weights(ClassifierSpec.model_validate_json(spec))))


def _options_called(name: str, options: BaseModel, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Paths and values of all options called `name`, at any depth."""
    for field in type(options).model_fields:
        value = getattr(options, field)
        if field == name:
            yield prefix + field, value
        elif isinstance(value, BaseModel):
            yield from _options_called(name, value, f"{prefix}{field}.")
