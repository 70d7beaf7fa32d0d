"""Where and how work runs: executors, devices, threads, randomness, signals, progress."""
