"""Figures of the return of each task, for every method of a comparison."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.evaluations import made_up_description
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from maml_rl.analysis.comparison.compare import Comparison
from maml_rl.analysis.comparison.entries import Entry
from maml_rl.analysis.evaluation import Evaluation
from maml_rl.analysis.report.files import write_report
from maml_rl.analysis.tasks.figures import parallel_figures, tasks_figures
from maml_rl.analysis.tasks.words import value_key

NUM_TASKS = 24
RNG = np.random.default_rng(0)
VALUES = RNG.uniform(1, 2, (NUM_TASKS, 20))


def evaluation(returns: np.ndarray, names: list[str], *, is_episode: bool = False) -> Evaluation:
    """An evaluation with given returns (K + 1, N)."""
    tasks = [dict(zip(names, map(float, row), strict=False)) for row in VALUES]
    description = made_up_description(
        NUM_TASKS,
        num_episodes=1,
        episodes_per_step=1,
        task_units=dict.fromkeys(names, "m"),
        learner={"name": "rl2" if is_episode else "maml"},
        stage_is_episode=is_episode,
    )
    returns = returns[..., None]
    return Evaluation(tasks, returns, np.full(returns.shape, np.nan), description)


def test_ends_of_an_axis_have_the_names_of_values() -> None:
    comparison = methods(["x", "y", "z"])
    first, last = (float(VALUES[:, 0].min()), float(VALUES[:, 0].max()))
    for entry in comparison.main:
        entry.evaluations[0].description["task_value_names"] = {
            "x": {value_key(first): "backward", value_key(last): "forward"}
        }
    texts = [text.get_text() for text in parallel_figures(comparison)[0].axes[0].texts]
    assert {"backward", "forward"} < set(texts)


def methods(names: list[str], *, first: np.ndarray | None = None) -> Comparison:
    """A learner with steps, one whose steps are episodes, and one that does not adapt."""
    after = VALUES[:, 1] * 10
    returns = np.stack([np.zeros(NUM_TASKS), after, after]) if first is None else first
    evaluations = {
        "maml": evaluation(returns, names),
        "rl2": evaluation(np.stack([after, after + 5]), names, is_episode=True),
        "oracle": evaluation(after[None] + 30, names),
    }
    return Comparison([Entry(name, (Path(name),), (e,), {}) for name, e in evaluations.items()])


def titles(figure: Figure) -> list[str]:
    return [axes.get_title() for axes in figure.axes if axes.get_title()]


def test_every_method_has_a_map_with_the_same_colours():
    comparison = methods(["x", "y"])
    figures = tasks_figures(comparison)
    assert [figure.get_suptitle().split(", ")[-1] for figure in figures] == [
        "maml",
        "rl2",
        "oracle",
    ]
    assert [titles(figure) for figure in figures] == [
        ["before adaptation", "after 1 step, 1 episode"],
        ["episode 1", "episode 2"],
        ["without adaptation"],
    ]
    most = 30 + 10 * VALUES[:, 1].max()
    for figure in figures:
        for axes in figure.axes[: len(titles(figure))]:
            (points,) = axes.collections
            assert points.norm.vmin == 0
            assert points.norm.vmax == pytest.approx(most)
            np.testing.assert_allclose(points.get_offsets(), VALUES[:, :2])
    assert parallel_figures(comparison) == []


def test_a_failed_task_has_no_colour_and_hides_no_other():
    returns = np.stack([np.zeros(NUM_TASKS), VALUES[:, 1]])
    returns[1, 0] = np.nan
    comparison = methods(["x", "y", "z"], first=returns)
    figure = parallel_figures(comparison)[0]
    assert len(_lines(figure)) == NUM_TASKS - 1
    figure.canvas.draw()


def _lines(figure: Figure) -> list[Any]:
    """The lines of tasks; those of axes have two points."""
    return [line for line in figure.axes[0].lines if len(line.get_xdata()) > 2]


def test_each_task_is_a_line_through_its_values():
    names = ["a", "b", "c"]
    comparison = methods(names)
    figures = parallel_figures(comparison)
    assert len(figures) == 3
    figure = figures[0]
    # The return is ten times b, which comes first.
    labels = [label.get_text().splitlines() for label in figure.axes[0].get_xticklabels()]
    assert labels[0] == ["b (m)", "r = +1.00"]
    order = [names.index(label[0].split()[0]) for label in labels]
    # Lines are drawn from the lowest return to the highest.
    lines = _lines(figure)
    values = VALUES[np.argsort(VALUES[:, 1])][:, order]
    heights = (values - values.min(0)) / np.ptp(values, axis=0)
    np.testing.assert_allclose([line.get_ydata() for line in lines], heights)
    # The colour is that of the return on the common scale.
    image = figure.axes[1].collections[-1]
    returns = np.sort(10 * VALUES[:, 1])
    for line, value in zip(lines, returns, strict=True):
        np.testing.assert_allclose(to_rgba(line.get_color()), image.cmap(image.norm(value)))
    assert figure.axes[1].get_ylabel() == "return after 1 step, 1 episode"


def test_of_many_values_the_strongest_are_shown():
    names = [f"v{i}" for i in range(20)]
    figure = parallel_figures(methods(names))[0]
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert len(labels) == 12
    strengths = [abs(float(label.split("r = ")[1])) for label in labels]
    assert strengths == sorted(strengths, reverse=True)
    weakest = [abs(np.corrcoef(VALUES[:, i], VALUES[:, 1])[0, 1]) for i in range(20)]
    np.testing.assert_allclose(strengths, sorted(weakest, reverse=True)[:12], atol=0.006)
    assert "the 12 of 20 values" in figure.get_suptitle()


def test_of_few_tasks_there_is_no_correlation():
    returns = np.stack([np.zeros(NUM_TASKS), VALUES[:, 1]])
    for num_tasks, is_shown in ((20, True), (19, False)):
        returns[:, num_tasks:] = np.nan
        figure = parallel_figures(methods(["x", "y", "z"], first=returns))[0]
        labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
        assert [("r = " in label) for label in labels] == [is_shown] * 3
        assert ("r: correlation" in figure.get_suptitle()) == is_shown


def test_a_figure_says_that_equal_values_are_next_to_each_other(monkeypatch):
    note = "equal values are drawn next to each other"
    assert note not in tasks_figures(methods(["x", "y", "z"]))[0].get_suptitle()
    monkeypatch.setitem(globals(), "VALUES", VALUES.round())
    assert note in tasks_figures(methods(["x", "y", "z"]))[0].get_suptitle()


@pytest.mark.figures
@pytest.mark.thorough
def test_the_report_has_them_and_forgets_old_ones(tmp_path):
    write_report(tmp_path, methods(["x", "y", "z"]))
    page = (tmp_path / "report.html").read_text()
    for stem in ("parallel", "parallel_2", "parallel_3"):
        assert f'alt="{stem.replace("_", " ")}"' in page
        for kind in ("png", "svg", "pdf"):
            assert (tmp_path / f"{stem}.{kind}").stat().st_size > 1000
    write_report(tmp_path, methods(["x", "y"]))
    assert not list(tmp_path.glob("parallel*"))
