"""Helpers that isolate plug-ins of tests within one process."""

import contextlib
import io
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from metazoo import plugins
from metazoo.cli import main
from metazoo.features.heads import HEADS
from metazoo.learn.learners import LEARNERS
from metazoo.learn.learning_config import REGULARISERS
from metazoo.methods import METHODS
from metazoo.models.architectures import ARCHITECTURES
from metazoo.plugins import Registry
from metazoo.taskspace import GROUPINGS
from metazoo.tracking import TRACKERS

REGISTRIES: tuple[Registry[Any], ...] = (ARCHITECTURES, METHODS, HEADS, GROUPINGS, REGULARISERS, LEARNERS, TRACKERS)


@contextlib.contextmanager
def without_plugins(*packages: str) -> Iterator[None]:
    """Context without registrations of other packages, in which none of `packages` is imported."""
    imported = _taken_out(packages)
    before = [(registry, registry._values, registry._owners) for registry in REGISTRIES]
    modules = dict(plugins._modules)
    for registry, values, owners in before:
        registry._values = {name: value for name, value in values.items() if owners.get(name) is None}
        registry._owners = {}
    plugins._modules.clear()
    try:
        yield
    finally:
        for registry, values, owners in before:
            registry._values, registry._owners = values, owners
        plugins._modules.clear()
        plugins._modules.update(modules)
        _taken_out(packages)
        sys.modules.update(imported)


def _taken_out(packages: tuple[str, ...]) -> dict[str, Any]:
    names = [name for name in sys.modules if name.partition(".")[0] in packages]
    return {name: sys.modules.pop(name) for name in names}


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


def call(*words: object) -> Outcome:
    """Run one command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(word) for word in words])
    return Outcome(code, out.getvalue(), err.getvalue())


def done(*words: object) -> str:
    """Run a command that must succeed and return its output."""
    outcome = call(*words)
    assert outcome.code == 0, outcome
    return outcome.out


def refused(code: int, *words: object) -> str:
    """Run a command that must fail and return its error message."""
    outcome = call(*words)
    assert outcome.code == code, outcome
    assert outcome.err.splitlines()[-1].startswith("metazoo: "), outcome
    assert "unexpected" not in outcome.err, outcome
    return outcome.err.splitlines()[-1]
