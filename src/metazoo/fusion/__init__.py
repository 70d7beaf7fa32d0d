"""Fusion of models in weight space."""

from metazoo.fusion.average import average_parameters, check_same_features
from metazoo.fusion.channel_groups import channel_groups
from metazoo.fusion.optimal_transport import fuse_by_transport
from metazoo.fusion.robust_initialisation import RobustInitialisation, layers_of, scaled_products, weighted_sum

__all__ = [
    "RobustInitialisation",
    "average_parameters",
    "channel_groups",
    "check_same_features",
    "fuse_by_transport",
    "layers_of",
    "scaled_products",
    "weighted_sum",
]
