"""Fusion of models in weight space."""

from metazoo.fusion.average import average_parameters, check_same_features
from metazoo.fusion.channel_groups import channel_groups
from metazoo.fusion.optimal_transport import fuse_by_transport

__all__ = [
    "average_parameters",
    "channel_groups",
    "check_same_features",
    "fuse_by_transport",
]
