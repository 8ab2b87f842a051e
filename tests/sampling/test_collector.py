"""Collection on the point family, and on a stub that is discrete or fails."""

from __future__ import annotations

import dataclasses

import gymnasium as gym
import maml_envs  # noqa: F401  registers the families
import numpy as np
import pytest
import torch
from gymnasium import spaces
from helpers.synthetic import policy_gradient_loss

from maml_rl.errors import UserError
from maml_rl.learners.advantages import with_advantages
from maml_rl.policies.action_head import ActionHead
from maml_rl.policies.action_map import ActionMap
from maml_rl.policies.mlp import MLPPolicy
from maml_rl.policies.normalizer import ObservationNormalizer
from maml_rl.policies.parameters import make_stack, parameters
from maml_rl.sampling.actors import Actor, PolicyActor
from maml_rl.sampling.collector import Collector
from maml_rl.sampling.failures import ACTION, CODES, OBSERVATION, REWARD
from maml_rl.settings.learners import BaselineConfig
from maml_rl.system.random_streams import Phase, RandomStreams
from maml_rl.system.torch_runtime import torch_threads

CPU = torch.device("cpu")
STREAMS = RandomStreams(0, Phase.TRAINING, 3)
H = 6


class StubVectorEnv:
    """Sub-environment i's observation is [i, its steps so far, the last action's first entry].

    Args:
        num_envs: sub-environments.
        action_space: of one of them.
        lengths: steps after which each terminates.
        time_limits: steps after which each is truncated; default is H.
        unstable_at: (sub-environment, step) at which its simulation breaks down.
        nan: (name, sub-environment, step, value) where ``observation`` or ``reward`` is not finite.
        nan_after_end: NaN observations after an episode has ended or broken down.
    """

    def __init__(
        self,
        num_envs,
        action_space,
        *,
        lengths=None,
        time_limits=None,
        unstable_at=None,
        nan=None,
        nan_after_end=False,
    ):
        self.num_envs = num_envs
        self.single_observation_space = spaces.Box(-np.inf, np.inf, (3,))
        self.single_action_space = action_space
        self.np_random = np.random.default_rng(0)
        self.lengths = np.full(num_envs, 1000) if lengths is None else np.array(lengths)
        self.time_limits = np.full(num_envs, H) if time_limits is None else np.array(time_limits)
        self.unstable_at, self.nan, self.nan_after_end = unstable_at, nan, nan_after_end
        self.tasks, self.seeds, self.actions = None, [], []

    def set_tasks(self, tasks):
        self.tasks = list(tasks)

    def sample_tasks(self, num_tasks):
        return [{} for _ in range(num_tasks)]

    def _observation(self, last):
        out = np.stack([np.arange(self.num_envs), self.steps, last], -1).astype(float)
        if self.nan_after_end:
            out[self.finished] = np.nan
        if self.nan and self.nan[0] == "observation" and self.steps.max() == self.nan[2]:
            out[self.nan[1]] = self.nan[3]
        return out

    def reset(self, *, seed=None, options=None):
        self.seeds.append(seed)
        self.actions.append([])
        self.steps = np.zeros(self.num_envs, int)
        self.terminated, self.truncated = np.zeros((2, self.num_envs), bool)
        self.finished = self.terminated | self.truncated
        return self._observation(np.zeros(self.num_envs)), {}

    def step(self, actions):
        self.actions[-1].append(np.array(actions))
        live = ~self.finished
        self.steps = self.steps + live
        unstable = np.zeros(self.num_envs, bool)
        if self.unstable_at:
            unstable[self.unstable_at[0]] = (
                live[self.unstable_at[0]] and self.steps[self.unstable_at[0]] == self.unstable_at[1]
            )
        self.terminated = self.terminated | (live & ~unstable & (self.steps >= self.lengths))
        self.truncated = self.truncated | unstable | (live & (self.steps >= self.time_limits))
        self.finished = self.terminated | self.truncated
        reward = np.where(live, 10.0 * np.arange(self.num_envs) + self.steps, 0.0)
        if self.nan and self.nan[0] == "reward" and self.steps.max() == self.nan[2]:
            reward[self.nan[1]] = self.nan[3]
        last = actions if actions.ndim == 1 else actions[:, 0]
        return (
            self._observation(last),
            reward,
            self.terminated.copy(),
            self.truncated.copy(),
            {"unstable": unstable},
        )

    def close(self):
        pass


