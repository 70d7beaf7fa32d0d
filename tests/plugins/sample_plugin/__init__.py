"""Package that registers an architecture, a grouping, a head and a method with metazoo."""

from . import architecture, grouping, head, method

__all__ = ["architecture", "grouping", "head", "method"]
