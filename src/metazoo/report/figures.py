"""Figures of a report as SVG text; the same data give the same text."""

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from metazoo.evaluate import Result
from metazoo.text import printable

# Colours that all types of colour vision can distinguish (Okabe and Ito), black last.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
_MARKERS = "osD^vPX*"
_FAINT = "#8a8a86"
_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.edgecolor": _FAINT,
    "svg.fonttype": "none",
    "svg.hashsalt": "metazoo",
    "text.parse_math": False,  # names may contain a $
}
_MOST_NAMES = 40
_LONGEST_NAME = 28


def accuracy_figure(results: Sequence[Result]) -> str:
    """Accuracy of every subject with its interval, in one panel per task; a dotted line marks chance.

    Args:
        results: results, at least one.
    """
    with matplotlib.rc_context(_STYLE):
        tasks = list(dict.fromkeys((result.ways, result.shots) for result in results))
        subjects = list(dict.fromkeys(result.subject for result in results))
        figure = _figure(8.6, 0.9 + 0.3 * len(subjects))
        panels = figure.subplots(1, len(tasks), sharey=True, squeeze=False)[0]
        for panel, (ways, shots) in zip(panels, tasks, strict=True):
            rows = [result for result in results if (result.ways, result.shots) == (ways, shots)]
            for row in rows:
                position = subjects.index(row.subject)
                colour = _COLOURS[0] if position == len(subjects) - 1 else _FAINT
                panel.errorbar(row.accuracy, position, xerr=row.interval, fmt="o", ms=5, color=colour, capsize=3)
            panel.axvline(100 / ways, color=_FAINT, lw=1, ls=":")
            panel.set_title(f"{ways}-way {shots}-shot, percent")
            panel.grid(axis="x", color="#e4e4e0", lw=0.6)
            panel.set_axisbelow(True)
        panels[0].set_yticks(range(len(subjects)), [_name(subject) for subject in subjects])
        panels[0].set_ylim(len(subjects) - 0.5, -0.5)
        return _svg(figure)


def task_space_figure(
    distance: Tensor, groups: Sequence[Sequence[int]], names: Sequence[str], domains: Sequence[str]
) -> str:
    """Map of the models of a run, and matrix of their dissimilarities.

    The map shows the two largest principal coordinates (classical multidimensional scaling, Torgerson 1952), which
    represent only a part of the dissimilarities; colours are groups, shapes are domains. The matrix shows all
    dissimilarities, ordered by group.

    Args:
        distance: dissimilarities, float [n, n], symmetric and not negative, for n of at least 2.
        groups: groups of the indices of the n models.
        names: names of the models.
        domains: domains of the models.
    """
    with matplotlib.rc_context(_STYLE):
        figure = _figure(8.6, 4.4)
        chart, matrix = figure.subplots(1, 2, width_ratios=(1, 1))
        _draw_map(chart, distance, groups, domains)
        _draw_matrix(matrix, distance, groups, names)
        return _svg(figure)


def learning_figure(curves: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """Loss, gradient agreement and change by regularisation, over the steps of each stage.

    Args:
        curves: rows by name of the stage, at least one, each with `step`, `loss`, `agreement` and `relative_change`.
    """
    panels = {
        "loss": "loss",
        "agreement": "gradient agreement (cosine)",
        "relative_change": "change by regularisation",
    }
    with matplotlib.rc_context(_STYLE):
        figure = _figure(8.6, 2.7)
        for axes, (key, title) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
            for number, (stage, rows) in enumerate(curves.items()):
                known = [(row["step"], row[key]) for row in rows if row.get(key) is not None]
                steps, values = zip(*known, strict=True) if known else ((), ())
                colour = _COLOURS[number % len(_COLOURS)]
                # Steps learn from different groups, so only the loss is drawn as a line.
                line = {"lw": 1.2} if key == "loss" and len(known) > 1 else {"lw": 0, "marker": ".", "ms": 4}
                axes.plot(steps, values, color=colour, label=_name(stage), **line)
            axes.set_title(title)
            axes.set_xlabel("step")
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
        return _svg(figure)


def _draw_map(axes: Axes, distance: Tensor, groups: Sequence[Sequence[int]], domains: Sequence[str]) -> None:
    points = _principal_coordinates(distance.double().numpy())
    present = list(dict.fromkeys(domains))
    for number, members in enumerate(groups):
        for domain in present:
            own = [index for index in members if domains[index] == domain]
            colour, marker = _COLOURS[number % len(_COLOURS)], _MARKERS[present.index(domain) % len(_MARKERS)]
            axes.scatter(*points[own].T, s=34, color=colour, marker=marker, edgecolors="white", linewidths=0.6)
    if 1 < len(present) <= len(_MARKERS):
        for domain, marker in zip(present, _MARKERS, strict=False):
            axes.scatter([], [], s=34, color=_FAINT, marker=marker, label=_name(domain))
        axes.legend(frameon=False, fontsize=8)
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.margins(0.1)
    axes.set_title("map (colour: group" + (", shape: domain)" if len(present) > 1 else ")"))


def _draw_matrix(axes: Axes, distance: Tensor, groups: Sequence[Sequence[int]], names: Sequence[str]) -> None:
    order = [index for members in groups for index in members]
    values = distance.double().numpy()[np.ix_(order, order)].copy()
    np.fill_diagonal(values, np.nan)
    picture = axes.imshow(values, cmap="cividis")
    for edge in np.cumsum([len(members) for members in groups])[:-1] - 0.5:
        axes.axhline(edge, color="white", lw=1.5)
        axes.axvline(edge, color="white", lw=1.5)
    axes.set_xticks([])
    shown = order if len(order) <= _MOST_NAMES else []
    axes.set_yticks(range(len(shown)), [_name(names[index]) for index in shown], fontsize=6)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title("dissimilarity (ordered by group)")
    axes.figure.colorbar(picture, ax=axes, shrink=0.7)


def _principal_coordinates(distance: np.ndarray) -> np.ndarray:
    centring = np.eye(len(distance)) - 1 / len(distance)
    values, vectors = np.linalg.eigh(-0.5 * centring @ distance**2 @ centring)
    vectors = vectors[:, :-3:-1]
    # The sign of an eigenvector is arbitrary: make its largest entry positive.
    vectors = vectors * np.sign(vectors[np.abs(vectors).argmax(0), range(vectors.shape[1])])
    return vectors * np.sqrt(values[:-3:-1].clip(min=0))


def _name(text: str) -> str:
    text = printable(text)
    return text if len(text) <= _LONGEST_NAME else text[: _LONGEST_NAME - 1] + "…"


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    with warnings.catch_warnings():
        # Text stays text in the SVG, so the fonts of the reader draw it.
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()
