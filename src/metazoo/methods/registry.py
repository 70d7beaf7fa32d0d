"""Methods by name; `register_method` adds one."""

from metazoo.methods.base import Method
from metazoo.methods.tgr import TaskGroupingsRegularization
from metazoo.methods.zoo_distillation import ZooDistillation
from metazoo.plugins import Registry

METHODS: Registry[Method] = Registry(
    "method",
    "metazoo.methods",
    values={method.name: method for method in (TaskGroupingsRegularization(), ZooDistillation())},
    base=Method,
)
get_method = METHODS.get
register_method = METHODS.register_named
"""Register a `Method`, as an object or as a class (also as a class decorator), under its attribute `name`."""
