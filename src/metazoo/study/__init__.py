"""Studies: methods, zoos and seeds compared on one protocol."""

from metazoo.study.runner import run_study
from metazoo.study.study_file import StudyFile, read_study
from metazoo.study.study_results import StudyResults

__all__ = ["StudyFile", "StudyResults", "read_study", "run_study"]
