"""The number that captions of videos show: the forward velocity, or the distance to the goal."""

from __future__ import annotations

import maml_envs
import numpy as np
import pytest
from maml_envs.gym.single_env import FamilyEnv

STEPS = 5


def _played(name: str) -> tuple[FamilyEnv, np.ndarray, np.ndarray]:
    """An environment after a few steps; positions before and after the last one."""
    env = maml_envs.make_single_env(name)
    env.reset(seed=0)
    env.action_space.seed(0)
    for _ in range(STEPS):
        before = {key: value.copy() for key, value in env.engine.state.items()}
        env.step(env.action_space.sample())
    key = "qpos" if "qpos" in before else "position"
    return env, before[key][0], env.engine.state[key][0]


def _number(env: FamilyEnv) -> tuple[str, float, str]:
    name, number, unit = env.frame_caption.rsplit(" ", 2)
    return name, float(number), unit


@pytest.mark.parametrize("name", maml_envs.FAMILIES)
def test_every_family_shows_a_number_of_each_simulation(name):
    env = maml_envs.make_vector_env(name, 3)
    env.reset(seed=0)
    family, simulations = env._simulations.family, env._simulations
    tasks = maml_envs.family.stack_tasks(family, env.tasks)
    state = simulations.engine.state
    values = family.shown_value(np, state, state, tasks)
    assert values.shape == (3,)
    assert np.isfinite(values).all()
    env.close()


@pytest.mark.parametrize("name", ["HalfCheetahVel", "AntDir", "HopperRandParams", "CrippledAnt"])
def test_the_forward_velocity_is_the_change_of_position_by_time(name):
    env, before, after = _played(name)
    velocity = (after[0] - before[0]) / env.dt
    assert velocity != 0
    assert _number(env) == ("forward velocity", pytest.approx(velocity, abs=0.006), "m/s")
    env.reset()
    assert _number(env)[1] == 0


def test_the_velocity_in_a_direction_is_along_it():
    env, before, after = _played("AntDir2D")
    angle = env.task["direction_angle"]
    expected = (after - before)[:2] @ [np.cos(angle), np.sin(angle)] / env.dt
    assert _number(env) == (
        "velocity in the direction",
        pytest.approx(expected, abs=0.006),
        "m/s",
    )


@pytest.mark.parametrize("name", ["AntGoal", "ReacherGoal", "PointNavigation"])
def test_the_distance_is_that_to_the_goal(name):
    env, _, after = _played(name)
    place = env.data.body("fingertip").xpos[:2] if name == "ReacherGoal" else after[:2]
    goal = np.array([0.3, -0.2])
    env.set_task({"goal_x": goal[0], "goal_y": goal[1]})
    name, number, unit = _number(env)
    assert (name, unit) == ("distance to the goal", "m")
    # MuJoCo's position of the fingertip is that of the last substep.
    assert number == pytest.approx(np.linalg.norm(place - goal), abs=0.02)


def test_before_a_task_there_is_no_caption():
    assert maml_envs.make_single_env("AntGoal").frame_caption == ""
