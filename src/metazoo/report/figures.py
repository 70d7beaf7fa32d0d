"""Figures of a report as SVG text; the same data give the same text."""

import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
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
_LEAST_MINUTES = 0.01


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


@dataclass(frozen=True)
class CostPoint:
    """Point of `cost_figure`: a row of a study.

    Attributes:
        name: name of the row.
        minutes: core-minutes, 0 or more.
        accuracy: accuracy in percent, by number of shots.
        interval: half-width of its 95 % interval, by number of shots.
    """

    name: str
    minutes: float
    accuracy: Mapping[int, float]
    interval: Mapping[int, float]


def cost_figure(points: Sequence[CostPoint]) -> str:
    """Accuracy against core-minutes (on a logarithmic scale), one panel per number of shots.

    Args:
        points: points, at least one, with the same numbers of shots.
    """
    with matplotlib.rc_context(_STYLE):
        shots = list(points[0].accuracy)
        figure = _figure(4.6 * len(shots), max(3.6, 0.26 * len(points) + 1))
        for panel, count in zip(figure.subplots(1, len(shots), squeeze=False)[0], shots, strict=True):
            minutes = [max(point.minutes, _LEAST_MINUTES) for point in points]
            for position, (point, cost) in enumerate(zip(points, minutes, strict=True)):
                colour, marker = _COLOURS[position % len(_COLOURS)], _MARKERS[position % len(_MARKERS)]
                height = point.accuracy[count]
                panel.errorbar(cost, height, point.interval[count], fmt=marker, ms=5, color=colour, capsize=2, lw=0.8)
            panel.set_xscale("log")
            panel.xaxis.set_major_formatter(_plain)
            panel.xaxis.set_minor_formatter(NullFormatter())
            panel.margins(x=0.1, y=0.08)
            _label_at_right(panel, [(point.name, point.accuracy[count]) for point in points], minutes)
            panel.set_title(f"{count}-shot accuracy, percent")
            panel.set_xlabel("core-minutes")
            panel.grid(color="#e4e4e0", lw=0.6)
            panel.set_axisbelow(True)
        return _svg(figure)


def _label_at_right(axes: Axes, named: Sequence[tuple[str, float]], minutes: Sequence[float]) -> None:
    """Names in a column at the right of the axes, at the heights of their points as far as they do not overlap."""
    low, high = axes.get_ylim()
    gap = (high - low) / max(12, 1.1 * len(named))
    order = sorted(range(len(named)), key=lambda index: named[index][1])
    heights: list[float] = []
    for index in order:
        heights.append(max(named[index][1], heights[-1] + gap if heights else low))
    heights = [min(own, high - gap * (len(order) - 1 - rank)) for rank, own in enumerate(heights)]
    for index, height in zip(order, heights, strict=True):
        axes.annotate(
            _name(named[index][0]), (minutes[index], named[index][1]), (1.03, height),
            textcoords=axes.get_yaxis_transform(), annotation_clip=False, va="center", fontsize=8,
            arrowprops={"arrowstyle": "-", "color": _COLOURS[index % len(_COLOURS)], "lw": 0.6, "relpos": (0, 0.5)},
        )  # fmt: skip


def _plain(value: float, _position: int | None = None) -> str:
    return f"{value:,.4g}"


def curve_figure(curves: Mapping[str, Mapping[int, Sequence[tuple[int, float]]]]) -> str:
    """Accuracy while learning, one panel per number of shots.

    Args:
        curves: pairs of step and accuracy in percent, by name of the row and number of shots; at least one row.
    """
    with matplotlib.rc_context(_STYLE):
        shots = list(dict.fromkeys(count for own in curves.values() for count in own))
        figure = _figure(4.3 * len(shots), 3.6)
        for panel, count in zip(figure.subplots(1, len(shots), squeeze=False)[0], shots, strict=True):
            for number, (name, own) in enumerate(curves.items()):
                steps, values = zip(*own.get(count, ()), strict=True) if own.get(count) else ((), ())
                style = {"marker": _MARKERS[number % len(_MARKERS)], "ms": 4, "lw": 1.2}
                panel.plot(steps, values, color=_COLOURS[number % len(_COLOURS)], label=_name(name), **style)
            panel.set_title(f"{count}-shot accuracy, percent")
            panel.set_xlabel("step")
            panel.grid(color="#e4e4e0", lw=0.6)
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
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
