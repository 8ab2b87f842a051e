"""Figures in Python: the plots of the commands, for runs and evaluations of your choice."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Sized
from pathlib import Path
from typing import get_args

from matplotlib.figure import Figure

from maml_rl.analysis.comparison.compare import Comparison, check_same_tasks
from maml_rl.analysis.comparison.entries import Entry
from maml_rl.analysis.comparison.figures import adaptation_figure
from maml_rl.analysis.evaluation_result import Evaluation
from maml_rl.analysis.learning_curve_figure import draw
from maml_rl.analysis.learning_curves import (
    Group,
    View,
    XAxis,
    check_columns,
    group_runs,
    read_runs,
)
from maml_rl.analysis.run_labels import labels_of
from maml_rl.analysis.tasks.figures import tasks_figures
from maml_rl.errors import UserError
from maml_rl.runs.seeds import runs_of
from maml_rl.settings.ranges import check_integers
from maml_rl.system.text import counted
from maml_rl.system.untrusted_files import user_path

Evaluations = Evaluation | Sequence[Evaluation]
"""The evaluation of an agent, or those of several seeds of one method, on the same tasks."""


def plot_learning_curves(
    runs: str | Path | Sequence[str | Path],
    *,
    metric: str | None = None,
    x: XAxis = "steps",
    smooth: int = 1,
    before: bool = False,
    log_x: bool = False,
    labels: Sequence[str] | None = None,
    title: str | None = None,
) -> Figure:
    """Plot learning curves, as ``python -m maml_rl.plot`` does; runs of several seeds are one line.

    Args:
        runs: run folders, folders of several seeds, or names of pretrained policies; one or more.
        metric: column of progress.csv; default is the return after the last adaptation step.
        x: horizontal axis: ``"steps"``, millions of control steps; ``"time"``, wall-clock
            hours; or ``"iterations"``, meta-iterations.
        smooth: number of values of a running mean.
        before: whether to plot the return before adaptation too, dashed; not with ``metric``.
        log_x: whether the horizontal axis is logarithmic.
        labels: one per line; default is the settings that differ.
        title: default is the family, if several lines have it in common.

    Returns:
        A Matplotlib figure: ``figure.savefig("curves.pdf")`` writes it.

    Raises:
        UserError: if a run cannot be read or lacks the metric, or an argument is invalid.
    """
    if not isinstance(runs, Iterable) and not isinstance(runs, Path):
        raise UserError(f"runs must be a folder, or a list of folders, got {runs!r:.100}")
    folders = [runs] if isinstance(runs, (str, Path)) else list(runs)
    if not folders:
        raise UserError("runs must name at least one run")
    if x not in get_args(XAxis):
        raise UserError(f"x must be one of {', '.join(get_args(XAxis))}, got {x!r:.100}")
    if before and metric is not None:
        raise UserError("before=True plots a return of its own: leave out metric")
    check_integers(1, smooth=smooth)
    view = View(metric=metric, x=x, smooth=smooth, before=before, log_x=log_x)
    groups, names = labelled_groups([user_path(folder) for folder in folders], view, labels)
    return draw(groups, names, view, title)


def labelled_groups(
    folders: Sequence[Path], view: View, labels: Sequence[str] | None
) -> tuple[list[Group], list[str]]:
    """Read runs for learning curves: a group and a label for each line.

    Args:
        folders: run folders, folders of several seeds, or names of pretrained policies.
        view: what to show of them.
        labels: chosen by the user; default is the settings that differ.

    Raises:
        UserError: if a run cannot be read or lacks the metric, or the labels are not a list of as
            many different ones as there are lines.
    """
    groups = group_runs(read_runs([run for folder in folders for run in runs_of(folder)]))
    check_columns(groups, view)
    names = labels_of([group.settings for group in groups])
    if labels is None:
        return groups, names
    if isinstance(labels, str) or not isinstance(labels, Sized):
        raise UserError(f"labels must be a list, got {labels!r:.100}")
    if len(labels) != len(names):
        raise UserError(
            f"the figure needs {counted(len(names), 'label')}, one per line of the plot, got "
            f"{len(labels)}; the order is: {'; '.join(names)}"
        )
    chosen = [str(label) for label in labels]
    if len(set(chosen)) < len(chosen) or not all(chosen):
        raise UserError(f"labels must be different and not empty, got {chosen!r:.200}")
    return groups, chosen


def plot_evaluation(evaluations: Evaluations | Mapping[str, Evaluations]) -> Figure:
    """Plot the return against the episodes that adaptation used, as ``evaluate`` does.

    Args:
        evaluations: the result of ``maml_rl.evaluate``; a list of results, one per seed of a
            method; or a mapping from labels to either, to compare methods. All must be on the same
            tasks: use the same environment and the same ``seed``.

    Returns:
        A Matplotlib figure: ``figure.savefig("adaptation.pdf")`` writes it.

    Raises:
        UserError: if an argument is invalid, or the evaluations are on different tasks.
    """
    return adaptation_figure(_comparison(evaluations))


def plot_tasks(evaluation: Evaluations, *, label: str = "agent") -> Figure:
    """Plot the return on each task before and after adaptation, against the values of the tasks.

    If the tasks differ in one value, it is the x-axis; if in two, the figure is a map; if in more,
    it has a panel for each value.

    Args:
        evaluation: the result of ``maml_rl.evaluate``, or a list of results, one per seed.
        label: name of the method, for the title.

    Returns:
        A Matplotlib figure.

    Raises:
        UserError: if an argument is invalid, or tasks do not differ in a numeric value.
    """
    figures = tasks_figures(_comparison({label: evaluation}))
    if not figures:
        raise UserError(
            "plot_tasks needs tasks that differ in a numeric value, and have the same names; got "
            f"{_as_list(evaluation, label)[0].tasks!r:.200}"
        )
    return figures[0]


def _comparison(evaluations: Evaluations | Mapping[str, Evaluations]) -> Comparison:
    """Return evaluations by label as a comparison without sweeps.

    Raises:
        UserError: if they are not evaluations, or not of the same tasks, environment and actions.
    """
    methods = evaluations if isinstance(evaluations, Mapping) else {"agent": evaluations}
    by_label = {str(label): _as_list(one, str(label)) for label, one in methods.items()}
    if not by_label:
        raise UserError("evaluations must not be empty")
    everything = [one for of_method in by_label.values() for one in of_method]
    check_same_tasks(everything)
    for name in ("env", "actions", "adaptation_actions"):
        values = list(dict.fromkeys(str(one.description[name]) for one in everything))
        if len(values) > 1:
            raise UserError(f"the evaluations differ in {name}: {' and '.join(values)}")
    return Comparison(
        [
            Entry(label, tuple(Path(label) for _ in of_method), tuple(of_method), {})
            for label, of_method in by_label.items()
        ]
    )


def _as_list(evaluations: Evaluations, label: str) -> list[Evaluation]:
    """Return the evaluations of one method.

    Raises:
        UserError: if they are not evaluations, or of different numbers of steps or episodes.
    """
    of_method: Sequence[Evaluation] = (
        [evaluations] if isinstance(evaluations, Evaluation) else evaluations
    )
    is_list = isinstance(of_method, Sequence) and len(of_method) > 0
    if not (is_list and all(isinstance(one, Evaluation) for one in of_method)):
        raise UserError(
            f"expected the result of maml_rl.evaluate, or a list of such results, for {label!r}; "
            f"got {evaluations!r:.100}"
        )
    for what, numbers in (
        ("adaptation steps", {len(one.returns) - 1 for one in of_method}),
        ("episodes per step", {one.description["episodes_per_step"] for one in of_method}),
    ):
        if len(numbers) > 1:
            raise UserError(
                f"the evaluations of {label!r} must have equally many {what}, got "
                f"{' and '.join(map(str, sorted(numbers)))}"
            )
    return list(of_method)
