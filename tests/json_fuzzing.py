"""JSON with a few of its values replaced, removed or added."""

import copy
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as some


class JsonFuzz:
    """What is drawn of the words and numbers that matter to one format, besides any other."""

    def __init__(self, words: Sequence[str], numbers: Sequence[float]) -> None:
        self._texts = some.text(max_size=20) | some.sampled_from(words)
        drawn = some.integers() | some.sampled_from(numbers) | some.floats()
        self._values = some.recursive(
            some.none() | some.booleans() | drawn | self._texts,
            lambda inner: some.lists(inner, max_size=4) | some.dictionaries(self._texts, inner, max_size=4),
            max_leaves=8,
        )

    def changed(self, content: Any, data: some.DataObject) -> Any:
        """A copy of `content` with one or two changes at any place."""
        content = copy.deepcopy(content)
        for _ in range(data.draw(some.integers(1, 2))):
            *path, last = data.draw(some.sampled_from([place for place in _places(content) if place]))
            parent = content
            for key in path:
                parent = parent[key]
            act = data.draw(some.sampled_from(["replace", "replace", "remove", "add"]))
            if act == "replace":
                parent[last] = data.draw(self._values)
            elif act == "remove":
                del parent[last]
            elif isinstance(parent, dict):
                parent[data.draw(self._texts)] = data.draw(self._values)
            else:
                parent.append(copy.deepcopy(parent[last]))
        return content


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in items for place in _places(item, (*path, key)))]
