"""What people look at: model cards, reports of runs, tables of what runs have found."""

from metazoo.report.card import meta_model_card
from metazoo.report.page import write_report

__all__ = ["meta_model_card", "write_report"]
