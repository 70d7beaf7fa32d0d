"""Methods of data-free meta-learning, one file each. No method imports another."""

from metazoo.methods.base import Method, Requirements
from metazoo.methods.overview import MethodOverview, list_methods
from metazoo.methods.registry import METHODS, get_method, register_method

__all__ = ["METHODS", "Method", "MethodOverview", "Requirements", "get_method", "list_methods", "register_method"]
