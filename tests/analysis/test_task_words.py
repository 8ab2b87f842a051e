"""Names of values of tasks, and of stages, in captions, tables and plots."""

from __future__ import annotations

import dataclasses

import maml_envs
import pytest
from helpers.runs import tiny

import maml_rl
from maml_rl.analysis.comparison.compare import Comparison, Condition, Subject, compare
from maml_rl.analysis.comparison.figures import (
    adaptation_figure,
    grid_figure,
    return_at,
    sweep_figure,
)
from maml_rl.analysis.comparison.saved_evaluations import read_evaluation, write_evaluation
from maml_rl.analysis.tasks.figures import tasks_figures
from maml_rl.analysis.tasks.words import task_in_words, value_text

SIZES = {"num_tasks": 2, "num_episodes": 2, "seed": 0}
DIRECTIONS = ["backward", "forward"]
FACTOR_AND_DELAY = ["0.397 × geom friction", "action delay 2 control steps"]


@pytest.fixture(scope="module")
def result(tmp_path_factory) -> Comparison:
    """A run on its tasks, and with each direction."""
    output = tmp_path_factory.mktemp("words") / "run"
    run = maml_rl.train(tiny(output, env={"name": "HalfCheetahDir"}, num_iterations=1))
    conditions = [
        Condition(lambda agent: agent.config.env, fixed, fixed)
        for fixed in ({}, {"direction": -1.0}, {"direction": 1.0})
    ]
    return compare([Subject("ours", run, maml_rl.load(run), 1)], conditions, **SIZES)


def labels(axis) -> list[str]:
    return [label.get_text() for label in axis.get_ticklabels()]


def test_plots_and_tables_name_directions(result):
    (figure,) = tasks_figures(result)
    assert labels(figure.axes[0].xaxis) == DIRECTIONS
    assert labels(sweep_figure(result, "direction", None).axes[0].xaxis) == DIRECTIONS
    entries = [
        dataclasses.replace(entry, swept={**entry.swept, "body_mass": mass})
        for mass in (0.5, 2.0)
        for entry in result.sweep("direction")
    ]
    grid = grid_figure(Comparison([*result.main, *entries]), ("direction", "body_mass"))
    assert labels(grid.axes[0].xaxis) == DIRECTIONS
    assert labels(grid.axes[0].yaxis) == ["0.5", "2"]
    for word in DIRECTIONS:
        assert f" {word} " in result.table()


@pytest.mark.parametrize(
    ("family", "task", "words"),
    [
        ("HalfCheetahDir", {"direction": -1.0}, ["backward"]),
        ("HalfCheetahDir", {"direction": 1}, ["forward"]),
        ("HalfCheetahDir", {"direction": 0.5}, ["direction 0.50"]),
        ("Walker2dDir", {"direction": 1.0, "body_mass": 2.0}, ["forward", "2 × body mass"]),
        ("Walker2dVel", {"geom_friction": 0.397, "action_delay": 2}, FACTOR_AND_DELAY),
        ("Walker2dVel", {"observation_noise": 0.1}, ["observation noise 0.10"]),
        ("CrippledHalfCheetah", {"disabled_actuator": 3.0}, ["front thigh disabled"]),
        ("CrippledAnt", {"disabled_limb": 2.0}, ["back right leg disabled"]),
        ("HalfCheetahVel", {"goal_velocity": 1.0}, ["goal velocity 1.00 m/s"]),
    ],
)
def test_a_caption_names_values(family, task, words):
    assert task_in_words(maml_envs.make_single_env(family), task) == words


def test_names_of_crippled_parts_are_those_of_the_model():
    cheetah = maml_envs.make_single_env("CrippledHalfCheetah")
    names = cheetah.task_value_names["disabled_actuator"]
    short = {"b": "back", "f": "front"}
    for i in range(6):
        actuator = cheetah.model.actuator(i).name  # bthigh, ..., ffoot
        assert names[i] == f"{short[actuator[0]]} {actuator[1:]} disabled"
    assert set(names) == {-1.0, *range(6)}


def test_a_number_without_a_name_stays_one():
    names = {"direction": {"1": "forward"}}
    assert value_text("direction", 1.0, names) == "forward"
    assert value_text("direction", 0.25, names) == "0.25"
    assert value_text("goal_velocity", 1.0, names) == "1"


def test_an_axis_says_after_which_step(result):
    assert adaptation_figure(result).axes[0].get_ylabel() == "return after each adaptation step"
    assert return_at(["after 1 step", "after 1 step"]) == "return after 1 step"
    assert return_at(["in episode 2"]) == "return in episode 2"
    assert return_at(["before adaptation", "after 1 step"]) == "return"
    # A crowded sweep has only the last step.
    entries = [
        dataclasses.replace(entry, label=f"{entry.label} {i}")
        for i in range(4)
        for entry in result.entries
    ]
    axes = sweep_figure(Comparison(entries), "direction", None).axes[0]
    assert axes.get_ylabel() == "return after 1 step, 2 episodes"


def test_a_saved_evaluation_has_the_names(result, tmp_path):
    agent = maml_rl.load(result.main[0].sources[0])
    path = tmp_path / "part.json"
    evaluation = result.main[0].evaluations[0]
    write_evaluation(path, evaluation)
    assert read_evaluation(path, agent).description == evaluation.description
