"""The task space: Fisher embeddings of tasks, how alike they are, and groups of teachers."""

from metazoo.taskspace.class_conflicts import class_conflicts, class_means
from metazoo.taskspace.domains import kinds_of_images
from metazoo.taskspace.embeddings import FisherEmbeddings, TaskEmbedding, write_embeddings
from metazoo.taskspace.fisher import diagonal_fisher
from metazoo.taskspace.groupings import STRATEGIES, Grouping, Strategy, group
from metazoo.taskspace.imagenet_probe import ImageNetProbe
from metazoo.taskspace.probe import Probe, ProbeRecipe, train_probe
from metazoo.taskspace.quality import GroupQuality, GroupRow, draw_members, group_quality, group_rows
from metazoo.taskspace.similarity import (
    PUBLISHED_DECIMALS,
    PUBLISHED_EPSILON,
    dissimilarity_matrix,
    similarity_matrix,
)
from metazoo.taskspace.trust import Trust, nearest_mean_skill, skill_matrix, trust_of

__all__ = [
    "PUBLISHED_DECIMALS",
    "PUBLISHED_EPSILON",
    "STRATEGIES",
    "FisherEmbeddings",
    "GroupQuality",
    "GroupRow",
    "Grouping",
    "ImageNetProbe",
    "Probe",
    "ProbeRecipe",
    "Strategy",
    "TaskEmbedding",
    "Trust",
    "class_conflicts",
    "class_means",
    "diagonal_fisher",
    "dissimilarity_matrix",
    "draw_members",
    "group",
    "group_quality",
    "group_rows",
    "kinds_of_images",
    "nearest_mean_skill",
    "similarity_matrix",
    "skill_matrix",
    "train_probe",
    "trust_of",
    "write_embeddings",
]
