"""Randomness that is counted, never carried on.

Every unit of work draws from a generator of its own, named by (run seed, stage, unit, step). Neither the order of the
units nor what was done before matters, so a run that is resumed needs no generator state to end bit-equal.
"""

import hashlib
import json
import operator

import torch


def seed_of(run_seed: int, stage: str, unit: str | int, step: int = 0) -> int:
    """The seed of one unit of work: 63 bits (0 to 2^63 - 1) of the SHA-256 of the four names as compact JSON.

    The number 1 and the text "1" are different units; integers of numpy and torch count as the integers they are.

    Raises:
        TypeError: a name is neither text nor a whole number.
    """
    names = [operator.index(run_seed), stage, unit if isinstance(unit, str) else operator.index(unit)]
    if not isinstance(stage, str):
        raise TypeError(f"a stage is named by text, not by {stage!r}")
    text = json.dumps([*names, operator.index(step)], separators=(",", ":"))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(run_seed: int, stage: str, unit: str | int, step: int = 0) -> torch.Generator:
    """A fresh CPU generator for one unit of work.

    PyTorch's CPU generator takes in the low 32 bits of a seed only, so among 100 000 units about one pair shares its
    stream. That is harmless for drawing; where no two may ever coincide, use `seed_of` with a counter-based generator.
    """
    return torch.Generator().manual_seed(seed_of(run_seed, stage, unit, step))
