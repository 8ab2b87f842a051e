"""Collection on a device: on the CPU device it is, bit for bit, that of the batch environment."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium as gym
import maml_envs  # noqa: F401  registers the families
import numpy as np
import pytest
import torch
from gymnasium import spaces
from helpers.bandit import Bandit
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from maml_rl.errors import UserError
from maml_rl.learners.base import LearnerState
from maml_rl.learners.make import make_learner
from maml_rl.learners.trials import sample_tasks
from maml_rl.policies.action_map import ActionMap
from maml_rl.sampling.actors import Actor
from maml_rl.sampling.collector import Collector
from maml_rl.sampling.device_rollout import DeviceRollout
from maml_rl.sampling.environments import make_task_vector_env
from maml_rl.sampling.episodes import Episodes
from maml_rl.sampling.failures import ACTION, CODES, OBSERVATION, REWARD, SIMULATION
from maml_rl.sampling.task_vector_env import is_on_device
from maml_rl.settings.config import Config
from maml_rl.settings.parser import load_config
from maml_rl.system.random_streams import Phase, RandomStreams
from maml_rl.training.compose import Training, open_training

CPU = torch.device("cpu")
STREAMS = RandomStreams(0, Phase.TRAINING, 3)
# Multilayer perceptrons with tanh or ReLU act in NumPy on the CPU, and round differently.
POLICY = {"hidden_sizes": [8], "nonlinearity": "silu", "normalize_observations": True}
SIZES: dict[str, Any] = {
    "device": "cpu",
    "meta_batch_size": 6,
    "num_episodes": 2,
    "horizon": 12,
    "policy": POLICY,
    "logging": {"final_evaluation": False, "final_video": False},
}
TEACHER = {"num_minibatches": 2, "teacher_iterations": 1}
LEARNERS: dict[str, dict[str, Any]] = {
    "maml": {},
    "maml_latent": {"policy": {**POLICY, "latent_size": 2}},
    "joint": {"learner": "joint"},
    "oracle": {
        "learner": "joint",
        "env": {"name": "PointNavigation", "observe_task": True, "goal_tolerance": 0.3},
    },
    "rl2": {"learner": {"name": "rl2", "num_minibatches": 2}, "policy": {"hidden_sizes": [8]}},
    "pearl": {
        "learner": {"name": "pearl", "num_training_tasks": 8, "num_updates": 2},
        "policy": {"hidden_sizes": [8]},
    },
    "rma": {"learner": {**TEACHER, "name": "rma"}, "policy": {"hidden_sizes": [8]}},
    "sysid": {"learner": {**TEACHER, "name": "sysid"}, "policy": {"hidden_sizes": [8]}},
}
every_learner = pytest.mark.parametrize("settings", LEARNERS.values(), ids=list(LEARNERS))


def config_of(settings: dict[str, Any], **more: Any) -> Config:
    """Settings of a run in which some episodes end before the horizon."""
    env = {"name": "PointNavigation", "goal_tolerance": 0.3}
    return load_config(**{**SIZES, "env": env, **settings, **more})


@contextmanager
def on_both_engines(settings: dict[str, Any]) -> Iterator[list[Training]]:
    with (
        open_training(config_of(settings, engine="mujoco")) as on_cpu,
        open_training(config_of(settings, engine="warp")) as on_device,
    ):
        assert not is_on_device(on_cpu.collector.env)
        assert is_on_device(on_device.collector.env)
        yield [on_cpu, on_device]


def assert_equal_episodes(ours: Episodes, theirs: Episodes) -> None:
    for field in dataclasses.fields(Episodes):
        a, b = getattr(ours, field.name), getattr(theirs, field.name)
        for one, other in zip(tree_leaves(a), tree_leaves(b), strict=True):
            assert one.dtype == other.dtype, field.name
            assert torch.equal(one.nan_to_num(7.0), other.nan_to_num(7.0)), field.name


def played_stage(training: Training, stage: int = 0) -> Episodes:
    """Play a stage with the prior."""
    learner, state, collector = training.agent.learner, training.agent.state, training.collector
    collector.set_tasks(sample_tasks(collector, STREAMS))
    noise = collector.noise(learner.draw_noise, STREAMS, stage)
    actor = learner.actor(state, learner.prior(state, collector.num_tasks), noise)
    return collector.collect(actor, STREAMS, stage)


@every_learner
def test_episodes_are_those_of_the_batch_environment(settings: dict[str, Any]) -> None:
    with on_both_engines(settings) as trainings:
        theirs, ours = (played_stage(training) for training in trainings)
    assert_equal_episodes(ours, theirs)
    lengths = ours.mask.sum(-1)
    assert lengths.min() < lengths.max() == 12
    assert ours.terminated.any()


@pytest.mark.slow
@every_learner
def test_iterations_are_those_of_the_batch_environment(settings: dict[str, Any]) -> None:
    """So are gradients, and what is learned from them."""
    results = []
    with on_both_engines(settings) as trainings:
        for training in trainings:
            for _ in range(2):
                state, metrics, failures = training.iterate()
                training = training.continued(state)
            assert not failures
            results.append((state, {k: v for k, v in metrics.items() if not k.startswith("time/")}))
    (theirs, their_metrics), (ours, our_metrics) = results
    assert our_metrics == their_metrics
    assert_equal_states(ours, theirs)


def assert_equal_states(ours: LearnerState, theirs: LearnerState) -> None:
    assert ours.counters == theirs.counters
    for group, tensors in theirs.tensors.items():
        for name, value in tensors.items():
            assert torch.equal(ours.tensors[group][name], value), f"{group}/{name}"


def test_a_policy_that_acts_in_numpy_rounds_differently() -> None:
    settings = {"policy": {**POLICY, "nonlinearity": "tanh"}, "horizon": 6}
    with on_both_engines(settings) as trainings:
        theirs, ours = (played_stage(training) for training in trainings)
    torch.testing.assert_close(ours.actions, theirs.actions, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.rewards, theirs.rewards, rtol=1e-4, atol=1e-5)


def test_tasks_that_are_grouped_otherwise_play_the_same_episodes() -> None:
    whole, rounds = (
        Collector(
            env=gym.make_vec(
                "maml_rl/PointNavigation-v0",
                num_envs=num_envs,
                engine="warp",
                device="cpu",
                max_episode_steps=6,
            ),
            num_tasks=num_tasks,
            num_episodes=4,
            horizon=6,
            action_map=ActionMap(spaces.Box(-0.1, 0.1, (2,)), 1.0),
            device=CPU,
            first_task=first_task,
            num_tasks_of_all=3,
        )
        for num_envs, num_tasks, first_task in ((12, 3, 0), (4, 2, 1))
    )
    config = config_of({})
    with open_training(config) as training:
        learner, state = training.agent.learner, training.agent.state
    collected = []
    for collector in (whole, rounds):
        tasks = sample_tasks(collector, STREAMS, 3)
        collector.set_tasks(tasks[collector.first_task :])
        noise = collector.noise(learner.draw_noise, STREAMS, 0)
        actor = learner.actor(state, learner.prior(state, collector.num_tasks), noise)
        collected.append(collector.collect(actor, STREAMS, 0))
    torch.testing.assert_close(collected[0].actions[1:], collected[1].actions, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(collected[0].rewards[1:], collected[1].rewards, rtol=1e-4, atol=1e-5)


# --- Failures ---


class Stub:
    """Sub-environment i's reward at step t is 10 i + t; its episode is i + 3 steps long.

    Args:
        broken: (name, sub-environment, step, value): what fails; the names are ``observation``,
            ``reward``, ``unstable``.
        on_device: whether it takes and returns tensors.
    """

    num_envs = 6
    single_observation_space = spaces.Box(-np.inf, np.inf, (2,))
    single_action_space = spaces.Box(-1, 1, (2,))

    def __init__(self, broken: list[tuple[str, int, int, float]], on_device: bool) -> None:
        self.broken = broken
        self.on_device = on_device
        if on_device:
            self.device = CPU

    def of_kind(self, value: np.ndarray) -> Any:
        return torch.from_numpy(value.copy()) if self.on_device else value.copy()

    def observation(self) -> Any:
        values = np.stack([np.arange(6.0), np.full(6, float(self.t))], axis=1)
        self._break("observation", values)
        return self.of_kind(values)

    def _break(self, name: str, values: np.ndarray) -> None:
        for what, i, t, value in self.broken:
            if what == name and t == self.t:
                values[i] = value

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self.t = 0
        self.finished = np.zeros(6, bool)
        self.truncated = np.zeros(6, bool)
        return self.observation(), {}

    def step(self, actions: Any) -> tuple[Any, ...]:
        assert isinstance(actions, Tensor if self.on_device else np.ndarray)
        assert np.isfinite(np.asarray(actions)).all()
        self.t += 1
        live = ~self.finished
        reward = np.where(live, 10.0 * np.arange(6) + self.t, 0.0)
        self._break("reward", reward)
        unstable = np.zeros(6, bool)
        self._break("unstable", unstable)
        unstable &= live
        terminated = live & (np.arange(6) + 3 <= self.t)
        self.truncated |= unstable | (live & (self.t >= 7))
        self.finished |= terminated | self.truncated
        solved = np.arange(6) % 2 == self.t % 2
        info = {"unstable": self.of_kind(unstable), "is_success": self.of_kind(solved)}
        flags = (self.of_kind(self.finished & ~self.truncated), self.of_kind(self.truncated))
        return self.observation(), self.of_kind(reward), *flags, info


class StubActor(Actor):
    """Its outputs are observations; it writes down what it observes."""

    def __init__(self, broken: tuple[int, int] | None) -> None:
        self.broken = broken
        self.seen: list[tuple[list[float], list[bool]]] = []

    def act(self, observations: np.ndarray, t: int) -> np.ndarray:
        assert np.isfinite(observations).all()
        outputs = observations / 10
        if self.broken is not None and self.broken[1] == t:
            outputs[self.broken[0]] = np.nan
        return outputs

    def observe(self, rewards: np.ndarray, ended: np.ndarray) -> None:
        self.seen.append((rewards.astype(np.float32).tolist(), ended.tolist()))

    def act_on_tensors(self, observations: Tensor, t: int) -> Tensor:
        return torch.from_numpy(self.act(observations.numpy(), t))

    def observe_tensors(self, rewards: Tensor, ended: Tensor) -> None:
        self.observe(rewards.numpy(), ended.numpy())


CASES: dict[str, tuple[list[Any], Any, dict[int, str]]] = {
    "nothing": ([], None, {}),
    "simulation": ([("unstable", 1, 2, True)], None, {1: SIMULATION}),
    "simulation after the end": ([("unstable", 0, 4, True)], None, {}),
    "first observation": ([("observation", 3, 0, np.nan)], None, {3: OBSERVATION}),
    "observation": ([("observation", 3, 2, np.inf)], None, {3: OBSERVATION}),
    "last observation": ([("observation", 4, 7, np.nan)], None, {}),
    "observation at the end": ([("observation", 0, 3, np.nan)], None, {}),
    "observation after the end": ([("observation", 0, 5, np.nan)], None, {}),
    "reward": ([("reward", 2, 3, -np.inf)], None, {2: REWARD}),
    "action": ([], (5, 4), {5: ACTION}),
    "all causes": (
        [("unstable", 1, 2, True), ("observation", 1, 2, np.nan), ("reward", 1, 2, np.nan)],
        (1, 2),
        {1: SIMULATION},
    ),
    "first cause": ([("reward", 4, 2, np.nan), ("unstable", 4, 4, True)], None, {4: REWARD}),
    "several": (
        [("unstable", 0, 1, True), ("reward", 1, 2, np.nan), ("observation", 2, 3, np.inf)],
        (3, 3),
        {0: SIMULATION, 1: REWARD, 2: OBSERVATION, 3: ACTION},
    ),
}


@pytest.mark.parametrize(("broken", "action", "causes"), CASES.values(), ids=list(CASES))
def test_failures_are_those_of_the_batch_environment(
    broken: list[Any], action: Any, causes: dict[int, str]
) -> None:
    collected, actors = [], []
    for on_device in (False, True):
        env: Any = Stub(broken, on_device)
        collector = Collector(
            env=env,
            num_tasks=2,
            num_episodes=3,
            horizon=7,
            action_map=ActionMap(env.single_action_space, 1.0),
            device=CPU,
        )
        actor = StubActor(action)
        collected.append(collector.collect(actor, STREAMS, 0))
        actors.append(actor)
    theirs, ours = collected
    assert_equal_episodes(ours, theirs)
    expected = [CODES[causes[i]] if i in causes else 0 for i in range(6)]
    assert ours.cause.flatten().tolist() == expected
    assert ours.success[ours.cause == 0].isfinite().all()
    # On the CPU, a round stops when all episodes have ended.
    number = len(actors[0].seen)
    assert number > 1
    for (our_rewards, our_ends), (rewards, ends) in zip(
        actors[1].seen[:number], actors[0].seen, strict=True
    ):
        np.testing.assert_array_equal(our_rewards, rewards)
        assert our_ends == ends


def test_a_policy_on_another_device_is_refused() -> None:
    env: Any = Stub([], on_device=True)
    with pytest.raises(UserError, match="simulates on cpu, and the policy is on meta: use one dev"):
        Collector(
            env=env,
            num_tasks=2,
            num_episodes=3,
            horizon=7,
            action_map=ActionMap(env.single_action_space, 1.0),
            device=torch.device("meta"),
        )


def test_only_reported_success_counts() -> None:
    reports = {"is_success": np.array([1.0, 0.0, np.nan, 1.0, 0.0, np.nan])}
    reports["_is_success"] = np.array([True, True, True, False, True, True])
    collected = []
    for on_device in (False, True):
        env: Any = Stub([], on_device)
        step = env.step

        def with_reports(actions: Any, step: Any = step, env: Any = env) -> Any:
            *results, _ = step(actions)  # and no report of broken simulations
            info = {key: env.of_kind(value) for key, value in reports.items()}
            if env.t > 1:
                info["is_success"] = env.of_kind(np.full(6, np.nan))  # the first report stays
            return (*results, info)

        env.step = with_reports
        rollout = Collector(
            env=env,
            num_tasks=2,
            num_episodes=3,
            horizon=7,
            action_map=ActionMap(env.single_action_space, 1.0),
            device=CPU,
        )
        collected.append(rollout.collect(StubActor(None), STREAMS, 0).success.flatten().tolist())
    assert np.isnan(collected[1]).tolist() == [False, False, True, True, False, True]
    np.testing.assert_array_equal(*collected)


def test_an_actor_of_arrays_is_refused() -> None:
    class OnlyArrays(Actor):
        def act(self, observations: np.ndarray, t: int) -> np.ndarray:
            return observations

    env: Any = Stub([], on_device=True)
    rollout = DeviceRollout(env, 7, torch.float32, ActionMap(env.single_action_space, 1.0))
    with pytest.raises(UserError, match=r"OnlyArrays acts on NumPy arrays only, .* engine mujoco"):
        rollout.play(env.reset()[0], OnlyArrays(), lambda t: None)


# --- Waiting for the device ---


class OnlyOnMeta(TorchDispatchMode):
    """Refuses operations with tensors of another device; scalars may be on the CPU."""

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: Any = (), options: Any = None
    ) -> Any:
        result = function(*arguments, **(options or {}))
        for value in tree_leaves((arguments, options, result)):
            if isinstance(value, Tensor) and value.dim() > 0:
                assert value.device.type == "meta", f"{function} uses a tensor on {value.device}"
        return result


@every_learner
@pytest.mark.parametrize("deterministic", [False, True])
def test_no_control_step_waits_for_the_device(
    settings: dict[str, Any], deterministic: bool
) -> None:
    """Tensors of the device ``meta`` have no values.

    Whatever a GPU would have to wait for raises: ``item``, ``bool``, ``nonzero``, a mask as an
    index, a copy to the CPU. Copies to the device are refused by :class:`OnlyOnMeta`.
    """
    meta = torch.device("meta")
    config = config_of(settings)
    with open_training(config) as training:  # for the spaces
        env = training.collector.env
        observation_space, action_space = env.single_observation_space, env.single_action_space
    learner = make_learner(config, observation_space, action_space, meta)
    state = learner.initial_state()
    noise = None
    if not deterministic:
        drawn = learner.draw_noise(np.random.default_rng(0), (6, 2, 12))
        noise = torch.from_numpy(drawn).to(meta)
    actor = learner.actor(state, learner.prior(state, 6), noise)
    actor.start(slice(0, 2))
    simulated = make_task_vector_env(config.env, 12, 12, device=meta)
    simulated.np_random = np.random.default_rng(0)
    simulated.set_tasks(simulated.sample_tasks(12))
    observation, _ = simulated.reset(seed=0)
    rollout = DeviceRollout(simulated, 12, torch.float32, ActionMap(action_space, 1.0))
    with torch.no_grad(), OnlyOnMeta():
        recorded = rollout.play(observation, actor, lambda t: None)
    assert recorded.actions.shape == (12, 12, 2)
    with pytest.raises(NotImplementedError):
        recorded.actions.cpu()  # so would a copy to the CPU above


# --- Noise on a GPU ---


@every_learner
def test_noise_on_a_device_belongs_to_the_task(settings: dict[str, Any]) -> None:
    """It has the shape of that on the CPU, and does not depend on how tasks are grouped."""
    with open_training(config_of(settings)) as training:
        learner, collector = training.agent.learner, training.collector
        on_cpu = collector.noise(learner.draw_noise, STREAMS, 1)
        draw = learner.draw_noise_on_device
        ours = collector.noise_on_device(draw, STREAMS, 1)
        # What a process draws that has the last two tasks.
        part = dataclasses.replace(collector, first_task=4)
        object.__setattr__(part, "num_tasks", 2)
        of_part = part.noise_on_device(draw, STREAMS, 1)
        other_stage = collector.noise_on_device(draw, STREAMS, 2)
    assert (ours.shape, ours.dtype) == (on_cpu.shape, on_cpu.dtype)
    assert torch.equal(ours[4:], of_part)
    assert not torch.equal(ours, other_stage)
    assert not torch.equal(ours[0], ours[1])
    assert ours.mean().abs() < 5 / ours.numel() ** 0.5
    assert ours.std() == pytest.approx(1, abs=5 / ours.numel() ** 0.5)


@pytest.mark.parametrize("noise", [torch.zeros(3), np.zeros((2, 12, 2)), None], ids=str)
def test_noise_on_a_device_of_another_shape_is_refused(noise: Any) -> None:
    message = "draw_noise_on_device of a learner must return Tensor"
    with open_training(config_of({})) as training, pytest.raises(UserError, match=message):
        training.collector.noise_on_device(lambda rng, sizes: noise, STREAMS, 0)


def test_a_learner_without_noise_on_a_device_is_refused() -> None:
    with pytest.raises(UserError, match="Bandit must define draw_noise_on_device, or use --engine"):
        Bandit.draw_noise_on_device(Bandit.__new__(Bandit), torch.Generator(), (1,))
