"""What people look at: model cards, reports of runs, tables of what runs have found."""

from metazoo.report.page import write_report

__all__ = ["write_report"]
