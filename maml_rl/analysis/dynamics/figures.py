"""Figure of adaptation to dynamics inside and outside the ranges of training."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from maml_rl.analysis.comparison.figures import (
    mark_steps,
    return_of_stages,
    styles_of,
    subject_of,
)
from maml_rl.analysis.dynamics.robustness import Robustness
from maml_rl.analysis.figures import draw_line, finish, new_figure
from maml_rl.analysis.statistics import FEW_RUNS, mean_interval


def unseen_adaptation_figure(robustness: Robustness) -> Figure | None:
    """Plot returns against the episodes that adaptation used, inside and outside of training.

    Methods without adaptation are dashed lines without markers. A single run has no band: its
    returns on several points are not independent. There is no figure if no method adapts.
    """
    entries = robustness.comparison.main
    adapting = [entry for entry in entries if entry.adapts]
    if not adapting:
        return None
    most = max(int(entry.episodes_used[-1]) for entry in adapting)
    styles = styles_of(robustness.comparison)
    figure = new_figure(9, 4.4)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, is_inside in zip(panels, (True, False), strict=True):
        for entry in entries:
            curves = robustness.curves(entry.label, is_inside=is_inside)
            if not len(curves):
                continue
            x, style = entry.episodes_used, styles[entry.label]
            if not entry.adapts:  # a horizontal line
                x, curves = np.array([0, most]), curves.repeat(2, axis=1)
                style = style | {"linestyle": "--", "marker": ""}
            intervals = mean_interval(curves.T)
            draw_line(axes, x, curves.mean(axis=0), curves, intervals, style, entry.name)
        where = "inside" if is_inside else "outside"
        axes.set(xlabel="episodes used per task", title=f"{where} the ranges of training")
        mark_steps(axes, adapting)
    panels[0].set_ylabel(return_of_stages(entries))
    num_runs = {len(entry.evaluations) for entry in entries}
    spread = []
    if max(num_runs) > FEW_RUNS:
        spread.append("band: 95 % interval over runs")
    if any(1 < number <= FEW_RUNS for number in num_runs):
        spread.append("thin lines: single runs")
    title = f"{subject_of(robustness.comparison)}: mean over points and tasks of all sweeps"
    return finish(figure, "\n".join([title, "; ".join(spread)]))
