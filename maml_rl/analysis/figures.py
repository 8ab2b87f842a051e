"""What figures share: size, layout, style of lines, legend, title, and their files."""

from __future__ import annotations

import io
import itertools
import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from maml_rl.analysis.statistics import FEW_RUNS

COLORS = ("#0072B2", "#E69F00", "#000000", "#D55E00", "#56B4E9", "#009E73", "#CC79A7")
"""Okabe and Ito (2008) without yellow, which is hardly visible; neighbours differ in lightness."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
"""Nine markers: coprime to the seven colours, so that 63 lines look different."""
_CHARACTERS_PER_INCH = 12
_LEGEND_CHARACTERS_PER_INCH = 14
_CHARACTERS_OF_A_HANDLE = 7
"""Width of the line before a label of a legend, with its gaps."""
HEIGHT_OF_A_LINE = 0.2
"""Of a legend, in inches."""
_LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1, 1, 1)), (0, (1, 1)))


def encoded(figure: Figure, kind: str) -> bytes:
    """Encode a figure as the content of a file; equal figures give equal bytes.

    Args:
        figure: figure to encode.
        kind: png, svg or pdf.
    """
    buffer = io.BytesIO()
    undated = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
    metadata: dict[str, Any] = undated[kind]
    # TrueType: journals refuse Matplotlib's default, Type 3.
    with rc_context({"svg.hashsalt": "maml_rl", "pdf.fonttype": 42}):
        figure.savefig(buffer, format=kind, dpi=150, metadata=metadata)
    return buffer.getvalue()


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of a size in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def fix_layout(figure: Figure) -> None:
    """Arrange a finished figure once; otherwise each file of it would be arranged twice."""
    figure.draw_without_rendering()
    figure.set_layout_engine(None)


def line_style(i: int) -> dict[str, Any]:
    """Return the style of the ``i``-th line."""
    return {
        "color": COLORS[i % len(COLORS)],
        "linestyle": _LINES[i % len(_LINES)],
        "marker": MARKERS[i % len(MARKERS)],
        "markersize": 5,
    }


def draw_line(
    axes: Axes,
    x: Any,
    center: np.ndarray,
    runs: np.ndarray,
    intervals: np.ndarray,
    style: Mapping[str, Any],
    label: str,
) -> None:
    """Draw a line with its spread: a band of the intervals, or a thin line for each of few runs.

    Args:
        axes: axes to draw on.
        x: (n,), x of each point.
        center: (n,), y of each point.
        runs: (S, n), that of each run.
        intervals: (n, 2); without a band where they are not finite.
        style: of the line.
        label: label in the legend.
    """
    axes.plot(x, center, label=label, **style)
    if 1 < len(runs) <= FEW_RUNS:
        alpha = 0.6 * style.get("alpha", 1.0)
        axes.plot(x, runs.T, color=style["color"], linewidth=0.7, alpha=alpha)
        return
    is_finite = np.isfinite(intervals).all(1)
    if is_finite.any():
        alpha = 0.15 * style.get("alpha", 1.0)
        shape: Any = {"where": is_finite, "color": style["color"], "alpha": alpha, "linewidth": 0}
        axes.fill_between(x, *intervals.T, **shape)


def finish_figure(figure: Figure, title: str) -> Figure:
    """Add a grid to all axes, one legend, and the title."""
    for axes in figure.axes:
        axes.grid(alpha=0.3)
    handles, labels = _labelled(figure.axes[0])
    if len(labels) > 1:
        add_legend(figure, handles, labels)
    set_title(figure, title)
    return figure


def add_legend(figure: Figure, handles: Sequence[Artist], labels: Sequence[str]) -> None:
    """Add a legend below the axes, in two columns if they fit; the figure grows by its height.

    Args:
        figure: figure with a width of its own.
        handles: one per label.
        labels: shown as they are: Matplotlib skips those that begin with _, and reads $.
    """
    width = figure.get_figwidth()
    middle = math.ceil(len(labels) / 2)
    columns = [labels[:middle], labels[middle:]]
    longest = [max(map(len, column), default=0) + _CHARACTERS_OF_A_HANDLE for column in columns]
    if sum(longest) > _LEGEND_CHARACTERS_PER_INCH * width:
        columns = [[wrapped(label, width) for label in labels]]
    num_lines = max(sum(1 + label.count("\n") for label in column) for column in columns)
    figure.set_figheight(figure.get_figheight() + HEIGHT_OF_A_LINE * num_lines)
    place: Any = {"loc": "outside lower center", "ncols": len(columns), "frameon": False}
    legend = figure.legend(handles, ["?"] * len(labels), fontsize=9, **place)
    shown = itertools.chain.from_iterable(columns)
    for entry, text in zip(legend.get_texts(), shown, strict=True):
        entry.set_text(text)
        entry.set_parse_math(False)


def set_title(figure: Figure, title: str) -> None:
    """Set the title of a figure, with lines that are not wider than the figure."""
    lines = [wrapped(line, figure.get_figwidth()) for line in title.split("\n") if line]
    figure.suptitle("\n".join(lines), fontsize=10).set_parse_math(False)


def _labelled(axes: Axes) -> tuple[list[Artist], list[str]]:
    """Return what has a label for the legend; Matplotlib's own skips labels that begin with _."""
    artists = [*axes.lines, *axes.patches, *axes.collections]
    pairs = [(artist, str(artist.get_label())) for artist in artists]
    pairs = [pair for pair in pairs if pair[1] and not re.fullmatch(r"_child\d+", pair[1])]
    return [artist for artist, _ in pairs], [label for _, label in pairs]


def wrapped(text: str, width: float) -> str:
    """Break a line of a title or legend that is wider than ``width`` inches."""
    return textwrap.fill(text, round(_CHARACTERS_PER_INCH * width))
