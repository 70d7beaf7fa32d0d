"""Resumable stages that methods compose, and the layout of a run folder."""
