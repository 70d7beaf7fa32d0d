"""What all tests share: one thread a process, types checked at run time, and examples that CI can repeat."""

import os

# Read when torch starts, in the processes that tests start too.
os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

import hypothesis
import jaxtyping
import pytest
import torch

torch.set_num_threads(1)

# Before these modules are imported: every call of their functions checks types and shapes.
CHECKED = (
    "adapt.few_shot",
    "adapt.support",
    "bank",
    "evaluate.intervals",
    "features.heads",
    "features.linear_models",
    "fusion",
    "learn",
    "recover",
    "taskspace",
)
# With this option, an int is a float, as for pyright.
TYPE_CHECKER = "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
jaxtyping.install_import_hook([f"metazoo.{name}" for name in CHECKED], TYPE_CHECKER)

hypothesis.settings.register_profile("developer", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "developer")

# Files whose tests take longest. A file stays in one worker, so the longest begin first, and none is left for the end.
LONGEST = (
    "test_training_killed.py",
    "test_any_zoo.py",
    "test_training_published.py",
    "test_planning.py",
    "test_cli_zoo.py",
    "test_ray_executor.py",
    "test_readme.py",
    "test_zoo_build.py",
    "test_training.py",
    "test_devices.py",
    "test_study.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ranks = {name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path.name, len(LONGEST)))
