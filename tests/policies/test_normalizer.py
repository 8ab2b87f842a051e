"""Running statistics against numpy on all raw data."""

from __future__ import annotations

import dataclasses

import gymnasium as gym
import maml_envs  # noqa: F401  registers the families
import numpy as np
import pytest
import torch
from helpers.runs import tiny
from helpers.synthetic import OBSERVATION_SIZE, make_episodes, make_policy, make_theta, with_garbage

from maml_rl.learners.maml.learner import MAML
from maml_rl.policies.action_head import ActionHead
from maml_rl.policies.action_map import ActionMap
from maml_rl.policies.mlp import MLPPolicy
from maml_rl.policies.normalizer import ObservationNormalizer
from maml_rl.policies.parameters import make_stack
from maml_rl.sampling.collector import Collector
from maml_rl.sampling.episodes import Episodes
from maml_rl.settings.learners import BaselineConfig, InnerConfig, TRPOConfig
from maml_rl.system.distributed import Ranks
from maml_rl.system.random_streams import Phase, RandomStreams
from maml_rl.training.compose import open_training

CPU = torch.device("cpu")
SCALE = torch.tensor([1.0, 0.2, 3.0], dtype=torch.float64)
SHIFT = torch.tensor([0.5, -2.0, 1.0], dtype=torch.float64)


def raw_episodes(seed: int) -> Episodes:
    """Episodes of raw observations, |observation| < 10, with means and spreads that differ."""
    policy = make_policy()
    episodes = make_episodes(policy, make_stack(make_theta(policy), 2), seed=seed)
    raw = torch.tanh(episodes.observations) * SCALE * (1 + 0.3 * seed) + SHIFT * (1 - 0.4 * seed)
    return with_garbage(dataclasses.replace(episodes, observations=raw), 1e4)


def seen_by(normalizer: ObservationNormalizer, episodes: Episodes) -> Episodes:
    return dataclasses.replace(episodes, observations=normalizer.normalize(episodes.observations))


def updated(
    normalizer: ObservationNormalizer, collections: list[Episodes]
) -> ObservationNormalizer:
    seen = [episodes.real_observations for episodes in collections]
    return normalizer.updated(seen, Ranks(), are_normalized=True)


def real(episodes: Episodes) -> np.ndarray:
    return episodes.observations[episodes.mask > 0].numpy()


def test_statistics_equal_those_of_all_raw_real_steps_after_several_updates():
    normalizer, raw = ObservationNormalizer.empty((OBSERVATION_SIZE,), CPU), []
    for seed in range(4):
        episodes = raw_episodes(seed)
        normalizer = updated(normalizer, [seen_by(normalizer, episodes)])
        raw.append(real(episodes))
        everything = np.concatenate(raw)
        assert int(normalizer.num_states) == len(everything)
        np.testing.assert_allclose(
            normalizer.mean.numpy(), everything.mean(0), rtol=1e-9, atol=1e-12
        )
        np.testing.assert_allclose(normalizer.std.numpy(), everything.std(0), rtol=1e-9)


def test_round_trip_and_unit_spread():
    episodes = raw_episodes(0)
    normalizer = updated(ObservationNormalizer.empty((OBSERVATION_SIZE,), CPU), [episodes])
    normalized = normalizer.normalize(torch.from_numpy(real(episodes)))
    np.testing.assert_allclose(normalized.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(normalized.std(0, correction=0), 1, rtol=1e-9)
    np.testing.assert_allclose(
        (normalized * normalizer.std + normalizer.mean).numpy(), real(episodes), rtol=1e-9
    )


def test_an_update_leaves_the_old_statistics_as_they_are():
    old = updated(ObservationNormalizer.empty((OBSERVATION_SIZE,), CPU), [raw_episodes(0)])
    before = [value.clone() for value in old]
    updated(old, [seen_by(old, raw_episodes(1))])
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(old, before, strict=True))


def test_statistics_of_nothing_change_nothing():
    observations = torch.tensor([[25.0, -3.0, 0.5], [-400.0, 0.0, 9.0]], dtype=torch.float64)
    normalizer = ObservationNormalizer.empty((OBSERVATION_SIZE,), CPU)
    assert torch.equal(normalizer.normalize(observations), observations)


def test_far_observations_count_as_they_are():
    """Large observations, such as velocities of a robot, must not bias the statistics."""
    normalizer = ObservationNormalizer.empty((OBSERVATION_SIZE,), CPU)
    raw = []
    for seed in range(2):
        episodes = raw_episodes(seed)
        episodes = dataclasses.replace(episodes, observations=20 * episodes.observations)
        normalizer = updated(normalizer, [seen_by(normalizer, episodes)])
        raw.append(real(episodes))
    np.testing.assert_allclose(normalizer.mean.numpy(), np.concatenate(raw).mean(0), rtol=1e-6)
    np.testing.assert_allclose(normalizer.std.numpy(), np.concatenate(raw).std(0), rtol=1e-6)


def test_several_collections_at_once_equal_all_their_data():
    base = updated(ObservationNormalizer.empty((OBSERVATION_SIZE,), CPU), [raw_episodes(0)])
    collections = [raw_episodes(1), raw_episodes(2)]
    after = updated(base, [seen_by(base, episodes) for episodes in collections])
    raw = np.concatenate([real(episodes) for episodes in [raw_episodes(0), *collections]])
    np.testing.assert_allclose(after.mean.numpy(), raw.mean(0), rtol=1e-6)
    np.testing.assert_allclose(after.std.numpy(), raw.std(0), rtol=1e-6)


