"""Heads: how a model's features become a classifier of a new task from a few images a class.

Evaluation and the classifier that users get are made by these same objects. A head never changes the module it is
given.
"""

from metazoo.choices import DEFAULT_HEAD
from metazoo.features.heads.fine_tune import FineTune, FineTuneOwn
from metazoo.features.heads.fitted import COSINE_SCALE, FittedHead, HeadKind, extra_tensor
from metazoo.features.heads.head import FeatureHead, Head, class_means, query_features
from metazoo.features.heads.linear import Logistic, Ridge
from metazoo.features.heads.nearest_mean import NearestMean, NearestMeanEuclidean
from metazoo.features.heads.soft_k_means import SoftKMeansBalanced, SoftKMeansFree
from metazoo.plugins import Registry

_BUILT_IN: tuple[Head, ...] = (
    NearestMean(),
    NearestMeanEuclidean(),
    Ridge(),
    Logistic(),
    SoftKMeansBalanced(),
    SoftKMeansFree(),
    FineTune(),
    FineTuneOwn(),
)
HEADS: Registry[Head] = Registry("head", values={head.name: head for head in _BUILT_IN}, base=Head)
get_head = HEADS.get
register_head = HEADS.register_named
"""Register a `Head`, as an object or as a class (also as a class decorator), under its attribute `name`."""

__all__ = [
    "COSINE_SCALE",
    "DEFAULT_HEAD",
    "HEADS",
    "FeatureHead",
    "FineTune",
    "FineTuneOwn",
    "FittedHead",
    "Head",
    "HeadKind",
    "Logistic",
    "NearestMean",
    "NearestMeanEuclidean",
    "Ridge",
    "SoftKMeansBalanced",
    "SoftKMeansFree",
    "class_means",
    "extra_tensor",
    "get_head",
    "query_features",
    "register_head",
]
