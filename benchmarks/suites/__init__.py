"""The suites by name. A new one is a file here that ends in a `SUITE`, and its line below."""

from benchmarks.measure import Suite
from benchmarks.suites import (
    cores,
    evaluation,
    freed_memory,
    recovery,
    regularisation,
    replay,
    startup,
    targets,
    task_space,
    whole,
    zoo_building,
)

SUITES: dict[str, Suite] = {
    module.SUITE.name: module.SUITE
    for module in (
        recovery,
        task_space,
        regularisation,
        replay,
        targets,
        cores,
        evaluation,
        zoo_building,
        startup,
        freed_memory,
        whole,
    )
}
