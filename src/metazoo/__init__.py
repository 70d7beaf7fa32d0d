"""Data-free meta-learning: from a zoo of pre-trained classifiers to one few-shot learner, without training images.

Importing this package is fast; names are imported, with torch, when they are first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from metazoo import renamed
from metazoo.errors import ArtefactError, DataError, Interrupted, MetazooError, RunError, UsageError, ZooError

if TYPE_CHECKING:
    from metazoo import (
        adapt,
        audit,
        bank,
        data,
        evaluate,
        execution,
        export,
        features,
        fusion,
        learn,
        methods,
        models,
        pipeline,
        recover,
        report,
        runs,
        storage,
        study,
        taskspace,
        tracking,
        zoo,
    )
    from metazoo.adapt import FewShotClassifier, MetaModel
    from metazoo.adapt.estimator import MetazooClassifier
    from metazoo.data import load_images
    from metazoo.export import export_classifier, export_web_page
    from metazoo.features.heads import register_head
    from metazoo.hub import push_bundle
    from metazoo.learn.learners import register_learner
    from metazoo.learn.learning_config import register_regulariser
    from metazoo.methods import list_methods, register_method
    from metazoo.models import register_architecture
    from metazoo.pipeline.workspace import LearningStep
    from metazoo.plugins import load_plugin
    from metazoo.report.track import track_run
    from metazoo.runs.record import Run
    from metazoo.runs.train import train
    from metazoo.study import run_study
    from metazoo.taskspace import register_grouping
    from metazoo.tracking import register_tracker
    from metazoo.zoo import Zoo, add_model, build_zoo

    __version__: str

_HOMES = {
    "FewShotClassifier": "metazoo.adapt",
    "LearningStep": "metazoo.pipeline.workspace",
    "MetaModel": "metazoo.adapt",
    "MetazooClassifier": "metazoo.adapt.estimator",
    "Run": "metazoo.runs.record",
    "Zoo": "metazoo.zoo",
    "add_model": "metazoo.zoo",
    "build_zoo": "metazoo.zoo",
    "export_classifier": "metazoo.export",
    "export_web_page": "metazoo.export",
    "list_methods": "metazoo.methods",
    "load_images": "metazoo.data",
    "load_plugin": "metazoo.plugins",
    "push_bundle": "metazoo.hub",
    "register_architecture": "metazoo.models",
    "register_grouping": "metazoo.taskspace",
    "register_head": "metazoo.features.heads",
    "register_learner": "metazoo.learn.learners",
    "register_method": "metazoo.methods",
    "register_regulariser": "metazoo.learn.learning_config",
    "register_tracker": "metazoo.tracking",
    "run_study": "metazoo.study",
    "track_run": "metazoo.report.track",
    "train": "metazoo.runs.train",
}
__all__ = [
    "ArtefactError",
    "DataError",
    "FewShotClassifier",
    "Interrupted",
    "LearningStep",
    "MetaModel",
    "MetazooClassifier",
    "MetazooError",
    "Run",
    "RunError",
    "UsageError",
    "Zoo",
    "ZooError",
    "__version__",
    "adapt",
    "add_model",
    "audit",
    "bank",
    "build_zoo",
    "data",
    "evaluate",
    "execution",
    "export",
    "export_classifier",
    "export_web_page",
    "features",
    "fusion",
    "learn",
    "list_methods",
    "load_images",
    "load_plugin",
    "methods",
    "models",
    "pipeline",
    "push_bundle",
    "recover",
    "register_architecture",
    "register_grouping",
    "register_head",
    "register_learner",
    "register_method",
    "register_regulariser",
    "register_tracker",
    "report",
    "run_study",
    "runs",
    "storage",
    "study",
    "taskspace",
    "track_run",
    "tracking",
    "train",
    "zoo",
]

renamed.install()


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    elif name == "__version__":
        value = importlib.import_module("importlib.metadata").version("metazoo")
    elif name in __all__:
        # `metazoo.adapt` and `metazoo.evaluate` are packages; the functions of the same name are in them.
        return importlib.import_module(f"metazoo.{name}")
    else:
        raise AttributeError(f"module 'metazoo' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
