"""A package that adds an architecture, a head and a method to metazoo; importing it registers them."""

from . import architecture, head, method

__all__ = ["architecture", "head", "method"]
