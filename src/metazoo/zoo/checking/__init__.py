"""Checks of a zoo."""
