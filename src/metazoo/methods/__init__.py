"""Methods of data-free meta-learning, one file each; they compose the rooms below and never each other."""

from metazoo.methods.base import Method
from metazoo.methods.registry import METHODS, get_method, register_method

__all__ = ["METHODS", "Method", "get_method", "register_method"]
