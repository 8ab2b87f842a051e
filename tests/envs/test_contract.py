"""The contract of a task family and its Gymnasium environments."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import maml_envs
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env, check_reset_seed_determinism
from helpers.families import PER_ENGINE, PER_KIND, PER_ROBOT
from maml_envs.families.tasks import Direction

EVERYTHING_VARIES = {
    "body_mass": [0.5, 2.0],
    "body_inertia": {"low": 0.8, "high": 1.25, "log": True, "each": True},
    "geom_friction": [0.5, 1.5],
    "dof_damping": [0.5, 2.0],
    "actuator_gear": {"low": 0.5, "high": 1.0, "each": True},
    "actuator_strength": [0.5, 1.5],
    "gravity": [8.0, 11.0],
    "slope": [-0.1, 0.1],
    "disabled_actuator": [-1, 0, 1],
    "disabled_joint": [-1, 2],
    "disabled_limb": [-1, 1],
    "action_delay": [0, 1, 3],
    "observation_noise": [0.0, 0.01],
}
ANT_OF_FINN = {
    "observe_contact_forces": True,
    "observe_root_position": True,
    "observe_orientation": True,
    "observe_position": "centre_of_mass",
    "frame_skip": 2,
}
# Every family with its defaults, and some with other settings.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    name: (name, {}) for name in sorted(maml_envs.FAMILIES)
} | {
    "AntVel, contact forces": (
        "AntVel",
        {"observe_contact_forces": True, "contact_cost_weight": 5e-4},
    ),
    "AntGoal, ProMP": (
        "AntGoal",
        {"goal_area": "square", "goal_reward": 0.0, "terminate_when_unhealthy": False},
    ),
    "HumanoidDir, all quantities": (
        "HumanoidDir",
        {
            "observe_body_quantities": True,
            "observe_contact_forces": True,
            "contact_cost_weight": 5e-7,
        },
    ),
    "HalfCheetahVel, torso": ("HalfCheetahVel", {"observe_position": "torso", "frame_skip": 2}),
    "AntVel, Finn et al.": ("AntVel", ANT_OF_FINN),
    "Walker2dVel, ProMP": (
        "Walker2dVel",
        {"frame_skip": 8, "min_torso_height": -1.0, "torso_angle_limit": 9.0},
    ),
    "CrippledAnt, held out": ("CrippledAnt", {"split": "held_out"}),
    "CrippledHalfCheetah, held out": ("CrippledHalfCheetah", {"split": "held_out"}),
    "HalfCheetahVel, dynamics": ("HalfCheetahVel", {"dynamics": EVERYTHING_VARIES}),
    "AntDir, dynamics": ("AntDir", {"dynamics": EVERYTHING_VARIES, "observe_contact_forces": True}),
    "Walker2dDir, dynamics": ("Walker2dDir", {"dynamics": EVERYTHING_VARIES}),
    "HopperVel, dynamics": (
        "HopperVel",
        {"dynamics": {**EVERYTHING_VARIES, "disabled_limb": None}},
    ),
}
STARTS_AT_ONE_STATE = {"PointNavigation", "PointNavigationSparse"}
ONE_TASK = {"CrippledAnt, held out", "CrippledHalfCheetah, held out"}
# Cases whose tasks do not depend on the generator.
SAME_TASKS = ONE_TASK | {
    name for name, family in maml_envs.FAMILIES.items() if issubclass(family, Direction)
}
# Some contact forces and inertias, and a planar robot's y, are constant in short rollouts.
HAS_CONSTANT_ENTRIES = {"AntVel, contact forces", "HumanoidDir, all quantities", "AntDir, dynamics"}
HAS_CONSTANT_ENTRIES |= {"AntVel, Finn et al.", "HalfCheetahVel, torso"}

# Tests of what each family defines run over all families; tests of shared code over a few.
every_case = pytest.mark.parametrize("name", CASES)
every_family = pytest.mark.parametrize("name", sorted(maml_envs.FAMILIES))
per_robot = pytest.mark.parametrize("name", PER_ROBOT)
per_kind = pytest.mark.parametrize("name", PER_KIND)
per_engine = pytest.mark.parametrize("name", PER_ENGINE)
# Gymnasium's checker advises bounded observations; its robots, such as HalfCheetah-v5, have none.
unbounded_observations = pytest.mark.filterwarnings(
    "ignore:.*A Box observation space (min|max)imum value is"
)


def _family(name: str) -> Any:
    family, settings = CASES[name]
    return maml_envs.FAMILIES[family](**settings)


def _batch(name: str, num_envs: int, **options: Any) -> maml_envs.FamilyVectorEnv:
    family, settings = CASES[name]
    return gym.make_vec(maml_envs.env_id(family), num_envs=num_envs, **settings, **options)


def _single(name: str, **options: Any) -> gym.Env:
    family, settings = CASES[name]
    return gym.make(maml_envs.env_id(family), **settings, **options)


def _has_varying_dynamics(name: str) -> bool:
    family = _family(name)
    return bool(family.dynamics or family.task_units.keys() & family.robot.parameters.keys())


def _actions(name: str, num_steps: int, num_envs: int, seed: int = 0) -> np.ndarray:
    """Random actions within the bounds, (num_steps, num_envs, action_size)."""
    space = _family(name).robot.action_space
    rng = np.random.default_rng(seed)
    return rng.uniform(space.low, space.high, (num_steps, num_envs, *space.shape)).astype(
        np.float32
    )


def _far_task(name: str) -> dict[str, float]:
    """A task that no short random rollout solves, with undamaged dynamics."""
    family = _family(name)
    return {
        key: 0 if key in family.robot.parameters else high
        for key, (_, high) in family.task_limits.items()
    }


def test_families_are_registered() -> None:
    assert len(maml_envs.FAMILIES) == 18, "change the number here, in README and in CHANGELOG"
    for name, family in maml_envs.FAMILIES.items():
        spec = gym.spec(maml_envs.env_id(name))
        assert spec.id == f"maml_rl/{name}-v0"
        assert spec.max_episode_steps == family.max_episode_steps


@pytest.mark.slow
@unbounded_observations
@per_kind
def test_gymnasiums_checker_accepts_every_family(name: str, egl: None) -> None:
    env = _single(name).unwrapped
    modes = env.metadata["render_modes"]
    if not os.environ.get("DISPLAY"):
        modes = [mode for mode in modes if mode != "human"]  # a window needs a screen
    assert "rgb_array" in modes
    env.metadata = {**env.metadata, "render_modes": modes}
    check_env(env)
    env.close()


@unbounded_observations
@every_family
def test_gymnasiums_checker_without_rendering(name: str) -> None:
    env = _single(name).unwrapped
    check_env(env, skip_render_check=True)
    env.close()


@every_family
def test_a_reset_with_a_seed_is_the_same_before_and_after_the_task_is_drawn(name: str) -> None:
    env = _single(name).unwrapped
    check_reset_seed_determinism(env)
    env.close()


@pytest.mark.slow
@per_robot
def test_frame(name: str, egl: None) -> None:
    env = _single(name, render_mode="rgb_array", width=96, height=64)
    env.reset(seed=0)
    first = env.render()
    for action in _actions(name, 5, 1)[:, 0]:
        env.step(action)
    later = env.render()
    for frame in (first, later):
        assert frame.shape == (64, 96, 3)
        assert frame.dtype == np.uint8
        assert frame.std() > 1
    assert not np.array_equal(first, later)
    env.close()
    env.reset(seed=0)  # closing frees the renderer alone


@per_engine
def test_rendering_needs_a_render_mode(name: str) -> None:
    env = _single(name).unwrapped
    env.reset(seed=0)
    with pytest.warns(UserWarning, match="render_mode"):
        assert env.render() is None
    env.close()


@per_engine
def test_unknown_render_mode_is_rejected(name: str) -> None:
    with pytest.raises(ValueError, match=r"rgb_array.*'asciii'"):
        maml_envs.FamilyEnv(_family(name), render_mode="asciii")


@per_kind
def test_spaces(name: str) -> None:
    single, batch = _single(name), _batch(name, 3)
    assert isinstance(single.observation_space, spaces.Box)
    assert isinstance(single.action_space, spaces.Box)
    assert np.isfinite([single.action_space.low, single.action_space.high]).all()
    assert batch.single_observation_space == single.observation_space
    assert batch.single_action_space == single.action_space
    assert batch.observation_space.shape == (3, *single.observation_space.shape)
    assert batch.action_space.shape == (3, *single.action_space.shape)
    assert batch.metadata["autoreset_mode"] is gym.vector.AutoresetMode.DISABLED
    observation, _ = batch.reset(seed=0)
    assert observation in batch.observation_space
    observation, reward, terminated, truncated, info = batch.step(_actions(name, 1, 3)[0])
    assert observation in batch.observation_space
    assert reward.shape == terminated.shape == truncated.shape == (3,)
    assert terminated.dtype == truncated.dtype == info["unstable"].dtype == bool
    assert all(value.shape == (3,) for value in info.values())
    single.close()
    batch.close()


@per_kind
def test_wrong_action_shape_is_rejected(name: str) -> None:
    single, batch = _single(name).unwrapped, _batch(name, 2)
    single.reset(seed=0)
    batch.reset(seed=0)
    with pytest.raises(ValueError, match=r"\(9,\)"):
        single.step(np.zeros(9))
    with pytest.raises(ValueError, match=r"\(2, 9\)"):
        batch.step(np.zeros((2, 9)))
    single.close()
    batch.close()


def _rollout(name: str, seed: int) -> list[np.ndarray]:
    env = _batch(name, 3, max_episode_steps=10)
    results = [env.reset(seed=seed)[0]]
    for action in _actions(name, 10, 3):
        observation, reward, *_ = env.step(action)
        results += [observation, reward]
    results += [env.reset()[0], np.array([list(task.values()) for task in env.tasks])]
    env.close()
    return results


@pytest.mark.slow
@every_case
def test_same_seed_same_episode(name: str) -> None:
    first, second = _rollout(name, 5), _rollout(name, 5)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
    other = _rollout(name, 6)
    same = all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))
    assert not same


@every_case
def test_initial_state_is_random(name: str) -> None:
    env = _batch(name, 3)
    first, _ = env.reset(seed=0)
    second, _ = env.reset()
    if name in STARTS_AT_ONE_STATE:
        np.testing.assert_array_equal(first, np.zeros_like(first))
        np.testing.assert_array_equal(second, first)
    else:
        states = np.concatenate([first, second])
        plain = (
            _family(name).robot.model.nq + _family(name).robot.model.nv - 2
            if name in HAS_CONSTANT_ENTRIES
            else None
        )
        assert all(len(np.unique(column)) == len(states) for column in states.T[:plain])
    env.close()


@every_case
def test_no_observation_entry_is_constant(name: str) -> None:
    env = _batch(name, 1)
    env.reset(seed=0, options={"task": _far_task(name)})
    observations = np.concatenate([env.step(action)[0] for action in _actions(name, 50, 1)])
    sizes = np.ptp(observations, axis=0)
    plain = (
        _family(name).robot.model.nq + _family(name).robot.model.nv - 2
        if name in HAS_CONSTANT_ENTRIES
        else None
    )
    assert sizes[:plain].min() > 1e-3
    assert plain is None or (sizes[plain:] > 1e-3).any()
    env.close()


@every_case
def test_observations_do_not_depend_on_the_task(name: str) -> None:
    env = _batch(name, 2)
    env.np_random = np.random.default_rng(0)
    first, *others = env.sample_tasks(9)
    tasks = [first, next((task for task in others if task != first), first)]
    assert (tasks[0] != tasks[1]) == (name not in ONE_TASK)
    tasks = [
        {**task, "observation_noise": 0.0} if "observation_noise" in task else task
        for task in tasks
    ]
    observation, _ = env.reset(seed=[4, 4], options={"tasks": tasks})
    np.testing.assert_array_equal(observation[0], observation[1])
    if _has_varying_dynamics(name):  # observations and rewards then differ
        env.close()
        return
    for action in _actions(name, 10, 1):
        observation, reward, terminated, truncated, _ = env.step(np.repeat(action, 2, axis=0))
        assert not (terminated | truncated).any()
        np.testing.assert_array_equal(observation[0], observation[1])
        assert reward[0] != reward[1] or name == "PointNavigationSparse"
    env.close()


@every_case
def test_reward_is_the_sum_of_its_terms(name: str) -> None:
    single, batch = _single(name), _batch(name, 3)
    single.reset(seed=0)
    batch.reset(seed=0)
    is_live = np.ones(3, bool)
    for actions in _actions(name, 10, 3):
        _, reward, _, _, info = single.step(actions[0])
        terms = [value for key, value in info.items() if key.startswith("reward_")]
        assert terms
        assert sum(terms) == pytest.approx(reward, rel=0, abs=1e-12)
        _, reward, terminated, truncated, info = batch.step(actions)
        terms = [value for key, value in info.items() if key.startswith("reward_")]
        np.testing.assert_allclose(sum(terms), reward, rtol=0, atol=1e-12)
        for key in info:
            if not key.startswith("_"):
                np.testing.assert_array_equal(info[f"_{key}"], is_live)
        is_live &= ~(terminated | truncated)
    single.close()
    batch.close()


@per_kind
def test_resets_keep_the_tasks(name: str) -> None:
    single, batch = _single(name).unwrapped, _batch(name, 3)
    assert single.task is None
    assert batch.tasks is None
    batch.np_random = np.random.default_rng(7)
    tasks = batch.sample_tasks(3)
    assert set(_family(name).task_units) <= set(tasks[0]) <= set(batch.task_units)
    assert len(tasks[0]) > 0
    batch.set_tasks(tasks)
    batch.reset(seed=0)
    single.set_task(tasks[1])
    single.reset(seed=0)
    for _ in range(2):
        batch.step(_actions(name, 1, 3)[0])
        single.step(_actions(name, 1, 1)[0, 0])
        batch.reset(seed=8)
        single.reset(seed=8)
        assert batch.tasks == tasks
        assert single.task == tasks[1]
    batch.tasks[0].clear()
    assert batch.tasks == tasks
    batch.reset(options={"reset_mask": np.array([True, False, True]), "tasks": tasks[::-1]})
    assert batch.tasks == tasks[::-1]
    batch.reset(options={"task": tasks[0]})
    assert batch.tasks == [tasks[0]] * 3
    single.reset(options={"task": tasks[0]})
    assert single.task == tasks[0]
    single.close()
    batch.close()


@per_kind
def test_sampled_task_is_kept(name: str) -> None:
    env = _single(name).unwrapped
    env.reset(seed=1)
    task = env.task
    assert task is not None
    env.reset(seed=2)
    assert env.task == task
    env.close()


@every_family
def test_tasks_come_from_the_environments_generator(name: str) -> None:
    env = _batch(name, 1)
    draws = []
    for seed in (0, 0):
        env.np_random = np.random.default_rng(seed)
        draws.append(env.sample_tasks(4))
    assert draws[0] == draws[1]
    assert len(draws[0]) == 4
    if name not in SAME_TASKS:
        assert env.sample_tasks(4) != draws[0]
    env.close()


INVALID: list[Any] = [np.nan, np.inf, 1e9, "fast", None, True, [0.5, 0.5]]


@per_kind
def test_errors_name_invalid_task_values(name: str) -> None:
    single, batch = _single(name).unwrapped, _batch(name, 2)
    single.reset(seed=0)
    batch.reset(seed=0)
    single_task, batch_tasks = single.task, batch.tasks
    # first and last parameter of the task
    keys = list(single_task)
    for key, value in itertools.product({keys[0], keys[-1]}, INVALID):
        bad = {**single_task, key: value}
        for attempt in (
            lambda bad=bad: single.set_task(bad),
            lambda bad=bad: single.reset(options={"task": bad}),
            lambda bad=bad: batch.set_tasks([batch_tasks[0], bad]),
            lambda bad=bad: batch.reset(options={"task": bad}),
        ):
            with pytest.raises(ValueError, match=key) as error:
                attempt()
            assert repr(value) in str(error.value)
    assert single.task == single_task
    assert batch.tasks == batch_tasks
    single.close()
    batch.close()


@per_kind
def test_task_with_wrong_keys_is_rejected(name: str) -> None:
    single, batch = _single(name).unwrapped, _batch(name, 1)
    good = batch.sample_tasks(1)[0]
    required = list(_family(name).task_units)
    lacking = (
        [{key: value for key, value in good.items() if key != required[0]}, {}] if required else []
    )
    first = required[0] if required else "body_mass"
    for bad in ({**good, "goal_colour": 1.0}, *lacking, [1.0], 3.0, None):
        for attempt in (
            lambda bad=bad: single.set_task(bad),
            lambda bad=bad: batch.set_tasks([bad]),
        ):
            with pytest.raises(ValueError, match=first) as error:  # the names that are expected
                attempt()
            assert repr(bad) in str(error.value)
    single.close()
    batch.close()


@per_engine
def test_one_task_per_simulation(name: str) -> None:
    env = _batch(name, 3)
    for num_tasks in (0, 2, 4):
        tasks = env.sample_tasks(num_tasks)
        with pytest.raises(ValueError, match=f"3 tasks.*{num_tasks}"):
            env.set_tasks(tasks)
        with pytest.raises(ValueError, match=f"3 tasks.*{num_tasks}"):
            env.reset(options={"tasks": tasks})
    env.close()


@pytest.mark.slow
@per_engine
def test_default_horizon_truncates(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    never = lambda family, xp, state, task: np.zeros(len(next(iter(state.values()))), bool)  # noqa: E731
    monkeypatch.setattr(type(_family(name)), "terminated", never)  # only time limits remain
    horizon = _family(name).max_episode_steps
    single, batch = _single(name), _batch(name, 2)
    single.reset(seed=0, options={"task": _far_task(name)})
    batch.reset(seed=0, options={"task": _far_task(name)})
    for t, actions in enumerate(_actions(name, horizon, 2)):
        for _, _, terminated, truncated, _ in (single.step(actions[0]), batch.step(actions)):
            assert not np.any(terminated)
            assert np.all(np.equal(truncated, t == horizon - 1))
    single.close()
    batch.close()


@per_kind
def test_finished_simulations_are_not_stepped_until_reset(name: str) -> None:
    env = _batch(name, 3, max_episode_steps=4)
    env.reset(seed=0, options={"task": _far_task(name)})
    engine = env.unwrapped.engine
    actions = _actions(name, 20, 3)
    for action in actions[:2]:
        env.step(action)
    # simulation 1 then ends two steps after the others
    env.reset(options={"reset_mask": np.array([False, True, False])})
    for action in actions[2:4]:
        observation, _, terminated, truncated, _ = env.step(action)
    assert truncated.tolist() == [True, False, True]
    assert not terminated.any()
    final_state = {field: value.copy() for field, value in engine.state.items()}
    previous = observation
    for t, action in enumerate(actions[4:8]):
        observation, reward, terminated, truncated, info = env.step(action)
        for field, value in engine.state.items():
            np.testing.assert_array_equal(value[[0, 2]], final_state[field][[0, 2]])
        np.testing.assert_array_equal(observation[[0, 2]], previous[[0, 2]])
        assert reward[[0, 2]].tolist() == [0, 0]
        assert all(
            info[key][[0, 2]].tolist() == [0, 0] for key in info if key.startswith("reward_")
        )
        assert not info["_unstable"][[0, 2]].any()
        assert truncated.tolist() == [True, t >= 1, True]
        assert not terminated.any()
        assert (reward[1] != 0) == (t < 2) or name == "PointNavigationSparse"
        assert np.array_equal(observation[1], previous[1]) == (t >= 2)
        previous = observation
    before = {field: value[2].copy() for field, value in engine.state.items()}
    env.reset(options={"reset_mask": np.array([True, True, False])})
    for field, value in engine.state.items():
        np.testing.assert_array_equal(value[2], before[field])
    _, reward, _, truncated, _ = env.step(actions[8])
    assert truncated.tolist() == [False, False, True]
    assert (reward != 0).tolist() == [True, True, False] or name == "PointNavigationSparse"
    env.close()


@every_case
def test_results_are_not_overwritten_by_later_steps(name: str) -> None:
    env = _batch(name, 2, max_episode_steps=2)
    results = [env.reset(seed=0)[0]]
    copies = [results[0].copy()]
    for action in _actions(name, 3, 2):
        observation, reward, terminated, truncated, info = env.step(action)
        results += [observation, reward, terminated, truncated, *info.values()]
        copies += [value.copy() for value in results[len(copies) :]]
    env.reset()
    for result, copy in zip(results, copies, strict=True):
        np.testing.assert_array_equal(result, copy)
    env.close()


def _model_values(model: Any) -> dict[str, np.ndarray]:
    values = {}
    parts = {"": model, "opt.": model.opt, "vis.": model.vis.global_, "vis.q.": model.vis.quality}
    for prefix, part in parts.items():
        for name in dir(part):
            value = None if name.startswith("_") else getattr(part, name)
            if isinstance(value, (np.ndarray, int, float)):
                values[prefix + name] = np.array(value)
    return values


@pytest.mark.slow
@per_robot
def test_model_of_the_body_is_never_changed(name: str, egl: None) -> None:
    robot = _family(name).robot
    if not hasattr(robot, "model"):
        untouched: Any = (robot.max_step, robot.action_space)
    else:
        untouched = _model_values(robot.model)
        assert {"body_mass", "opt.gravity", "vis.offwidth"} <= set(untouched)
    single = _single(name, render_mode="rgb_array", width=1000, height=800)
    batch = _batch(name, 2)
    single.reset(seed=0)
    batch.reset(seed=0)
    assert single.render().shape == (800, 1000, 3)
    for actions in _actions(name, 5, 2):
        single.step(actions[0])
        batch.step(actions)
    if not hasattr(robot, "model"):
        assert (robot.max_step, robot.action_space) == untouched
    else:
        single.unwrapped.model.body_mass[:] *= 2  # a single environment has its own copy
        after = _model_values(robot.model)
        assert after.keys() == untouched.keys()
        assert [
            key for key in after if not np.array_equal(after[key], untouched[key], equal_nan=True)
        ] == []
    single.close()
    batch.close()


@every_family
def test_global_generators_are_untouched(name: str) -> None:
    numpy_state, torch_state = np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    single, batch = _single(name), _batch(name, 2)
    for env in (single, batch):
        env.reset()
        env.reset(seed=0)
        env.unwrapped.sample_tasks(3)
        env.step(np.zeros(env.action_space.shape, np.float32))
        env.close()
    for before, after in zip(numpy_state, np.random.get_state(), strict=True):  # noqa: NPY002
        np.testing.assert_array_equal(before, after)
    assert torch.equal(torch_state, torch.get_rng_state())


@every_case
def test_functions_agree_between_numpy_and_torch(name: str) -> None:
    env, rng = _batch(name, 4), np.random.default_rng(0)
    family = env.unwrapped.family
    before, after = (
        {
            field: rng.standard_normal(value.shape)
            for field, value in env.unwrapped.engine.state.items()
        }
        for _ in range(2)
    )
    tasks = dict(family.sample_tasks(rng, 4))
    if name == "PointNavigation":  # one episode that ends
        tasks["goal_x"][0], tasks["goal_y"][0] = after["position"][0]
    action = rng.standard_normal((4, *family.robot.action_space.shape))

    def to_torch(values: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
        return {key: torch.from_numpy(value) for key, value in values.items()}

    torch_after, torch_tasks = to_torch(after), to_torch(tasks)
    expected = family.reward_terms(np, before, after, action, tasks)
    terms = family.reward_terms(
        torch, to_torch(before), torch_after, torch.from_numpy(action), torch_tasks
    )
    assert terms.keys() == expected.keys()
    for term, value in terms.items():
        assert value.shape == (4,)
        np.testing.assert_allclose(value, expected[term], rtol=1e-12)
    observation = family.observation(torch, torch_after)
    assert isinstance(observation, torch.Tensor)
    np.testing.assert_allclose(
        observation, family.observation(np, after), rtol=0, atol=1e-15
    )  # cosines differ in the last bit
    terminated = family.terminated(torch, torch_after, torch_tasks)
    assert terminated.dtype == torch.bool
    np.testing.assert_array_equal(terminated, family.terminated(np, after, tasks))
    env.close()


@per_engine
def test_step_before_reset_is_rejected(name: str) -> None:
    single, batch = _single(name).unwrapped, _batch(name, 1)
    (task,) = batch.unwrapped.sample_tasks(1)
    for env in (single, batch):
        for _ in range(2):
            with pytest.raises(gym.error.ResetNeeded):
                env.step(np.zeros(env.action_space.shape))
            # Setting a task does not start an episode.
            single.set_task(task)
            batch.unwrapped.set_tasks([task])
        env.close()


@pytest.mark.slow
def test_nothing_is_printed(tmp_path: Path) -> None:
    script = (
        "import gymnasium as gym, maml_envs\n"
        "for name in maml_envs.FAMILIES:\n"
        "    for env in (gym.make(maml_envs.env_id(name)), gym.make_vec(maml_envs.env_id(name), "
        "num_envs=2)):\n"
        "        env.reset(seed=0)\n"
        "        env.step(env.action_space.sample())\n"
        "        env.close()\n"
    )
    result = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []  # MuJoCo would leave a log of warnings
