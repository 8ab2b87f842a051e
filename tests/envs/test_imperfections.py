"""Delayed actions and sensor noise."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

ENV_ID = "maml_rl/HalfCheetahVel-v0"
NUM_STEPS = 150  # more than two chunks of noise


def _batch(num_envs: int, **task: Any) -> Any:
    """A batch whose task parameters are one number, or one number per simulation."""
    env = gym.make_vec(ENV_ID, num_envs=num_envs, max_episode_steps=100_000, num_threads=1)
    values = {
        name: np.broadcast_to(np.float64(value), num_envs)
        for name, value in {"goal_velocity": 1, **task}.items()
    }
    env.set_tasks(
        [{name: float(value[i]) for name, value in values.items()} for i in range(num_envs)]
    )
    return env


def _actions(num_steps: int, num_envs: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (num_steps, num_envs, 6))


def _observations(env: Any, actions: np.ndarray, **reset: Any) -> np.ndarray:
    """Observations of an episode, (num_steps + 1, num_envs, observation_size)."""
    return np.stack([env.reset(**reset)[0], *(env.step(action)[0] for action in actions)])


def test_delayed_actions_cost_at_once() -> None:
    delays = np.array([0, 1, 3, 20])
    actions = _actions(30, 4)
    shifted_actions = np.zeros_like(actions)
    for i, delay in enumerate(delays):
        shifted_actions[delay:, i] = actions[: 30 - delay, i]
    delayed = _batch(4, action_delay=delays)
    plain = _batch(4)
    for seed in (0, None):  # the second episode starts with no pending actions
        np.testing.assert_array_equal(delayed.reset(seed=seed)[0], plain.reset(seed=seed)[0])
        for action, shifted in zip(actions, shifted_actions, strict=True):
            observation, _, _, _, info = delayed.step(action)
            expected, _, _, _, others = plain.step(shifted)
            np.testing.assert_array_equal(observation, expected)
            np.testing.assert_array_equal(info["reward_forward"], others["reward_forward"])
            np.testing.assert_allclose(
                info["reward_control"], -0.05 * (action**2).sum(-1), rtol=1e-12
            )


def test_reset_clears_pending_actions_of_the_reset_simulations_only() -> None:
    actions = _actions(20, 3)
    env, intact = _batch(3, action_delay=4), _batch(3, action_delay=4)
    env.reset(seed=0)
    intact.reset(seed=0)
    for action in actions[:10]:
        env.step(action)
        intact.step(action)
    again = {"seed": [None, 7, None], "options": {"reset_mask": np.array([False, True, False])}}
    observations = _observations(env, actions[10:], **again)
    others = np.stack([intact.step(action)[0] for action in actions[10:]])
    np.testing.assert_array_equal(observations[1:, [0, 2]], others[:, [0, 2]])
    fresh = _batch(1, action_delay=4)
    np.testing.assert_array_equal(
        observations[:, [1]], _observations(fresh, actions[10:, [1]], seed=7)
    )


@pytest.mark.slow
def test_noise_is_white_with_the_set_standard_deviation() -> None:
    std, num_steps = np.array([0.5, 0.1, 0.5]), 4000
    actions = np.zeros((num_steps, 3, 6))
    noise = _observations(_batch(3, observation_noise=std), actions, seed=[5, 5, 6])
    noise -= _observations(_batch(3), actions, seed=[5, 5, 6])
    # same seed, standard deviations 0.5 and 0.1
    np.testing.assert_allclose(noise[:, 0], 5 * noise[:, 1], rtol=1e-9, atol=1e-9)
    noise = noise[:, [0, 2]].reshape(num_steps + 1, -1) / 0.5
    error = num_steps**-0.5
    assert abs(noise.mean(axis=0)).max() < 4.5 * error
    assert abs(noise.std(axis=0) - 1).max() < 4.5 * error / 2**0.5
    assert abs((noise**4).mean() - 3) < 0.1  # kurtosis of a Gaussian
    correlation = np.corrcoef(noise.T)[~np.eye(noise.shape[1], dtype=bool)]
    assert abs(correlation).max() < 5 * error
    for lag in (1, 2, 63, 64, 65, 128):
        assert abs((noise[lag:] * noise[:-lag]).mean()) < 5 * error / noise.shape[1] ** 0.5


def test_noise_does_not_affect_the_physics() -> None:
    actions = _actions(NUM_STEPS, 2)
    noisy = _batch(2, observation_noise=[0.0, 0.3])
    clean = _batch(2)
    zero_noise = _batch(2, observation_noise=0.0)
    for seed in (3, None):
        for env in (noisy, clean, zero_noise):
            env.reset(seed=seed)
        for action in actions:
            observation, reward, *_ = noisy.step(action)
            expected, expected_reward, *_ = clean.step(action)
            np.testing.assert_array_equal(reward, expected_reward)
            np.testing.assert_array_equal(observation[0], expected[0])
            assert (observation[1] != expected[1]).all()
            np.testing.assert_array_equal(zero_noise.step(action)[0], expected)
            np.testing.assert_array_equal(
                noisy.unwrapped.engine.state["qpos"], clean.unwrapped.engine.state["qpos"]
            )


def test_noise_depends_on_the_seed() -> None:
    actions, env = np.zeros((NUM_STEPS, 2, 6)), _batch(2, observation_noise=0.1)
    first, second = _observations(env, actions, seed=4), _observations(env, actions)
    again, other = _observations(env, actions, seed=4), _observations(env, actions, seed=9)
    np.testing.assert_array_equal(first, again)
    assert not (first == second).any()
    assert not (first == other).any()


def test_single_environment_equals_the_batch() -> None:
    task = {"goal_velocity": 1.0, "action_delay": 2.0, "observation_noise": 0.2}
    batch, single = (
        _batch(3, action_delay=[0, 2, 1], observation_noise=[0.0, 0.2, 0.1]),
        gym.make(ENV_ID).unwrapped,
    )
    actions = _actions(NUM_STEPS, 3).astype(np.float32)
    for seed in (11, None):
        observation, _ = batch.reset(seed=seed)
        expected, _ = single.reset(seed=None if seed is None else seed + 1, options={"task": task})
        np.testing.assert_array_equal(observation[1], expected)
        for action in actions:
            observation, reward, *_ = batch.step(action)
            expected, expected_reward, *_ = single.step(action[1])
            np.testing.assert_array_equal(observation[1], expected)
            assert reward[1] == expected_reward


def test_noise_of_a_finished_simulation_does_not_change() -> None:
    env = gym.make_vec(ENV_ID, num_envs=2, max_episode_steps=3)
    env.set_tasks([{"goal_velocity": 1.0, "observation_noise": 0.1}] * 2)
    env.reset(seed=0)
    env.step(np.zeros((2, 6)))
    last = env.reset(seed=[None, 8], options={"reset_mask": np.array([False, True])})[0]
    for t in range(5):
        observation, *_ = env.step(np.zeros((2, 6)))
        for i, end in ((0, 2), (1, 3)):
            assert (observation[i] == last[i]).all() == (t >= end)
        last = observation


def test_tasks_can_be_set_without_a_reset() -> None:
    env, actions = _batch(2, action_delay=[0, 3], observation_noise=[0.0, 0.1]), _actions(6, 2)
    _observations(env, actions, seed=0)
    env.set_tasks(
        [
            {"goal_velocity": 1.0, "action_delay": 2, "observation_noise": 0.1},
            {"goal_velocity": 1.0},
        ]
    )
    expected = _observations(
        _batch(2, action_delay=[2, 0], observation_noise=[0.1, 0.0]), actions, seed=1
    )
    np.testing.assert_array_equal(_observations(env, actions, seed=1), expected)


@pytest.mark.parametrize(
    "before",
    [{"action_delay": 3}, {"observation_noise": 0.1}, {"changed/gravity": 2, "change_episode": 1}],
    ids=str,
)
def test_what_new_tasks_lack_ends_at_once(before: dict[str, float]) -> None:
    env, plain, actions = _batch(2, **before), _batch(2), _actions(6, 2)
    _observations(env, actions, seed=0)
    env.set_tasks([{"goal_velocity": 1.0}] * 2)
    expected = _observations(plain, actions, seed=1)
    np.testing.assert_array_equal(_observations(env, actions, seed=1), expected)


def test_delay_and_noise_take_effect_at_the_next_reset() -> None:
    env, plain = _batch(2), _batch(2)
    env.reset(seed=0)
    plain.reset(seed=0)
    env.set_tasks(
        [
            {"goal_velocity": 1.0, "observation_noise": 0.1},
            {"goal_velocity": 1.0, "action_delay": 2},
        ]
    )
    for action in _actions(6, 2):
        np.testing.assert_array_equal(env.step(action)[0], plain.step(action)[0])
