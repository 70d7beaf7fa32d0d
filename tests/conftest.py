"""What all tests share: one thread, so that workers do not fight for cores, and examples that CI can repeat."""

import os

# Read when torch starts, in the processes that tests start too.
os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

import hypothesis
import torch

torch.set_num_threads(1)

hypothesis.settings.register_profile("developer", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "developer")
