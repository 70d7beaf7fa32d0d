"""Judgements of models on each other's images: trust, domains, class identity."""

from metazoo.audit.class_conflicts import class_conflicts, joint_class_means
from metazoo.audit.domains import merge_domains
from metazoo.audit.same_outputs import duplicate_groups
from metazoo.audit.trust import Trust, nearest_mean_skill, partners_of, skill_on, trust_of

__all__ = [
    "Trust",
    "class_conflicts",
    "duplicate_groups",
    "joint_class_means",
    "merge_domains",
    "nearest_mean_skill",
    "partners_of",
    "skill_on",
    "trust_of",
]
