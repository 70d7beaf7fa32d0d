"""Positions and names in figures."""

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import torch

from metazoo.report import figures
from metazoo.report.figures import learning_figure, task_space_figure


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