def make_mlp(observation_size, action_size=2, discrete=False, dtype=torch.float32):
    return MLPPolicy(
        observation_size,
        ActionHead(action_size, discrete),
        hidden_sizes=(8,),
        nonlinearity="tanh",
        init_std=1.0,
        rng=np.random.default_rng(0),
        dtype=dtype,
    )


def point_collector(num_tasks=3, num_episodes=4, num_envs=12, scale=1.0, **family) -> Collector:
    env = gym.make_vec(
        "maml_rl/PointNavigation-v0", num_envs=num_envs, max_episode_steps=H, **family
    )
    return Collector(
        env=env,
        num_tasks=num_tasks,
        num_episodes=num_episodes,
        horizon=H,
        action_map=ActionMap(env.single_action_space, scale),
        device=CPU,
    )


def stub_collector(
    num_tasks=2, num_episodes=3, num_envs=6, action_space=None, discrete=False, **options
) -> Collector:
    space = action_space or (spaces.Discrete(4) if discrete else spaces.Box(-1, 1, (2,)))
    env = StubVectorEnv(num_envs, space, **options)
    return Collector(
        env=env,
        num_tasks=num_tasks,
        num_episodes=num_episodes,
        horizon=H,
        action_map=ActionMap(space, 1.0),
        device=CPU,
    )


def policy_of(collector: Collector) -> MLPPolicy:
    """A policy for the collector's spaces; each call makes the same one."""
    space = collector.env.single_action_space
    discrete = isinstance(space, spaces.Discrete)
    return make_mlp(
        collector.env.single_observation_space.shape[0],
        int(space.n) if discrete else space.shape[0],
        discrete,
    )


def stack_of(collector: Collector) -> dict[str, torch.Tensor]:
    """Every task its own parameters."""
    theta = make_stack(parameters(policy_of(collector)), collector.num_tasks)
    generator = torch.Generator().manual_seed(0)
    return {
        name: value + 0.3 * torch.randn(value.shape, generator=generator)
        for name, value in theta.items()
    }


def collect(
    collector: Collector, stack=None, streams=STREAMS, stage=0, normalizer=None, policy=None
):
    policy = policy or policy_of(collector)
    stack = stack_of(collector) if stack is None else stack
    noise = collector.noise(policy.draw_noise, streams, stage)
    return collector.collect(PolicyActor(policy, stack, noise, normalizer), streams, stage)


def goals(num_tasks):
    return [{"goal_x": 0.4 * (-1) ** i, "goal_y": 0.1 * i} for i in range(num_tasks)]


