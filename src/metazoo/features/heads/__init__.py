"""Heads: how a model's features become a classifier of a new task from a few images a class.

Evaluation and the classifier that users get are made by these same objects. A head never changes the module it is
given.
"""

from metazoo.errors import UsageError
from metazoo.features.heads.base import FeatureHead, Head, class_means, query_features
from metazoo.features.heads.fine_tune import FineTune, FineTuneOwn
from metazoo.features.heads.fitted import COSINE_SCALE, FittedHead, HeadKind, extra_tensor
from metazoo.features.heads.linear import Logistic, Ridge
from metazoo.features.heads.nearest_mean import NearestMean, NearestMeanEuclidean
from metazoo.features.heads.soft_k_means import SoftKMeansBalanced, SoftKMeansFree

HEADS: tuple[Head, ...] = (
    NearestMean(),
    NearestMeanEuclidean(),
    Ridge(),
    Logistic(),
    SoftKMeansBalanced(),
    SoftKMeansFree(),
    FineTune(),
    FineTuneOwn(),
)
DEFAULT_HEAD = Logistic.name
"""The most accurate of those that leave the model alone and judge every query for itself (docs/studies/heads.md)."""

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
]


def get_head(name: str) -> Head:
    """The head of that name.

    Raises:
        UsageError: there is none.
    """
    for head in HEADS:
        if head.name == name:
            return head
    raise UsageError(f"unknown head {name!r}; choose one of {', '.join(head.name for head in HEADS)}")
