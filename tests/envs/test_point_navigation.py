"""The point: reward, episode end, tasks, render modes."""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import maml_envs
import numpy as np
import pytest

ENV_ID = "maml_rl/PointNavigation-v0"
# Bounds of the action space are float32.
MAX_STEP = float(np.float32(0.1))


def _clip(value: float) -> float:
    return min(max(value, -MAX_STEP), MAX_STEP)


def test_reward_is_the_distance_after_the_step() -> None:
    goals = [(0.5, -0.5), (-0.2, 0.4), (0.0, 0.3)]
    env = gym.make_vec(ENV_ID, num_envs=len(goals))
    env.set_tasks([{"goal_x": x, "goal_y": y} for x, y in goals])
    observation, _ = env.reset(seed=0)
    np.testing.assert_array_equal(observation, np.zeros((3, 2)))
    positions = [(0.0, 0.0)] * len(goals)
    rng = np.random.default_rng(0)
    for _ in range(20):
        actions = rng.uniform(-0.2, 0.2, (3, 2))  # some out of bounds
        observation, reward, terminated, _, info = env.step(actions)
        assert not terminated.any()
        positions = [
            (x + _clip(float(a[0])), y + _clip(float(a[1])))
            for (x, y), a in zip(positions, actions, strict=True)
        ]
        np.testing.assert_allclose(observation, positions, rtol=0, atol=1e-12)
        for i, ((x, y), (goal_x, goal_y)) in enumerate(zip(positions, goals, strict=True)):
            assert reward[i] == pytest.approx(
                -math.sqrt((x - goal_x) ** 2 + (y - goal_y) ** 2), rel=0, abs=1e-12
            )
        np.testing.assert_array_equal(reward, info["reward_distance"])
    env.close()


def test_step_is_at_most_a_tenth_per_axis() -> None:
    env = gym.make(ENV_ID)
    env.reset(seed=0, options={"task": {"goal_x": 0.5, "goal_y": 0.5}})
    observation, *_ = env.step(np.array([7.0, -0.3], np.float32))
    np.testing.assert_allclose(observation, [0.1, -0.1], rtol=0, atol=1e-8)
    env.close()


JUST_INSIDE, JUST_OUTSIDE = np.nextafter(0.01, 0), np.nextafter(0.01, 1)


@pytest.mark.parametrize(
    ("offset", "ends"),
    [
        ((0.0, 0.0), True),
        ((JUST_INSIDE, JUST_INSIDE), True),
        ((-JUST_INSIDE, JUST_INSIDE), True),
        ((JUST_OUTSIDE, 0.0), False),
        ((0.0, -JUST_OUTSIDE), False),
        ((JUST_OUTSIDE, JUST_OUTSIDE), False),
    ],
)
@pytest.mark.parametrize("batch", [False, True])
def test_episode_ends_within_a_hundredth_on_both_axes(
    offset: tuple[float, float], ends: bool, batch: bool
) -> None:
    task = {"goal_x": 0.0, "goal_y": 0.0}  # so that position minus goal is exactly the action
    env: Any
    if batch:
        env = gym.make_vec(ENV_ID, num_envs=2)
        env.reset(seed=0, options={"task": task})
        _, _, terminated, truncated, _ = env.step(np.array([offset, (0.05, 0.0)]))
        assert not terminated[1]
        terminated, truncated = terminated[0], truncated[0]
    else:
        env = gym.make(ENV_ID).unwrapped
        env.reset(seed=0, options={"task": task})
        _, _, terminated, truncated, _ = env.step(np.array(offset))
    assert bool(terminated) is ends
    assert not truncated
    env.close()


def test_goal_tolerance_is_a_setting() -> None:
    env = gym.make(ENV_ID, goal_tolerance=0.06)
    env.reset(seed=0, options={"task": {"goal_x": 0.1, "goal_y": 0.0}})
    assert not env.step(np.array([0.03, 0.0], np.float32))[2]
    assert env.step(np.array([0.03, 0.0], np.float32))[2]
    env.close()


def test_goals_fill_their_square() -> None:
    env = gym.make(ENV_ID)
    env.reset(seed=0)
    goals = np.array(
        [(task["goal_x"], task["goal_y"]) for task in env.unwrapped.sample_tasks(4000)]
    )
    assert np.all(abs(goals) <= 0.5)
    np.testing.assert_allclose(goals.min(axis=0), -0.5, atol=0.01)
    np.testing.assert_allclose(goals.max(axis=0), 0.5, atol=0.01)
    assert abs(np.corrcoef(goals.T)[0, 1]) < 0.1
    env.close()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"low": 0.5, "high": 0.1}, "0.5, 0.1"),
        ({"low": np.nan}, "nan"),
        ({"goal_tolerance": -1.0}, "goal_tolerance.*-1.0"),
        ({"goal_tolerance": np.nan}, "goal_tolerance.*nan"),
    ],
)
def test_invalid_settings_are_rejected(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        maml_envs.FAMILIES["PointNavigation"](**settings)


def test_rgb_array_is_the_only_render_mode() -> None:
    with pytest.raises(ValueError, match=r"rgb_array.*'depth_array'"):
        maml_envs.FamilyEnv(maml_envs.FAMILIES["PointNavigation"](), render_mode="depth_array")
