"""Heads: classifiers of a new task on a model's features, learned from a few images per class.

Evaluation and few-shot classifiers use the same objects. A head never changes the module that it is given.
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
"""Register a `Head` under its attribute `name`: an object or a class, also as a class decorator."""

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
