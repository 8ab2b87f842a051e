"""Simulations on a device: the same episodes as in the batch environment, as tensors."""

from __future__ import annotations

import dataclasses
from typing import Any

import gymnasium as gym
import maml_envs
import numpy as np
import pytest
import torch
from gymnasium.utils import seeding
from helpers.device_engine import use_reference_engine
from helpers.families import PER_KIND
from maml_envs.families.point_navigation import PointNavigation
from maml_envs.gym.device_env import DeviceVectorEnv
from maml_envs.gym.device_imperfections import DeviceDelay, DeviceNoise
from maml_envs.gym.imperfections import ActionDelay

every_family = pytest.mark.parametrize("name", sorted(maml_envs.FAMILIES))
VARIED = {
    "body_mass": [0.5, 2.0],
    "gravity": [8.0, 11.0],
    "actuator_gear": {"low": 0.5, "high": 1.0, "each": True},
    "action_delay": [0, 1, 3],
}


@pytest.fixture
def _reference(monkeypatch: pytest.MonkeyPatch) -> None:
    use_reference_engine(monkeypatch)


def pair(name: str, num_envs: int, **options: Any) -> tuple[Any, Any]:
    """The environment on the CPU device, and the batch environment."""
    make = {"id": maml_envs.env_id(name), "num_envs": num_envs, **options}
    on_device = gym.make_vec(**make, engine="warp", device="cpu")
    assert isinstance(on_device.unwrapped, DeviceVectorEnv)
    return on_device.unwrapped, gym.make_vec(**make).unwrapped


def assert_equal_steps(envs: tuple[Any, Any], num_steps: int, seed: int = 0) -> list[np.ndarray]:
    """Step both with the same actions, and compare all that they return.

    Returns:
        The observations of the batch environment.
    """
    on_device, batch = envs
    space = batch.single_action_space
    rng = np.random.default_rng(seed)
    observations = []
    for _ in range(num_steps):
        # Some actions are out of bounds.
        action = 1.5 * rng.uniform(space.low, space.high, batch.action_space.shape)
        action = action.astype(np.float32)
        ours = on_device.step(torch.from_numpy(action))
        theirs = batch.step(action)
        for a, b in zip(ours[:4], theirs[:4], strict=True):
            assert isinstance(a, torch.Tensor)
            np.testing.assert_allclose(a.numpy(), b, rtol=1e-12, atol=1e-13)
        assert ours[4].keys() == theirs[4].keys()
        for key, value in ours[4].items():
            np.testing.assert_allclose(value.numpy(), theirs[4][key], rtol=1e-12, atol=1e-13)
        observations.append(theirs[0])
    return observations


@pytest.mark.usefixtures("_reference")
@pytest.mark.parametrize("name", PER_KIND)
def test_episodes_are_those_of_the_batch_environment(name: str) -> None:
    envs = pair(name, 4, max_episode_steps=12)
    first, second = (env.reset(seed=7)[0] for env in envs)
    np.testing.assert_array_equal(first.numpy(), second)
    assert envs[0].tasks == envs[1].tasks
    observations = assert_equal_steps(envs, 15)  # beyond the horizon
    assert np.array_equal(observations[-1], observations[11])
    # The next episodes continue the generators.
    first, second = (env.reset()[0] for env in envs)
    np.testing.assert_array_equal(first.numpy(), second)
    assert_equal_steps(envs, 3)


@pytest.mark.usefixtures("_reference")
def test_delay_and_noise_that_new_tasks_lack_end_at_once() -> None:
    env, plain = pair("HalfCheetahVel", 2)
    env.set_tasks([{"goal_velocity": 1.0, "action_delay": 3, "observation_noise": 0.1}] * 2)
    env.reset(seed=0)
    for each in (env, plain):
        each.set_tasks([{"goal_velocity": 1.0}] * 2)
    first, second = (each.reset(seed=1)[0] for each in (env, plain))
    np.testing.assert_array_equal(first.numpy(), second)
    assert_equal_steps((env, plain), 6)


