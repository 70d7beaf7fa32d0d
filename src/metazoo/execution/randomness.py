"""Generators of random numbers without stored state.

Every unit of work has its own generator, seeded from (run seed, stage, unit, step). Results do not depend on the order
of units or on earlier work, so a resumed run ends bit-equal without stored generator states.
"""

import hashlib
import json
import operator

import torch


def seed_of(run_seed: int, stage: str, unit: str | int, step: int = 0) -> int:
    """Seed of one unit of work: 63 bits (0 to 2^63 - 1) of the SHA-256 of the four names as compact JSON.

    The number 1 and the text "1" are different units; integers of NumPy and torch are equal to those of Python.

    Raises:
        TypeError: `stage` is not text, or another name is neither text nor an integer.
    """
    names = [operator.index(run_seed), stage, unit if isinstance(unit, str) else operator.index(unit)]
    if not isinstance(stage, str):
        raise TypeError(f"stage must be text, not {stage!r}")
    text = json.dumps([*names, operator.index(step)], separators=(",", ":"))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(run_seed: int, stage: str, unit: str | int, step: int = 0) -> torch.Generator:
    """New CPU generator for one unit of work.

    The CPU generator of torch uses only the low 32 bits of a seed, so about one pair of 100 000 units shares its random
    numbers. This is harmless for sampling. To exclude it, use `seed_of` with a counter-based generator.
    """
    return torch.Generator().manual_seed(seed_of(run_seed, stage, unit, step))
