"""Figure of adaptation to dynamics inside and outside the ranges of training."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from maml_rl.analysis.comparison.figures import (
    mark_steps,
    return_of_stages,
    spread_of,
    styles_of,
    subject_of,
)
from maml_rl.analysis.dynamics.robustness import REGIONS, Robustness
from maml_rl.analysis.figures import draw_line, finish_figure, new_figure
from maml_rl.analysis.statistics import mean_interval


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
    figure = new_figure(9, 4)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, where in zip(panels, REGIONS, strict=True):
        for entry in entries:
            curves = robustness.curves(entry.label, where)
            if not len(curves):
                continue
            x, style = entry.episodes_used, styles[entry.label]
            if not entry.adapts:  # a horizontal line
                x, curves = np.array([0, most]), curves.repeat(2, axis=1)
                style = style | {"linestyle": "--", "marker": ""}
            intervals = mean_interval(curves.T)
            draw_line(axes, x, curves.mean(axis=0), curves, intervals, style, entry.name)
        axes.set(xlabel="episodes used per task", title=f"{where} the ranges of training")
        mark_steps(axes, adapting)
    panels[0].set_ylabel(return_of_stages(entries))
    title = f"{subject_of(robustness.comparison)}: mean over points and tasks of all sweeps"
    spread = spread_of([entry for entry in entries if len(entry.evaluations) > 1])
    return finish_figure(figure, f"{title}\n{spread}")
