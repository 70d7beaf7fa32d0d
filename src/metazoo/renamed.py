"""Names of version 0.1, which work for one minor version with a warning."""

import functools
import importlib.util
import sys
import warnings
from collections.abc import Callable, Collection, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, TypeVar, cast, final

Function = TypeVar("Function", bound=Callable[..., Any])

# Packages whose modules moved to another package under the same name.
_ROOMS = {"run": "storage execution", "learn": "features", "taskspace": "audit", "methods": "pipeline runs"}
# Modules that were renamed or split.
_MODULES = {
    "adapt.classifier": "adapt.few_shot",
    "learn.heads.base": "features.heads.head",
    "learn.memory": "learn.episode_memory",
    "learn.recipe": "learn.learning_config",
    "learn.recogniser": "features.domain_router",
    "learn.replay": "learn.replay_learning",
    "learn.student": "learn.group_learning",
    "learn.thread_copies": "execution.threads",
    "learn.views": "learn.augmented_images",
    "methods.classes": "pipeline.layout pipeline.class_stage",
    "methods.domains": "pipeline.layout pipeline.audit_stage",
    "methods.planning": "runs.plan",
    "methods.recipes": "pipeline.shared_config",
    "methods.specialists": "pipeline.domain_models",
    "methods.stages": "pipeline.layout pipeline.recovery_stage pipeline.embedding_stage pipeline.learning_stage",
    "methods.steps": "pipeline.stepping",
    "methods.trust": "pipeline.layout pipeline.audit_stage",
    "models.registry": "models.architectures",
    "recover.canvas": "recover.start_images",
    "recover.sheet": "bank.contact_sheet",
    "recover.stage": "recover.zoo_recovery",
    "run": "storage execution",
    "run.folder": "storage.run_folder",
    "run.json_text": "storage.artefacts",
    "run.lines": "storage.artefacts",
    "run.memory": "execution.process_memory",
    "run.printable": "text",
    "run.rows": "storage.matrices",
    "run.wording": "text",
    "run.yaml_file": "storage.validation",
    "run_description": "pipeline.layout runs.description",
    "run_record": "pipeline.layout runs.record",
    "training": "runs.train",
    "zoo.add": "zoo.importing.add",
    "zoo.build": "zoo.building.build",
    "zoo.folder": "zoo.zoo_folder",
    "zoo.overview": "report.zoo_tables",
    "zoo.recipe": "zoo.training_config",
    "zoo.training": "zoo.building.classifier_training",
    "zoo.verify": "zoo.checking.verify",
}
_NAMES = {
    "GroupRow": "DomainRow",
    "TgrReferenceRecipe": "PublishedTgrConfig",
    "Views": "AugmentedImages",
    "draw_views": "draw_augmented_images",
    "group_rows": "domain_rows",
    "group_table": "domain_table",
    "judge_views": "add_teacher_outputs",
    "kinds_of_images": "merge_domains",
}
_PRESETS = {"reference": "published"}
FORMER_PRESET_KEY = "setting"


def new_preset(name: str, presets: Collection[str]) -> str:
    """Current name of a preset: its new name if `name` is a former name that is not in `presets`, else `name`."""
    return name if name in presets else _PRESETS.get(name, name)


def _warn(former: str, now: str) -> None:
    text = f"{former} is now {now}; the former name will be removed in the next minor version"
    warnings.warn(text, FutureWarning, stacklevel=3)


def _new_name(name: str) -> str:
    return _NAMES.get(name) or (f"{name[:-6]}Config" if name.endswith("Recipe") else name)


def former_names(module: str, *homes: str) -> Callable[[str], Any]:
    """Module `__getattr__` that finds names of version 0.1, also renamed ones, in `module` and in `homes`."""

    def find(name: str) -> Any:
        for home in () if name.startswith("__") else dict.fromkeys((module, *homes)):
            for candidate in (name, _new_name(name)):
                found = vars(importlib.import_module(home)).get(candidate)
                if found is not None:
                    _warn(f"{module}.{name}", f"{home}.{candidate}")
                    return found
        raise AttributeError(f"module {module!r} has no attribute {name!r}")

    return find


def renamed_arguments(**names: str) -> Callable[[Function], Function]:
    """Decorator that accepts former names of keyword arguments, as in `@renamed_arguments(setting="preset")`.

    A call with both names raises a TypeError.
    """

    def decorate(function: Function) -> Function:
        @functools.wraps(function)
        def call(*arguments: Any, **keywords: Any) -> Any:
            for former in names.keys() & keywords.keys():
                name = names[former]
                if name in keywords:
                    raise TypeError(f"{function.__name__}() got {name} and its former name {former}")
                _warn(f"{former}= of {function.__name__}()", f"{name}=")
                keywords[name] = keywords.pop(former)
            return function(*arguments, **keywords)

        return cast(Function, call)

    return decorate


@final
class FormerModules(MetaPathFinder, Loader):
    """Finder and loader of the modules of version 0.1, whose content is elsewhere now."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Spec of a former module; None for other names."""
        return ModuleSpec(fullname, self, is_package=True) if _homes(fullname) else None

    def exec_module(self, module: ModuleType) -> None:
        """Give a former module a `__getattr__` that finds its names in their current modules."""
        homes = _homes(module.__name__)
        _warn(module.__name__, " and ".join(homes))
        vars(module)["__getattr__"] = former_names(module.__name__, *homes)


def _homes(fullname: str) -> list[str]:
    package, _, name = fullname.partition(".")
    room, _, stem = name.partition(".")
    if package != "metazoo" or not name:
        return []
    found = _MODULES.get(name) or " ".join(f"{new}.{stem}" for new in _ROOMS.get(room, "").split() if stem)
    return [f"metazoo.{home}" for home in found.split() if _exists(f"metazoo.{home}")]


def _exists(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def install(finders: list[Any] = sys.meta_path) -> None:
    """Make modules of version 0.1 importable, after all other finders."""
    if not any(isinstance(finder, FormerModules) for finder in finders):
        finders.append(FormerModules())
