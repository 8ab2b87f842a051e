"""Print the table of families in docs/results.md, from the evaluations of the pretrained policies.

    python benchmarks/zoo.py
    python benchmarks/zoo.py --figure docs/images/zoo.png

The second command draws their learning curves instead.

tests/documents/test_results_document.py checks that the document has this table.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import maml_rl
from maml_rl.analysis.figures import COLORS
from maml_rl.analysis.run_labels import stage_label
from maml_rl.runs.pretrained import pretrained_folder

STEPS = (0, 1, 2, 3, 5)
"""Adaptation steps in the table."""
_HEAD = (
    "family",
    "before",
    *(f"{k} step{'s' if k > 1 else ''}" for k in STEPS[1:]),
    "random",
    "oracle",
    "seeds",
    "M steps",
    "hours",
)


def row(name: str) -> list[str]:
    """Return the row of a family.

    Args:
        name: of a pretrained policy.
    """
    folder = pretrained_folder(name)
    text = (folder / "evaluation" / "results.json").read_text()
    methods = {method["policy"]: method for method in json.loads(text)["results"]}
    trained = methods["meta-trained"]
    rows = _progress(name)
    num_steps = float(rows[-1]["time/num_env_steps"])
    seconds = sum(float(line["time/meta_iteration_s"]) for line in rows)
    return [
        name,
        *(_number(trained, k) for k in STEPS),
        _number(methods.get("random"), 0),
        _number(methods.get("oracle"), 0),
        str(len(trained["training_seeds"])),
        f"{num_steps / 1e6:.1f}",
        f"{seconds / 3600:.2f}",
    ]


def _progress(name: str) -> list[dict[str, str]]:
    """Return the rows of a pretrained policy's progress.csv."""
    with (pretrained_folder(name) / "progress.csv").open() as file:
        return list(csv.DictReader(file))


def _number(method: dict[str, Any] | None, step: int) -> str:
    """Return the mean return of a method after a step, or a dash."""
    if method is None or step >= len(method["return"]):
        return "–"
    value = method["return"][step]
    return (f"{value:.1f}" if abs(value) < 100 else f"{value:.0f}").replace("-", "−")


def table() -> str:
    """Return the table as Markdown, families in alphabetical order."""
    lines = [_HEAD, ["---"] * len(_HEAD), *map(row, maml_rl.pretrained_names())]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def draw_curves(path: Path) -> None:
    """Write a figure with the learning curves of all pretrained policies.

    A curve is the running mean of five iterations.

    Args:
        path: ends in .png.
    """
    names = maml_rl.pretrained_names()
    num_columns = 3
    num_rows = -(-len(names) // num_columns)
    figure = Figure(figsize=(11, 2.3 * num_rows), layout="constrained")
    FigureCanvasAgg(figure)
    all_axes = list(figure.subplots(num_rows, num_columns, squeeze=False).flat)
    for axes in all_axes:
        axes.set_axis_off()
    stages: dict[int, Any] = {}
    for axes, name in zip(all_axes, names, strict=False):
        axes.set_axis_on()
        stages |= _draw_curve(axes, name)
    figure.supxlabel("environment steps (millions)")
    figure.supylabel("mean return in training")
    lines = [stages[k] for k in sorted(stages)]
    labels = [stage_label(k) for k in sorted(stages)]
    figure.legend(lines, labels, loc="outside upper center", ncols=len(lines))
    figure.savefig(path, dpi=110)


def _draw_curve(axes: Axes, name: str) -> dict[int, Any]:
    """Draw the return after each adaptation step; return the line of each."""
    rows = _progress(name)
    millions = np.array([float(row["time/num_env_steps"]) for row in rows]) / 1e6
    window = 5
    lines = {}
    for column in rows[0]:
        match = re.fullmatch(r"train/return_after_(\d+)_steps", column)
        if match:
            k = int(match[1])
            returns = np.array([float(row[column]) for row in rows])
            means = np.convolve(returns, np.ones(window) / window, mode="valid")
            (lines[k],) = axes.plot(millions[window - 1 :], means, color=COLORS[k])
    axes.set_title(name, fontsize="medium")
    axes.grid(alpha=0.3)
    return lines


def main() -> None:
    """Print the table, or draw the figure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--figure", type=Path, metavar="FILE", help="a .png to draw instead")
    args = parser.parse_args()
    if args.figure is None:
        print(table())
    else:
        draw_curves(args.figure)


if __name__ == "__main__":
    main()
