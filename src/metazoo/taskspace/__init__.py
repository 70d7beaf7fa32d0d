"""The task space: Fisher embeddings of tasks, their similarity, and groups of teachers."""

from metazoo.renamed import former_names
from metazoo.taskspace.embeddings import FisherEmbeddings, TaskEmbedding, write_embeddings
from metazoo.taskspace.fisher import diagonal_fisher
from metazoo.taskspace.groupings import (
    GROUPINGS,
    ChangingGroups,
    CheckedGrouping,
    Strategy,
    group,
    register_grouping,
    try_strategy,
)
from metazoo.taskspace.imagenet_probe import ImageNetProbe
from metazoo.taskspace.partitions import FixedGrouping, Grouping, Partition, one_group
from metazoo.taskspace.probe import Probe, ProbeConfig, train_probe
from metazoo.taskspace.quality import GroupQuality, GroupRow, draw_members, group_quality, group_rows
from metazoo.taskspace.selective import AffinityConfig, SelectiveGrouping
from metazoo.taskspace.similarity import (
    PUBLISHED_DECIMALS,
    PUBLISHED_EPSILON,
    dissimilarity_matrix,
    similarity_matrix,
)

__all__ = [
    "GROUPINGS",
    "PUBLISHED_DECIMALS",
    "PUBLISHED_EPSILON",
    "AffinityConfig",
    "ChangingGroups",
    "CheckedGrouping",
    "FisherEmbeddings",
    "FixedGrouping",
    "GroupQuality",
    "GroupRow",
    "Grouping",
    "ImageNetProbe",
    "Partition",
    "Probe",
    "ProbeConfig",
    "SelectiveGrouping",
    "Strategy",
    "TaskEmbedding",
    "diagonal_fisher",
    "dissimilarity_matrix",
    "draw_members",
    "group",
    "group_quality",
    "group_rows",
    "one_group",
    "register_grouping",
    "similarity_matrix",
    "train_probe",
    "try_strategy",
    "write_embeddings",
]

__getattr__ = former_names(__name__, "metazoo.audit")