@pytest.mark.usefixtures("_reference")
def test_dynamics_and_delay_are_those_of_the_batch_environment() -> None:
    envs = pair("HalfCheetahVel", 8, dynamics=VARIED)
    for env in envs:
        env.np_random, _ = seeding.np_random(3)
        env.set_tasks(env.sample_tasks(8))
    assert envs[0].tasks == envs[1].tasks
    assert len({task["action_delay"] for task in envs[0].tasks}) == 3
    for seed in (1, 2):  # the second episode starts with no pending actions
        for env in envs:
            env.reset(seed=seed)
        assert_equal_steps(envs, 6, seed)


def test_an_episode_that_has_ended_stays_as_it_is() -> None:
    envs = pair("PointNavigation", 3, goal_tolerance=0.05)
    on_device, _ = envs
    tasks = [{"goal_x": 0.12, "goal_y": 0.0}, {"goal_x": -0.4, "goal_y": 0.4}]
    for env in envs:
        env.reset(seed=0, options={"tasks": [*tasks, tasks[0]]})
    # Numbers 0 and 2 arrive at once, number 1 does not.
    step = torch.tensor([[0.1, 0.0]]).expand(3, 2)
    for _ in range(3):
        observation, reward, terminated, _truncated, info = on_device.step(step)
        envs[1].step(step.numpy())
    assert terminated.tolist() == [True, False, True]
    assert info["is_success"].tolist() == [True, False, True]
    assert info["_is_success"].tolist() == [False, True, False]
    assert observation[0].tolist() == [pytest.approx(0.1), 0.0]
    assert reward[0] == 0
    assert_equal_steps(envs, 4)
    # The reset of another one does not change its success.
    for env in envs:
        env.reset(options={"reset_mask": np.array([False, True, True])})
    assert_equal_steps(envs, 1)
    info = on_device.step(torch.zeros(3, 2))[4]
    assert info["is_success"].tolist() == [True, False, False]


def test_only_some_are_reset() -> None:
    envs = pair("PointNavigation", 3, max_episode_steps=5)
    for env in envs:
        env.reset(seed=0)
    assert_equal_steps(envs, 3)
    mask = np.array([False, True, False])
    first, second = (env.reset(options={"reset_mask": mask})[0] for env in envs)
    np.testing.assert_allclose(first.numpy(), second, atol=1e-15)
    observations = assert_equal_steps(envs, 4)
    truncated = envs[0].step(torch.zeros(3, 2))[3]
    assert truncated.tolist() == [True, True, True]
    assert not np.array_equal(observations[2][1], observations[3][1])


def test_seeds_of_a_list_and_tasks_of_the_options() -> None:
    envs = pair("PointNavigation", 2)
    task = {"goal_x": 0.1, "goal_y": -0.2}
    for env in envs:
        env.reset(seed=[5, 9], options={"task": task})
        assert env.tasks == [task, task]
    assert_equal_steps(envs, 3)


def test_results_are_not_overwritten_by_later_steps() -> None:
    env, _ = pair("PointNavigation", 2, max_episode_steps=2)
    first, _ = env.reset(seed=0)
    kept = [*env.step(torch.full((2, 2), 0.1))]
    kept += env.step(torch.full((2, 2), 0.1))[:4]  # truncates
    values = [first, *(value for value in kept if isinstance(value, torch.Tensor))]
    before = [value.clone() for value in values]
    env.reset()
    env.step(torch.full((2, 2), 0.1))
    for old, now in zip(before, values, strict=True):
        assert torch.equal(old, now)


@pytest.mark.usefixtures("_reference")
def test_a_simulation_that_fails_is_marked_and_truncated() -> None:
    env, _ = pair("HalfCheetahVel", 3)
    env.reset(seed=0)
    env.engine.failure[1] = 3  # the highest code
    _, _, terminated, truncated, info = env.step(torch.zeros(3, 6))
    assert info["unstable"].tolist() == truncated.tolist() == [False, True, False]
    assert not terminated.any()
    # It is marked in one step only; a reset starts it again.
    assert not env.step(torch.zeros(3, 6))[4]["unstable"].any()
    env.reset(seed=1)
    assert not env.step(torch.zeros(3, 6))[3].any()


def test_a_point_at_a_position_that_is_not_finite_has_failed() -> None:
    env, _ = pair("PointNavigation", 2)
    env.reset(seed=0)
    env.engine.state["position"][1] = torch.inf
    assert env.step(torch.zeros(2, 2))[4]["unstable"].tolist() == [False, True]
    assert env.engine.failure.tolist() == [0, 1]
    env.reset(seed=0)
    assert env.engine.failure.tolist() == [0, 0]