def test_a_constant_entry_is_only_shifted():
    episodes = raw_episodes(0)
    observations = episodes.observations.clone()
    observations[..., 1] = 4.0
    normalizer = updated(
        ObservationNormalizer.empty((OBSERVATION_SIZE,), CPU),
        [dataclasses.replace(episodes, observations=observations)],
    )
    assert float(normalizer.std[1]) == 1.0
    assert normalizer.normalize(torch.full((1, 3), 4.5, dtype=torch.float64))[
        0, 1
    ] == pytest.approx(0.5)


@pytest.mark.parametrize("block_size", [7, 1 << 16])
def test_observations_of_several_axes(block_size, monkeypatch):
    monkeypatch.setattr("maml_rl.policies.normalizer._BLOCK_SIZE", block_size)
    raw = np.random.default_rng(0).normal(3, 2, (50, 4, 3, 2))
    normalizer = ObservationNormalizer.empty((4, 3, 2), CPU)
    for part in (raw[:20], raw[20:]):
        normalizer = normalizer.updated([torch.from_numpy(part)], Ranks(), are_normalized=False)
    assert normalizer.num_states.shape == ()
    assert int(normalizer.num_states) == 50
    np.testing.assert_allclose(normalizer.mean.numpy(), raw.mean(0), rtol=1e-9)
    np.testing.assert_allclose(normalizer.std.numpy(), raw.std(0), rtol=1e-9)


def test_keeps_the_dtype_of_observations():
    normalizer = updated(ObservationNormalizer.empty((OBSERVATION_SIZE,), CPU), [raw_episodes(0)])
    assert normalizer.normalize(torch.zeros(2, 3)).dtype == torch.float32


class RecordingEnv:
    """Records what a vector environment observes before steps of unfinished episodes.

    ``last`` are the observations after the last steps, except those of the last episodes.
    """

    def __init__(self, env) -> None:
        self._env = env
        self.raw: list[np.ndarray] = []
        self.last: list[np.ndarray] = []

    def __getattr__(self, name):
        return getattr(self._env, name)

    def __setattr__(self, name, value):
        if name == "np_random":
            self._env.np_random = value
        else:
            super().__setattr__(name, value)

    def reset(self, **options):
        if self.raw:
            self.last.append(self.observation)
        observation, info = self._env.reset(**options)
        self.observation = observation.copy()
        self._live = np.ones(self._env.num_envs, bool)
        return observation, info

    def step(self, actions):
        self.raw.append(self.observation[self._live])
        observation, reward, terminated, truncated, info = self._env.step(actions)
        self.observation, self._live = observation.copy(), ~(terminated | truncated)
        return observation, reward, terminated, truncated, info


@pytest.mark.parametrize("num_steps", [1, 2])
def test_meta_iterations_count_every_raw_state_once(num_steps):
    env = RecordingEnv(gym.make_vec("maml_rl/PointNavigation-v0", num_envs=4, max_episode_steps=6))
    policy = MLPPolicy(
        2,
        ActionHead(2),
        hidden_sizes=(4,),
        nonlinearity="tanh",
        init_std=1.0,
        rng=np.random.default_rng(0),
        dtype=torch.float64,
    )
    collector = Collector(
        env=env,
        num_tasks=2,
        num_episodes=2,
        horizon=6,
        action_map=ActionMap(env.single_action_space, 0.5),
        device=CPU,
        dtype=torch.float64,
    )
    learner = MAML(
        policy=policy,
        inner=InnerConfig(num_steps=num_steps),
        outer=TRPOConfig(),
        baseline=BaselineConfig(),
        normalizes=True,
        num_adaptation_steps=num_steps,
        num_training_stages=num_steps + 1,
        max_failed_share=0.25,
    )
    state = learner.initial_state()
    for i in range(3):
        streams = RandomStreams(0, Phase.TRAINING, i)
        state = learner.iteration(state, collector, streams, Ranks()).state
    raw = np.concatenate(env.raw)
    normalizer = state.normalizer
    assert int(normalizer.num_states) == len(raw)
    np.testing.assert_allclose(normalizer.mean.numpy(), raw.mean(0), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(normalizer.std.numpy(), raw.std(0), rtol=1e-6)


@pytest.mark.parametrize("learner", ["maml", "rl2", "rma", "pearl"])
def test_every_learner_counts_every_raw_state_once(tmp_path, learner):
    """PEARL counts the last state of an episode, too."""
    small = {"rl2": {"num_minibatches": 1}, "rma": {"num_minibatches": 1}, "maml": {}}
    small["pearl"] = {"num_training_tasks": 0, "num_updates": 1}
    settings = {"name": learner, **small[learner]}
    policy = {"normalize_observations": True, "hidden_sizes": [4]}
    env = {"name": "HalfCheetahVel", "dynamics": {"body_mass": [0.5, 2]}}
    with open_training(
        tiny(tmp_path / "run", env=env, learner=settings, policy=policy)
    ) as training:
        env = RecordingEnv(training.collector.env)
        collector = dataclasses.replace(training.collector, env=env)
        training = training._replace(collector=collector)
        for _ in range(3):
            training = training.continued(training.iterate().state)
    normalizer = training.agent.state.normalizer
    last = [*env.last, env.observation] if learner == "pearl" else []
    raw = np.concatenate(env.raw + last)
    assert int(normalizer.num_states) == len(raw)
    np.testing.assert_allclose(normalizer.mean.numpy(), raw.mean(0), rtol=1e-4, atol=1e-5)
    std = np.where(raw.std(0) > 1e-6, raw.std(0), 1.0)  # a constant is not scaled
    np.testing.assert_allclose(normalizer.std.numpy(), std, rtol=1e-4)
