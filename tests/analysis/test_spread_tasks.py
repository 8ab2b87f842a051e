"""The tasks that a video shows by default: as different as possible, and always the same."""

from __future__ import annotations

import maml_envs
import numpy as np
import pytest

from maml_rl.analysis.tasks.spread import spread_tasks

RNG = np.random.default_rng(0)
VALUES = RNG.uniform(0, 2, 64)


@pytest.mark.parametrize("scale", [np.asarray, np.exp, lambda x: -(10.0 ** (3 * x))])
def test_one_value_is_shown_at_its_ends_and_in_the_middle(scale):
    values = np.sort(scale(VALUES))
    shown = [task["goal"] for task in spread_tasks([{"goal": v} for v in scale(VALUES)], 3)]
    assert (shown[0], shown[2]) == (values[0], values[-1])
    assert shown[1] in values[24:40]


def test_both_directions_are_shown_once():
    tasks = [{"direction": d} for d in (1.0, 1.0, -1.0, 1.0, -1.0)]
    assert spread_tasks(tasks, 3) == [{"direction": -1.0}, {"direction": 1.0}]


def test_goals_in_the_plane_are_far_apart():
    goals = RNG.uniform(-1, 1, (64, 2))
    arrays = spread_tasks([{"goal": goal} for goal in goals], 3)
    shown = spread_tasks([{"x": x, "y": y} for x, y in goals], 3)
    assert [(task["x"], task["y"]) for task in shown] == [tuple(task["goal"]) for task in arrays]
    places = np.array([task["goal"] for task in arrays])
    distances = np.linalg.norm(places[:, None] - places[None], axis=-1)
    assert distances[np.triu_indices(3, 1)].min() > 1.0


def test_names_and_missing_values_are_different_values():
    tasks = [{"ground": "ice"}, {"ground": "sand"}, {"ground": "ice"}, {}, {"ground": [1, 2]}]
    assert len(spread_tasks(tasks, 9)) == 4


@pytest.mark.parametrize(
    "values",
    [[[1, 2], [3, [4]]], [[], []], [None, 1.0], ["a", [1, "b"]], [np.zeros(0), np.ones(2)]],
)
def test_values_of_any_type_are_accepted(values):
    tasks = [{"value": value} for value in values]
    assert 1 <= len(spread_tasks(tasks, 3)) <= 2


def test_an_environment_without_tasks_has_one():
    assert spread_tasks([{}] * 64, 3) == [{}]


@pytest.mark.parametrize("name", maml_envs.FAMILIES)
def test_tasks_of_every_family_differ(name):
    env = maml_envs.make_single_env(name)
    env.np_random = np.random.default_rng(0)
    tasks = env.sample_tasks(64)
    shown = spread_tasks(tasks, 3)
    assert all(task in tasks for task in shown)
    assert len(shown) == min(3, len({tuple(task.values()) for task in tasks}))
    assert len({tuple(task.values()) for task in shown}) == len(shown)
    assert spread_tasks(tasks, 3) == shown
