"""Runs: atomic hashed artefacts, counted randomness, executors, progress. Knows no other room."""
