"""Methods of data-free meta-learning, one file each; they compose the rooms below and never each other."""

from metazoo.methods.base import Method, Requirements
from metazoo.methods.registry import METHODS, get_method, register_method

__all__ = ["METHODS", "Method", "Requirements", "get_method", "register_method"]
