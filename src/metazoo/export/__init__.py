"""Export of few-shot classifiers to files and web pages that run without metazoo, and the proof that they agree."""

from metazoo.export.agreement import Agreement
from metazoo.export.export import Outputs, Precision, export_classifier
from metazoo.export.web_page import export_web_page

__all__ = ["Agreement", "Outputs", "Precision", "export_classifier", "export_web_page"]
