"""What people look at: model cards, reports of runs, tables of what runs have found."""

from metazoo.renamed import former_names
from metazoo.report.page import write_report

__all__ = ["write_report"]

__getattr__ = former_names(__name__, "metazoo.adapt.card")