@every_family
def test_success_and_captions_agree_between_numpy_and_torch(name: str) -> None:
    """Rewards, observations and ends are compared in test_contract.py."""
    family: Any = maml_envs.FAMILIES[name]()
    rng = np.random.default_rng(1)
    engine = family.robot.batch_engine(50, 1, family.derived_fields)
    before, after = (
        {key: rng.standard_normal(value.shape) for key, value in engine.state.items()}
        for _ in range(2)
    )
    tasks = dict(family.sample_tasks(rng, 50))
    engine.close()
    in_torch = [
        {key: torch.from_numpy(value) for key, value in values.items()}
        for values in (before, after, tasks)
    ]
    if hasattr(family, "success"):
        success = family.success(torch, *in_torch[1:])
        assert success.dtype == torch.bool
        np.testing.assert_array_equal(success.numpy(), family.success(np, after, tasks))
    if hasattr(family, "shown_value"):
        np.testing.assert_allclose(
            family.shown_value(torch, *in_torch).numpy(),
            family.shown_value(np, before, after, tasks),
            rtol=1e-12,
        )


def test_delays_are_those_of_the_batch_environment() -> None:
    delays = np.array([0, 1, 3, 2])
    ours, theirs = DeviceDelay(delays, torch.zeros(2)), ActionDelay(delays, 2, 3)
    rng = np.random.default_rng(0)
    masks = {0: np.ones(4, bool), 7: np.array([True, False, True, False])}
    for t in range(12):
        if t in masks:
            ours.reset(torch.from_numpy(masks[t]))
            theirs.reset(np.flatnonzero(masks[t]))
        action = rng.standard_normal((4, 2)).astype(np.float32)
        np.testing.assert_array_equal(
            ours.delayed(torch.from_numpy(action)).numpy(), theirs.delayed(action)
        )


def test_sensor_noise_is_scaled_and_comes_from_the_seed() -> None:
    noise = DeviceNoise(torch.tensor([0.0, 0.1, 2.0]), 400)
    drawn = []
    for seed in (1, 1, 2):
        noise.seed(seed)
        drawn.append(noise.added_to(torch.ones(3, 400)) - 1)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert not drawn[0][0].any()
    assert drawn[0][1].std() == pytest.approx(0.1, rel=0.15)
    assert drawn[0][2].std() == pytest.approx(2.0, rel=0.15)
    assert not torch.equal(noise.added_to(torch.ones(3, 400)) - 1, drawn[2])


@pytest.mark.usefixtures("_reference")
def test_observations_have_noise_that_the_reset_seeds() -> None:
    env, batch = pair("HalfCheetahVel", 2, dynamics={"observation_noise": 0.5})
    for each in (env, batch):
        each.set_tasks([{"goal_velocity": 1.0, "observation_noise": 0.5}] * 2)
    first = env.reset(seed=3)[0]
    assert (first - torch.from_numpy(batch.reset(seed=3)[0])).abs().max() > 0.1
    after = env.step(torch.zeros(2, 6))[0]
    assert torch.equal(env.reset(seed=3)[0], first)
    assert torch.equal(env.step(torch.zeros(2, 6))[0], after)
    assert not torch.equal(env.reset(seed=[4, 5])[0], first)


@pytest.mark.usefixtures("_reference")
def test_noise_of_new_tasks_begins_with_the_next_reset() -> None:
    env, _ = pair("HalfCheetahVel", 2, dynamics={"observation_noise": 0.5})
    env.reset(seed=3)
    env.set_tasks([{"goal_velocity": 1.0, "observation_noise": 0.5}] * 2)
    observation = env.step(torch.zeros(2, 6))[0]
    assert torch.equal(observation, env.family.observation(torch, env.engine.state))
    assert (env.reset()[0] - env.family.observation(torch, env.engine.state)).abs().max() > 0.1


