"""Fusion of models in weight space."""

from metazoo.fusion.average import average_parameters

__all__ = ["average_parameters"]
