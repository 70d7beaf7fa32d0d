"""The numbers that options take, and what is said of others."""

import argparse
from collections.abc import Callable
from typing import Any


def _typed(convert: Callable[[str], Any], allowed: Callable[[Any], bool], description: str) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        try:
            value = convert(text)
        except ValueError:
            value = None
        if value is None or not allowed(value):
            raise argparse.ArgumentTypeError(f"{text!r} is not {description}")
        return value

    return parse


natural = _typed(int, lambda value: 0 <= value < 2**63, "a whole number of at least 0")
positive = _typed(int, lambda value: 1 <= value < 2**31, "a whole number of at least 1")
number = _typed(float, lambda value: 0 < value < float("inf"), "a number above 0")
numbers = _typed(
    lambda text: tuple(int(part) for part in text.split(",")),
    lambda values: all(0 < value < 2**31 for value in values) and len(set(values)) == len(values),
    "a list of different whole numbers, such as 1,5",
)
decimals = _typed(
    lambda text: tuple(float(part) for part in text.split(",")),
    lambda values: all(abs(value) < 1e6 for value in values),
    "a list of numbers, such as 0.485,0.456,0.406",
)
