"""Positions and names in figures."""

import itertools
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import torch

from metazoo.report import figures
from metazoo.report.figures import CostPoint, cost_figure, curve_figure, learning_figure, task_space_figure


def texts(figure: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(figure).iter("{http://www.w3.org/2000/svg}text")]


@pytest.mark.parametrize("seed", range(3))
def test_points_of_a_plane_keep_their_distances(seed: int) -> None:
    points = torch.randn(7, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    distance = torch.cdist(points, points)
    mapped = torch.from_numpy(figures._principal_coordinates(distance.numpy()))
    torch.testing.assert_close(torch.cdist(mapped, mapped), distance)
    torch.testing.assert_close(mapped.mean(0), torch.zeros(2, dtype=torch.float64))
    assert float(mapped[:, 0] @ mapped[:, 1]) == pytest.approx(0, abs=1e-9)
    assert float(mapped[:, 0].norm()) >= float(mapped[:, 1].norm())


def test_distances_that_fit_no_plane_are_mapped_too() -> None:
    alike = np.ones((4, 4)) - np.eye(4)
    assert np.isfinite(figures._principal_coordinates(alike)).all()
    assert not figures._principal_coordinates(np.zeros((3, 3))).any()


def test_the_matrix_names_the_models_by_group() -> None:
    names = ["a", "$b$", "日本", "d" * 60]
    distance = torch.rand(4, 4).triu(1)
    figure = task_space_figure(distance + distance.T, [[2, 0], [3, 1]], names, ["x", "x", "<y>", "x"])
    shown = [text for text in texts(figure) if text in ("a", "$b$", "日本") or text.startswith("ddd")]
    assert shown == ["日本", "a", "d" * 27 + "…", "$b$"]
    assert {"x", "<y>"} <= set(texts(figure))


def test_rows_without_a_value_are_omitted() -> None:
    rows = [{"step": 1, "loss": 2.0, "agreement": None}, {"step": 2, "loss": 1.0, "agreement": 0.5}]
    shown = texts(learning_figure({"learning": rows, "birds": rows[:1]}))
    assert {"learning", "birds", "loss"} <= set(shown)


def heights(figure: str, names: list[str]) -> dict[str, float]:
    """Vertical positions of texts, downwards."""
    elements = ElementTree.fromstring(figure).iter("{http://www.w3.org/2000/svg}text")
    return {element.text: float(element.get("y", "nan")) for element in elements if element.text in names}


@pytest.mark.parametrize("count", [2, 5, 30])
def test_names_beside_the_axes_are_in_the_order_of_accuracy_and_apart(count: int) -> None:
    names = [f"row {index}" for index in range(count)]
    accuracies = [50 + 1e-3 * (7 * index % count) for index in range(count)]
    points = [CostPoint(name, 0.0, {1: own}, {1: 2.0}) for name, own in zip(names, accuracies, strict=True)]
    placed = heights(cost_figure(points), names)
    assert sorted(placed, key=lambda name: placed[name]) == sorted(names, key=lambda n: -accuracies[names.index(n)])
    levels = sorted(placed.values())
    assert min(below - above for above, below in itertools.pairwise(levels)) > 6  # points: no two overlap


def test_costs_have_plain_numbers_and_curves_omit_what_is_unknown() -> None:
    points = [CostPoint("a", 1, {1: 30, 5: 40}, {1: 1, 5: 1}), CostPoint("b", 100, {1: 31, 5: 42}, {1: 1, 5: 1})]
    assert {"a", "b", "1", "10", "100", "1-shot accuracy, percent", "core-minutes"} <= set(texts(cost_figure(points)))
    shown = texts(curve_figure({"a": {1: [(5, 20.0)], 5: [(5, 30.0)]}, "b": {5: [(5, 31.0)]}}))
    assert {"a", "b", "1-shot accuracy, percent", "5-shot accuracy, percent", "step"} <= set(shown)
