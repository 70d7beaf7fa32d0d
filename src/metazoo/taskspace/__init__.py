"""The task space: Fisher embeddings of tasks, how alike they are, and groups of teachers."""

from metazoo.taskspace.fisher import FisherEmbeddings, TaskEmbedding, diagonal_fisher
from metazoo.taskspace.groupings import STRATEGIES, Grouping, Strategy, group
from metazoo.taskspace.probe import Probe, ProbeRecipe, train_probe
from metazoo.taskspace.quality import GroupQuality, GroupRow, draw_members, group_quality, group_rows
from metazoo.taskspace.similarity import dissimilarity_matrix, similarity_matrix

__all__ = [
    "STRATEGIES",
    "FisherEmbeddings",
    "GroupQuality",
    "GroupRow",
    "Grouping",
    "Probe",
    "ProbeRecipe",
    "Strategy",
    "TaskEmbedding",
    "diagonal_fisher",
    "dissimilarity_matrix",
    "draw_members",
    "group",
    "group_quality",
    "group_rows",
    "similarity_matrix",
    "train_probe",
]
