"""Registry of methods by name."""

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
"""Register a `Method`, given as an object or a class, under its attribute `name`; also a class decorator."""
