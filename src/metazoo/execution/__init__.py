"""Execution of work: executors, devices, threads, randomness, signals, progress."""