class TestOnThePointFamily:
    def test_axes_are_task_episode_time_and_rewards_belong_to_the_tasks(self):
        collector = point_collector()
        collector.set_tasks(goals(3))
        episodes = collect(collector)
        assert episodes.observations.shape == (3, 4, H, 2)
        assert episodes.actions.shape == (3, 4, H, 2)
        assert (
            episodes.rewards.shape == episodes.mask.shape == episodes.log_probs.shape == (3, 4, H)
        )
        assert episodes.mask.all()
        assert (episodes.observations[:, :, 0] == 0).all()
        displacement = (episodes.actions * 0.1).clamp(
            -0.1, 0.1
        )  # scale 1: an output of 1 is the whole half-range
        position = episodes.observations + displacement
        torch.testing.assert_close(position[:, :, :-1], episodes.observations[:, :, 1:])
        for i, goal in enumerate(goals(3)):
            offset = position[i] - torch.tensor([goal["goal_x"], goal["goal_y"]])
            torch.testing.assert_close(episodes.rewards[i], -offset.norm(dim=-1))

    @pytest.mark.parametrize("num_envs", [3, 6])
    def test_rounds_hold_the_same_noise_and_goals_as_one_batch(self, num_envs):
        whole, in_rounds = point_collector(), point_collector(num_envs=num_envs)
        collected = []
        for collector in (whole, in_rounds):
            collector.set_tasks(goals(3))
            episodes = collect(collector)
            noise = (
                episodes.actions - episodes.distribution[0].reshape(episodes.actions.shape)
            ) * torch.exp(-episodes.distribution[1][:, None])
            collected.append((episodes, noise))
        torch.testing.assert_close(collected[0][1], collected[1][1], rtol=1e-4, atol=1e-5)
        # The point starts at the origin whatever the seed, so here the episodes themselves are
        # equal too.
        torch.testing.assert_close(
            collected[0][0].rewards, collected[1][0].rewards, rtol=1e-4, atol=1e-6
        )

    def test_noise_is_each_tasks_own_stream(self):
        collector = point_collector()
        episodes = collect(collector, stage=1)
        policy, stack = policy_of(collector), stack_of(collector)
        for i in range(3):
            noise = torch.from_numpy(policy.draw_noise(STREAMS.actions(1, i), (4, H)))
            task = {name: value[i : i + 1] for name, value in stack.items()}
            dist = policy.distribution(task, episodes.observations[i : i + 1].flatten(1, 2))
            expected = dist.sample(noise.flatten(0, 1)[None]).reshape(4, H, 2)
            torch.testing.assert_close(episodes.actions[i], expected, rtol=1e-4, atol=1e-5)

    def test_log_probs_are_those_of_the_stored_actions(self):
        collector = point_collector(num_tasks=6, num_envs=24)  # more than a block of tasks
        episodes, policy, stack = collect(collector), policy_of(collector), stack_of(collector)
        for i in range(6):
            task = {name: value[i : i + 1] for name, value in stack.items()}
            for e in range(4):
                dist = policy.distribution(task, episodes.observations[i, e][None])
                log_prob = dist.log_prob(episodes.actions[i, e][None])[0]
                torch.testing.assert_close(episodes.log_probs[i, e], log_prob, rtol=1e-4, atol=1e-5)
        dist = policy.distribution(stack, episodes.flat(episodes.observations))
        for ours, theirs in zip(episodes.distribution, dist, strict=True):
            assert torch.equal(ours, theirs)

    def test_the_first_tasks_are_the_same_among_fewer_tasks(self):
        many, few = point_collector(), point_collector(num_tasks=2, num_envs=8)
        stack = stack_of(many)
        many.set_tasks(goals(3))
        few.set_tasks(goals(2))
        ours = collect(many, stack)
        theirs = collect(few, {name: value[:2] for name, value in stack.items()})
        torch.testing.assert_close(ours.actions[:2], theirs.actions, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(ours.rewards[:2], theirs.rewards, rtol=1e-4, atol=1e-5)

    def test_the_mask_stops_after_termination(self):
        collector = point_collector(goal_tolerance=0.15)
        collector.set_tasks([{"goal_x": 0.2, "goal_y": 0.0}] * 3)
        episodes = collect(collector)
        goal = torch.tensor([0.2, 0.0])
        position = episodes.observations + (episodes.actions * 0.1).clamp(-0.1, 0.1)
        lengths = []
        for i in range(3):
            for e in range(4):
                reached = ((position[i, e] - goal).abs() < 0.15).all(-1).nonzero()
                lengths.append(int(reached[0]) + 1 if len(reached) else H)
                assert episodes.mask[i, e].tolist() == [1.0] * lengths[-1] + [0.0] * (
                    H - lengths[-1]
                )
                assert (episodes.rewards[i, e, lengths[-1] :] == 0).all()
        assert min(lengths) < max(lengths)

    def test_the_same_call_gives_the_same_episodes_and_another_name_others(self):
        collector = point_collector()
        collector.set_tasks(goals(3))
        first, again = collect(collector), collect(collector)
        assert torch.equal(first.actions, again.actions)
        assert torch.equal(first.rewards, again.rewards)
        for other in (
            collect(collector, stage=1),
            collect(collector, streams=RandomStreams(0, Phase.TRAINING, 4)),
        ):
            assert not torch.isclose(first.actions, other.actions).any(-1).all()

    def test_global_generators_are_untouched(self):
        collector = point_collector()
        before = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
        collect(collector)
        assert (np.random.get_state()[1] == before[0]).all()  # noqa: NPY002
        assert torch.equal(torch.get_rng_state(), before[1])

    def test_observations_are_normalised_and_normalisation_is_recorded(self):
        collector = point_collector()
        normalizer = ObservationNormalizer(
            torch.tensor(100.0, dtype=torch.float64),
            torch.tensor([0.5, -1.0], dtype=torch.float64),
            torch.tensor([400.0, 25.0], dtype=torch.float64),
        )
        episodes = collect(collector, normalizer=normalizer)
        torch.testing.assert_close(episodes.observations[0, 0, 0], torch.tensor([-0.25, 2.0]))
        assert not episodes.advantages.any()


class TestOnAStub:
    def test_sub_environments_go_to_their_task_and_time_runs_along_the_third_axis(self):
        episodes = collect(stub_collector())
        assert episodes.observations[..., 0, 0].tolist() == [[0, 1, 2], [3, 4, 5]]
        assert episodes.observations[1, 2, :, 1].tolist() == list(range(H))
        assert episodes.rewards[1, 0].tolist() == [30 + t + 1 for t in range(H)]

    def test_rounds(self):
        collector = stub_collector(num_episodes=6)
        collector.set_tasks([{"goal": 0.0}, {"goal": 1.0}])
        episodes = collect(collector)
        assert collector.env.tasks == [{"goal": 0.0}] * 3 + [{"goal": 1.0}] * 3
        assert episodes.observations[..., 0, 0].tolist() == [[0, 1, 2] * 2, [3, 4, 5] * 2]
        # The seeds of episodes count up by task and then by episode, whatever the rounds.
        seeds = np.arange(12).reshape(2, 6) + STREAMS.reset_seed(0, 12)
        assert collector.env.seeds == [seeds[:, :3].ravel().tolist(), seeds[:, 3:].ravel().tolist()]
        assert not torch.isclose(episodes.actions[:, :3], episodes.actions[:, 3:]).all(-1).any()

    def test_the_seeds_of_a_process_continue_those_of_the_one_before(self):
        """Each of two processes has two tasks of three episodes, whose seeds count up."""
        first, second = (
            dataclasses.replace(stub_collector(), first_task=first_task, num_tasks_of_all=4)
            for first_task in (0, 2)
        )
        for collector in (first, second):
            collect(collector)
        start = STREAMS.reset_seed(0, 12)
        assert (first.env.seeds, second.env.seeds) == ([start], [start + 6])

    def test_what_the_environment_gets_is_the_mapped_action(self):
        collector = stub_collector()
        episodes = collect(collector)
        sent = np.stack(collector.env.actions[0])  # (H, num_envs, 2)
        np.testing.assert_allclose(
            sent.reshape(H, 2, 3, 2).transpose(1, 2, 0, 3),
            episodes.actions.numpy().clip(-1, 1),
            rtol=1e-6,
        )
        assert (episodes.actions.abs() > 1).any()

    def test_mask_of_episodes_of_different_lengths(self):
        lengths = [1, 3, H, 2, 5, 4]
        episodes = collect(stub_collector(lengths=lengths))
        assert episodes.mask.sum(-1).flatten().tolist() == lengths
        assert (episodes.mask.diff(dim=-1) <= 0).all()
        assert (episodes.rewards[episodes.mask == 0] == 0).all()
        assert not episodes.discarded.any()

    def test_an_episode_that_is_truncated_before_the_horizon_ends_there(self):
        limits = [1, 3, H, 2, 5, 4]
        assert collect(stub_collector(time_limits=limits)).mask.sum(-1).flatten().tolist() == limits

    def test_stops_early_when_every_episode_has_ended(self):
        collector = stub_collector(lengths=[2, 1, 2, 1, 1, 1])
        episodes = collect(collector)
        assert len(collector.env.actions[0]) == 2
        assert episodes.actions.shape == (2, 3, H, 2)
        assert not episodes.actions[:, :, 2:].any()

    def test_after_its_end_an_episode_is_padded_with_zeros(self):
        episodes = collect(stub_collector(lengths=[1, 3, H, 2, 5, 4]))
        ended = episodes.mask == 0
        assert not episodes.rewards[ended].any()
        assert not episodes.observations[ended].any()
        assert not episodes.actions[ended].any()

    def test_discrete_actions(self):
        collector = stub_collector(discrete=True)
        episodes = collect(collector)
        assert episodes.actions.dtype == torch.int64
        assert episodes.actions.shape == (2, 3, H)
        assert set(episodes.actions.flatten().tolist()) == {0, 1, 2, 3}
        sent = np.stack(collector.env.actions[0])
        assert (sent.reshape(H, 2, 3).transpose(1, 2, 0) == episodes.actions.numpy()).all()
        logits = episodes.distribution[0].reshape(2, 3, H, 4)
        expected = logits.log_softmax(-1).gather(-1, episodes.actions[..., None])[..., 0]
        torch.testing.assert_close(episodes.log_probs, expected)

    def test_all_steps_of_a_discarded_episode_are_masked(self):
        episodes = collect(stub_collector(unstable_at=(4, 3)))
        assert episodes.discarded.tolist() == [[False, False, False], [False, True, False]]
        assert not episodes.mask[1, 1].any()
        assert not episodes.rewards[1, 1].any()
        assert not episodes.observations[1, 1].any()
        assert episodes.mask.sum() == 5 * H

    @pytest.mark.parametrize("discrete", [False, True])
    def test_nan_from_a_broken_simulation_does_not_reach_the_loss(self, discrete):
        collector = stub_collector(discrete=discrete, unstable_at=(4, 3), nan_after_end=True)
        episodes = with_advantages(collect(collector), BaselineConfig())
        loss_of = policy_gradient_loss(policy_of(collector), "log_prob")
        loss = loss_of(stack_of(collector), episodes)
        assert loss.isfinite().all()

    def test_nan_after_an_episodes_end_does_not_reach_the_loss(self):
        collector = stub_collector(lengths=[1, 3, H, 2, 5, 4], nan_after_end=True)
        episodes = with_advantages(collect(collector), BaselineConfig())
        loss_of = policy_gradient_loss(policy_of(collector), "log_prob")
        loss = loss_of(stack_of(collector), episodes)
        assert loss.isfinite().all()

    @pytest.mark.parametrize(
        ("kind", "value", "what"),
        [
            ("observation", np.nan, OBSERVATION),
            ("observation", -np.inf, OBSERVATION),
            ("observation", 1e300, OBSERVATION),  # too large for the policy's float32
            ("reward", np.nan, REWARD),
            ("reward", np.inf, REWARD),
        ],
    )
    def test_an_episode_with_a_non_finite_value_is_discarded(self, kind, value, what):
        collector = stub_collector(nan=(kind, 5, 2, value))
        episodes = collect(collector)
        assert episodes.cause.tolist() == [[0, 0, 0], [0, 0, CODES[what]]]
        assert np.isfinite(
            np.stack(collector.env.actions[0])
        ).all()  # nor is a non-finite action sent
        whole = collect(stub_collector())
        for name in ("observations", "actions", "rewards", "mask", "log_probs"):
            value, expected = getattr(episodes, name), getattr(whole, name)
            assert value.isfinite().all()
            assert torch.equal(value.flatten(0, 1)[:5], expected.flatten(0, 1)[:5])

    @pytest.mark.parametrize("discrete", [False, True])
    def test_non_finite_parameters_discard_every_episode_of_their_task(self, discrete):
        collector = stub_collector(discrete=discrete)
        stack = stack_of(collector)
        stack["bias_1"][1] = float("nan")
        episodes = collect(collector, stack)
        assert episodes.cause.tolist() == [[0] * 3, [CODES[ACTION]] * 3]
        assert np.isfinite(np.stack(collector.env.actions[0])).all()

    @pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
    @pytest.mark.parametrize(
        "huge",
        [
            {"weight_0": 3e38, "weight_1": 3e38},
            {"bias_1": 3.4e38, "log_std": 88.0},
            {"bias_1": np.inf},
        ],
    )
    def test_parameters_that_overflow_discard_their_task_without_a_warning(
        self, nonlinearity, huge
    ):
        collector = stub_collector()
        policy = policy_of(collector)
        policy.nonlinearity = nonlinearity
        stack = stack_of(collector)
        for name, value in huge.items():
            stack[name][1] = value
        step = collector.env.step
        collector.env.step = lambda actions: (*step(actions)[:4], {"is_success": np.ones(6)})
        episodes = collect(collector, stack, policy=policy)
        assert episodes.cause.tolist() == [[0] * 3, [CODES[ACTION]] * 3]
        np.testing.assert_array_equal(episodes.success, [[1.0] * 3, [np.nan] * 3])

    @pytest.mark.parametrize("sizes", [(2, 3, 5), (2, 3, 4)])
    def test_uneven_shares_are_refused(self, sizes):
        with pytest.raises(UserError, match="equal rounds"):
            stub_collector(*sizes)

    def test_parameters_and_torch_threads_stay_as_they_are(self):
        collector = stub_collector()
        stack, threads = stack_of(collector), torch.get_num_threads()
        before = {name: value.clone() for name, value in stack.items()}
        policy = policy_of(collector)
        module = parameters(policy)
        torch.set_num_threads(2)
        try:
            episodes = collect(collector, stack, policy=policy)
            assert torch.get_num_threads() == 2
            with torch_threads(1):
                assert torch.get_num_threads() == 1
        finally:
            torch.set_num_threads(threads)
        assert all(torch.equal(stack[name], before[name]) for name in stack)
        assert all(torch.equal(value, module[name]) for name, value in parameters(policy).items())
        assert not episodes.log_probs.requires_grad


class Witness(Actor):
    """Acts with [t, first entry of the observation], and writes down what it is called with."""

    def __init__(self):
        self.rounds, self.seen, self.results = [], [], []

    def start(self, episodes):
        self.rounds.append(episodes)

    def act(self, observations, t):
        self.seen.append((t, observations.copy()))
        return np.stack([np.full(len(observations), t), observations[:, 0]], -1).astype(np.float32)

    def observe(self, rewards, ended):
        self.results.append((rewards.copy(), ended.copy()))


class TestAnActor:
    def test_it_is_started_for_each_round_and_sees_what_happened(self):
        collector = stub_collector(num_episodes=6, lengths=[1, 3, H, 2, 5, 4])
        actor = Witness()
        collector.collect(actor, STREAMS, 0)
        assert actor.rounds == [slice(0, 3), slice(3, 6)]
        assert [t for t, _ in actor.seen] == [*range(H), *range(H)]
        for i in range(2 * H):
            t, observations = actor.seen[i]
            live = [t < end for end in [1, 3, H, 2, 5, 4]]
            # Zero after the end of an episode.
            expected = [[env, t] if is_live else [0, 0] for env, is_live in enumerate(live)]
            assert observations[:, :2].tolist() == expected
            assert not observations[~np.array(live)].any()
            rewards, ended = actor.results[i]
            expected = [10 * env + t + 1 if is_live else 0 for env, is_live in enumerate(live)]
            assert rewards.tolist() == expected
            assert ended.tolist() == [end <= t + 1 for end in [1, 3, H, 2, 5, 4]]

    def test_one_without_a_distribution_has_none_in_the_episodes(self):
        episodes = stub_collector().collect(Witness(), STREAMS, 0)
        assert episodes.actions[1, 0, :, 0].tolist() == list(range(H))
        assert (episodes.actions[1, 0, :, 1] == 3).all()
        assert episodes.distribution == ()
        assert episodes.log_probs.shape == (2, 3, H)
        assert not episodes.log_probs.any()

    def test_nan_after_the_end_of_an_episode_reaches_neither_actor_nor_environment(self):
        actor = Witness()
        collector = stub_collector(lengths=[1, 3, H, 2, 5, 4], nan_after_end=True)
        collector.collect(actor, STREAMS, 0)
        assert all(np.isfinite(observations).all() for _, observations in actor.seen)
        assert np.isfinite(np.stack(collector.env.actions[0])).all()

    def test_observations_of_a_discarded_episode_are_zero(self):
        actor = Witness()
        stub_collector(nan=("observation", 5, 2, np.nan)).collect(actor, STREAMS, 0)
        assert [observations[5].any() for _, observations in actor.seen] == [1, 1, *[0] * (H - 2)]
        assert [ended[5] for _, ended in actor.results] == [0, 0, *[1] * (H - 2)]


class TestActionMap:
    def test_scales_about_the_middle_and_clips(self):
        space = spaces.Box(np.array([-1, 0], np.float32), np.array([1, 4], np.float32))
        mapped = ActionMap(space, 0.5)(np.array([[0, 0], [1, 1], [-1, -1], [9, -9]], np.float32))
        np.testing.assert_allclose(mapped, [[0, 2], [0.5, 3], [-0.5, 1], [1, 0]])

    def test_infinite_bounds_leave_the_output_as_it_is(self):
        actions = np.array([[5.0, -300.0]], np.float32)
        assert (ActionMap(spaces.Box(-np.inf, np.inf, (2,)), 0.1)(actions) == actions).all()
        half = spaces.Box(np.array([-np.inf, -1], np.float32), np.array([1, np.inf], np.float32))
        assert (ActionMap(half, 0.1)(actions) == [[1.0, -1.0]]).all()
        inside = np.array([[-7.0, 40.0]], np.float32)
        assert (ActionMap(half, 0.1)(inside) == inside).all()

    def test_discrete_actions_pass_unchanged(self):
        actions = np.array([0, 3, 1])
        assert (ActionMap(spaces.Discrete(4), 0.1)(actions) == actions).all()


def test_last_observations_and_terminal_states_of_each_episode() -> None:
    """An episode that terminates, one that is cut off, one at the horizon, and one that fails."""
    collector = stub_collector(
        2, 2, num_envs=4, lengths=[2, 9, 9, 9], time_limits=[H, 4, H + 9, H], unstable_at=(3, 1)
    )
    episodes = collect(collector)
    assert episodes.terminated.tolist() == [[1, 0], [0, 0]]
    # The stub observes its number and its steps so far.
    assert episodes.last_observations[0, 0, :2].tolist() == [0, 2]
    assert episodes.last_observations[0, 1, :2].tolist() == [1, 4]
    assert episodes.last_observations[1, 0, :2].tolist() == [2, H]
    assert episodes.mask.sum(-1).tolist() == [[2, 4], [H, 0]]
    # An excluded task keeps neither.
    without = episodes.without(torch.tensor([True, False]))
    assert without.terminated[0].tolist() == [0, 0]
    assert not without.last_observations[0].any()
