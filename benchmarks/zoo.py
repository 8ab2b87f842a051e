"""Print tables of docs/results.md, from the evaluations of the pretrained policies.

The first is that of the families, with MAML; then come those of RL² and of PEARL.

    python benchmarks/zoo.py
    python benchmarks/zoo.py --figure docs/images/zoo.png

The second command draws the learning curves of MAML instead.

tests/documents/test_results_document.py checks that the document has these tables.
"""

from __future__ import annotations

import argparse
import csv
import functools
import json
import re
from collections.abc import Iterable, Sequence
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
EPISODES = (1, 2, 3)
"""Episodes of a trial in the tables of RL² and PEARL."""
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
_EPISODE_HEAD = (
    "policy",
    "horizon",
    *(f"episode {k}" for k in EPISODES),
    "seeds",
    "M steps",
    "hours",
)


def names_of(learner: str) -> list[str]:
    """Return the pretrained policies of a learner, in alphabetical order."""
    return [name for name in maml_rl.pretrained_names() if _learner_of(name) == learner]


@functools.cache
def _learner_of(name: str) -> str:
    """Return the learner of a pretrained policy."""
    return maml_rl.load(name).config.learner.name


def row(name: str) -> list[str]:
    """Return the row of a family.

    Args:
        name: of a pretrained policy.
    """
    methods = _evaluation(name)
    trained = methods["meta-trained"]
    return [
        name,
        *(_number(trained, k) for k in STEPS),
        _number(methods.get("random"), 0),
        _number(methods.get("oracle"), 0),
        *_cost(name, trained),
    ]


def episode_row(name: str) -> list[str]:
    """Return the row of a policy of RL² or PEARL; after k steps comes episode k + 1.

    Args:
        name: of a pretrained policy.
    """
    trained = _evaluation(name)["meta-trained"]
    horizon = str(maml_rl.load(name).config.horizon)
    returns = [_number(trained, k - 1) for k in EPISODES]
    return [name, horizon, *returns, *_cost(name, trained)]


def _evaluation(name: str) -> dict[str, dict[str, Any]]:
    """Return the results of a pretrained policy's evaluation, by method."""
    text = (pretrained_folder(name) / "evaluation" / "results.json").read_text()
    return {method["policy"]: method for method in json.loads(text)["results"]}


def _cost(name: str, trained: dict[str, Any]) -> tuple[str, str, str]:
    """Return number of training seeds, million control steps of training, and hours."""
    rows = _progress(name)
    num_steps = float(rows[-1]["time/num_env_steps"])
    seconds = sum(float(line["time/meta_iteration_s"]) for line in rows)
    num_seeds = len(trained["training_seeds"])
    return str(num_seeds), f"{num_steps / 1e6:.1f}", f"{seconds / 3600:.2f}"


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
    """Return the table of the families as Markdown."""
    return _markdown(_HEAD, map(row, names_of("maml")))


def episode_table(learner: str) -> str:
    """Return the table of RL² or PEARL as Markdown."""
    return _markdown(_EPISODE_HEAD, map(episode_row, names_of(learner)))


def _markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table as Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def draw_curves(path: Path) -> None:
    """Write a figure with the learning curves of all pretrained policies of MAML.

    A curve is the running mean of five iterations.

    Args:
        path: ends in .png.
    """
    names = names_of("maml")
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
    figure.supxlabel("control steps (millions)")
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
    """Print the tables, or draw the figure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--figure", type=Path, metavar="FILE", help="a .png to draw instead")
    args = parser.parse_args()
    if args.figure is None:
        print(table(), *map(episode_table, ("rl2", "pearl")), sep="\n\n")
    else:
        draw_curves(args.figure)


if __name__ == "__main__":
    main()
