"""What people look at: model cards."""

from metazoo.report.card import meta_model_card

__all__ = ["meta_model_card"]
