"""Reports of runs, their sections, and tables of zoos."""

from metazoo.renamed import former_names
from metazoo.report.page import write_report
from metazoo.report.sections import Picture, Section, SectionContent, register_section

__all__ = ["Picture", "Section", "SectionContent", "register_section", "write_report"]

__getattr__ = former_names(__name__, "metazoo.adapt.card")
