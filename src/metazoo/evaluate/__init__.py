"""Evaluation of few-shot learners: fixed episodes, common heads, intervals, paired comparisons, tables."""

from metazoo.evaluate.comparison import Comparison, compare, comparison_table
from metazoo.evaluate.contamination import Contamination, exclude_known, find_contamination
from metazoo.evaluate.evaluation import evaluate
from metazoo.evaluate.intervals import Estimate, holm, mean_interval, paired_difference
from metazoo.evaluate.protocol import evaluate_lists
from metazoo.evaluate.results import (
    Result,
    Results,
    read_accuracies,
    read_contamination,
    read_results,
    results_table,
    write_results,
)
from metazoo.evaluate.subjects import (
    Subject,
    best_teacher,
    parameter_average,
    random_initialisation,
    raw_pixels,
    zoo_ensemble,
    zoo_ensemble_in_turn,
)

__all__ = [
    "Comparison",
    "Contamination",
    "Estimate",
    "Result",
    "Results",
    "Subject",
    "best_teacher",
    "compare",
    "comparison_table",
    "evaluate",
    "evaluate_lists",
    "exclude_known",
    "find_contamination",
    "holm",
    "mean_interval",
    "paired_difference",
    "parameter_average",
    "random_initialisation",
    "raw_pixels",
    "read_accuracies",
    "read_contamination",
    "read_results",
    "results_table",
    "write_results",
    "zoo_ensemble",
    "zoo_ensemble_in_turn",
]
