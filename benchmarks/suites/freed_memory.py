"""What giving freed memory back to the system costs."""

import subprocess
import sys

from benchmarks.measure import Case, Settings, Suite, Way

_SCRIPT = """
import sys, time, torch
from metazoo.models import ClassifierSpec, build_classifier
from metazoo.execution.process_memory import keep_freed_memory
kept, images, steps = sys.argv[1] == "kept", int(sys.argv[2]), int(sys.argv[3])
if kept:
    keep_freed_memory()
torch.set_num_threads(1)
spec = ClassifierSpec(architecture="conv4", classes=5, input_size=32, mean=(0.5,) * 3, std=(0.25,) * 3)
network = build_classifier(spec).train()
pixels = torch.rand(images, 3, 32, 32)
def step():
    network(pixels).square().mean().backward()
for _ in range(2):
    step()
start = time.process_time()
for _ in range(steps):
    step()
print((time.process_time() - start) / steps)
"""


def _case(images: int, steps: int) -> Case:
    def way(kind: str) -> Way:
        command = [sys.executable, "-c", _SCRIPT, kind, str(images), str(steps)]
        return lambda: float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    ways = {"returned (the system's default)": way("returned"), "kept (as metazoo runs)": way("kept")}
    return Case(f"a step of {images} images, Conv4, 32 px", lambda: ways, images, "images", "images", images)


def cases(settings: Settings) -> list[Case]:
    return [_case(2, 1), _case(4, 1)] if settings.quick else [_case(images, 15) for images in (32, 128)]


SUITE = Suite(
    "freed-memory",
    "Steps of training, each in a process that gives freed memory back, and in one that keeps it.",
    cases,
)
