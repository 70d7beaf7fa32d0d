"""Methods of data-free meta-learning, one file each. No method imports another."""

from metazoo.methods.base import Method, Requirements
from metazoo.methods.registry import METHODS, get_method, register_method

__all__ = ["METHODS", "Method", "Requirements", "get_method", "register_method"]
