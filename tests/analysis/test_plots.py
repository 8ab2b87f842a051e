"""The functions plot_* of the package: figures as the commands write them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from helpers.runs import tiny

import maml_rl
from maml_rl.analysis.evaluation import Evaluation
from maml_rl.cli import main
from maml_rl.errors import UserError

SIZES = {"num_tasks": 3, "num_episodes": 2, "num_steps": 2}


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("plots")
    return [maml_rl.train(tiny(folder / f"s{i}", seed=i, num_iterations=3)) for i in (0, 1)]


@pytest.fixture(scope="module")
def results(runs) -> list[Evaluation]:
    return [maml_rl.evaluate(maml_rl.load(run), **SIZES) for run in runs]


def test_learning_curves_are_those_of_the_command(runs, tmp_path):
    options = {"before": True, "x": "iterations", "smooth": 2, "labels": ["both"], "title": "T"}
    figure = maml_rl.plot_learning_curves([str(runs[0]), runs[1]], **options)
    figure.savefig(tmp_path / "function.png", dpi=150)
    flags = ["--before", "--x", "iterations", "--smooth", "2", "--labels", "both", "--title", "T"]
    path = tmp_path / "command.png"
    assert main(["plot", *map(str, runs), *flags, "--output", str(path)]) == 0
    assert path.read_bytes() == (tmp_path / "function.png").read_bytes()
    assert figure.axes[0].lines[-1].get_label() == "both (2 seeds)"
    assert len(maml_rl.plot_learning_curves(runs[0]).axes[0].lines) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"x": "weeks"}, "x must be one of steps, time, iterations, got 'weeks'"),
        ({"smooth": 0}, "smooth must be"),
        ({"labels": ["a", "b"]}, "needs 1 label, one per line of the plot, got 2"),
        ({"labels": "a"}, "labels must be a list, got 'a'"),
        ({"labels": 5}, "labels must be a list, got 5"),
        ({"labels": [""]}, r"labels must be different and not empty, got \[''\]"),
        ({"metric": ""}, "has no column ''"),
        ({"metric": "loss"}, "has no column 'loss'"),
        ({"metric": "time/iteration", "before": True}, "leave out metric"),
    ],
)
def test_invalid_options_are_refused(runs, options, message):
    with pytest.raises(UserError, match=message):
        maml_rl.plot_learning_curves(runs, **options)


def test_runs_are_required():
    with pytest.raises(UserError, match="at least one run"):
        maml_rl.plot_learning_curves([])


@pytest.mark.parametrize(
    ("runs", "message"), [(5, "list of folders, got 5"), ([5], "expected a path, got 5")]
)
def test_runs_are_paths(runs, message):
    with pytest.raises(UserError, match=message):
        maml_rl.plot_learning_curves(runs)


def test_an_evaluation_is_a_line_and_seeds_are_one(results):
    (axes,) = maml_rl.plot_evaluation(results[0]).axes[:1]
    np.testing.assert_allclose(axes.lines[0].get_ydata(), results[0].mean)
    np.testing.assert_array_equal(axes.lines[0].get_xdata(), [0, 2, 4])
    axes = maml_rl.plot_evaluation(results).axes[0]
    means = np.mean([result.mean for result in results], axis=0)
    np.testing.assert_allclose(axes.lines[0].get_ydata(), means, rtol=1e-6)
    methods = {"first": results[0], "both": results}
    figure = maml_rl.plot_evaluation(methods)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["first", "both (2 runs)"]


def test_labels_may_be_numbers(runs, results):
    figure = maml_rl.plot_evaluation({0.1: results[0], 0.5: results[1]})
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["0.1", "0.5"]
    assert "3" in maml_rl.plot_tasks(results[0], label=3).get_suptitle()
    (legend,) = maml_rl.plot_learning_curves([runs[0]], labels=[7]).legends
    assert legend.get_texts()[0].get_text().startswith("7")


def test_tasks_are_a_map_of_goals(results):
    figure = maml_rl.plot_tasks(results[0], label="ours")
    assert "ours" in figure.get_suptitle()
    places = figure.axes[0].collections[0].get_offsets()
    expected = [[task["goal_x"], task["goal_y"]] for task in results[0].tasks]
    np.testing.assert_allclose(places, expected)
    np.testing.assert_allclose(
        figure.axes[1].collections[0].get_array(), results[0].task_returns[1]
    )


def test_what_cannot_be_compared_is_refused(runs, results):
    agent = maml_rl.load(runs[0])
    others = maml_rl.evaluate(agent, **SIZES, seed=1)
    shorter = maml_rl.evaluate(agent, **SIZES | {"num_steps": 1})
    more = maml_rl.evaluate(agent, **SIZES | {"num_episodes": 3})
    mean = maml_rl.evaluate(agent, **SIZES, deterministic=True)
    same = dataclasses.replace(results[0], tasks=[results[0].tasks[0]] * 3)
    for evaluations, message in (
        ({"a": results[0], "b": others}, "different tasks"),
        ([results[0], shorter], "equally many adaptation steps, got 1 and 2"),
        ([results[0], more], "equally many episodes per step, got 2 and 3"),
        ({"a": results[0], "b": mean}, "differ in actions: sampled and mean"),
        ({}, "must not be empty"),
        ([], "expected the result of maml_rl.evaluate"),
        ("runs/point", "expected the result of maml_rl.evaluate"),
        ({"a": [agent]}, "for 'a'"),
    ):
        with pytest.raises(UserError, match=message):
            maml_rl.plot_evaluation(evaluations)
    with pytest.raises(UserError, match="differ in a numeric value"):
        maml_rl.plot_tasks(same)
