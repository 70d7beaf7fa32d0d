"""Export of few-shot classifiers to files that run without metazoo, and the proof that they agree with it."""

from metazoo.export.agreement import Agreement
from metazoo.export.export import Outputs, Precision, export_classifier

__all__ = ["Agreement", "Outputs", "Precision", "export_classifier"]
