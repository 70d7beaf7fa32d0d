"""Package that registers an architecture, a head and a method with metazoo."""

from . import architecture, head, method

__all__ = ["architecture", "head", "method"]