@pytest.mark.usefixtures("_reference")
def test_noise_of_new_tasks_comes_from_the_seed_of_an_earlier_reset() -> None:
    env, batch = pair("HalfCheetahVel", 2, dynamics={"observation_noise": 0.5})
    tasks = [{"goal_velocity": 1.0, "observation_noise": 0.5}] * 2
    drawn = []
    for seed in (3, 3, 4):
        observations = []
        for each in (env, batch):
            each.reset(seed=seed, options={"tasks": tasks})
        for _ in range(2):
            for each in (env, batch):
                each.set_tasks(tasks)
            observations += [env.reset()[0], env.step(torch.zeros(2, 6))[0], env.reset()[0]]
            batch.reset()
            batch.reset()
            # The noise has its own random numbers: initial states are as without it.
            np.testing.assert_allclose(env.engine.state["qpos"], batch.engine.state["qpos"])
        drawn.append(torch.stack(observations))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    # New tasks do not repeat the noise of those before.
    first, second = drawn[0][0], drawn[0][3]
    assert (first - second).abs().max() > 0.5


def test_nothing_of_a_step_leaves_the_device() -> None:
    """Tensors of the device ``meta`` have no values, so that any look at them raises."""
    env = gym.make_vec(
        "maml_rl/PointNavigation-v0", num_envs=3, engine="warp", device="meta"
    ).unwrapped
    env.reset(seed=0)
    for _ in range(2):
        observation, *others, info = env.step(torch.zeros(3, 2, device="meta"))
    for value in (observation, *others, *info.values()):
        assert value.device.type == "meta"


@dataclasses.dataclass(frozen=True)
class OnlyOnTheCPU:
    """A robot without engines for devices."""

    robot: Any

    def __getattr__(self, name: str) -> Any:
        if name == "device_engine":
            raise AttributeError(name)
        return getattr(self.robot, name)


def test_what_cannot_be_simulated_is_refused() -> None:
    point = maml_envs.FAMILIES["PointNavigation"]()
    robot = OnlyOnTheCPU(point.robot)
    object.__setattr__(point, "robot", robot)
    with pytest.raises(ValueError, match="a OnlyOnTheCPU, cannot be simulated on a device"):
        DeviceVectorEnv(point, 2, device="cpu")
    with pytest.raises(ValueError, match="num_envs must be at least 1, got 0"):
        pair("PointNavigation", 0)
    with pytest.raises(ValueError, match="engine must be one of mujoco, warp, got 'bullet'"):
        gym.make_vec("maml_rl/PointNavigation-v0", num_envs=1, engine="bullet")


@dataclasses.dataclass(frozen=True, kw_only=True)
class InNumPy(PointNavigation):
    """A family whose reward does not use the array namespace."""

    def reward_terms(self, xp: Any, before: Any, after: Any, action: Any, task: Any) -> Any:
        return {"reward": np.hypot(after["position"][:, 0], task["goal_x"])}


def test_a_family_that_computes_in_numpy_only_is_refused() -> None:
    """As on a GPU, NumPy cannot read tensors of the device ``meta``."""
    message = "InNumPy cannot compute with tensors on meta, its functions must use the array name"
    with pytest.raises(ValueError, match=message):
        DeviceVectorEnv(InNumPy(), 2, device="meta")


@pytest.mark.usefixtures("_reference")
def test_dynamics_that_change_within_a_task_are_refused() -> None:
    change = {"changed/body_mass": 2.0, "change_step": 3}
    message = "change within a task .*which only the engine mujoco supports"
    with pytest.raises(ValueError, match=message):
        pair("HalfCheetahVel", 1, dynamics=change)
    env, _ = pair("HalfCheetahVel", 1)
    with pytest.raises(ValueError, match=message):
        env.set_tasks([{"goal_velocity": 1.0, **change}])


def test_wrong_calls_are_refused() -> None:
    env, _ = pair("PointNavigation", 2)
    with pytest.raises(gym.error.ResetNeeded):
        env.step(torch.zeros(2, 2))
    with pytest.raises(ValueError, match="expected 2 tasks, one per sub-environment, got 1"):
        env.set_tasks([{"goal_x": 0.0, "goal_y": 0.0}])
    with pytest.raises(ValueError, match="reset_mask must be a bool array of shape"):
        env.reset(seed=0, options={"reset_mask": np.zeros(2, bool)})
    with pytest.raises(ValueError, match="expected 2 seeds, one per sub-environment, got 3"):
        env.reset(seed=[1, 2, 3])
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"expected actions of shape \(2, 2\), got \(3, 2\)"):
        env.step(torch.zeros(3, 2))
