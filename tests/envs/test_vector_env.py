"""The vector environment: equality with single environments, resets, unstable simulations."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import maml_envs
import numpy as np
import pytest
from gymnasium.utils import seeding
from helpers.families import PER_KIND
from maml_envs.gym.device_env import DeviceVectorEnv
from maml_envs.gym.seeding import task_generator

every_family = pytest.mark.parametrize("name", sorted(maml_envs.FAMILIES))
per_kind = pytest.mark.parametrize("name", PER_KIND)


def _actions(name: str, num_steps: int, num_envs: int) -> np.ndarray:
    """Random actions, some out of bounds, (num_steps, num_envs, action_size)."""
    space = maml_envs.FAMILIES[name].robot.action_space
    rng = np.random.default_rng(1)
    return (1.2 * rng.uniform(space.low, space.high, (num_steps, num_envs, *space.shape))).astype(
        np.float32
    )


def _assert_equal(
    results: tuple[Any, ...], others: tuple[Any, ...], rows: Any = slice(None)
) -> None:
    """Assert that the results of two batch steps are bit-identical."""
    for a, b in zip(results[:4], others[:4], strict=True):
        np.testing.assert_array_equal(a[rows], b[rows])
    assert results[4].keys() == others[4].keys()
    for key in results[4]:
        np.testing.assert_array_equal(results[4][key][rows], others[4][key][rows])


@pytest.mark.thorough
@every_family
@pytest.mark.parametrize("num_threads", [1, 2])
def test_batch_equals_single_environments(name: str, num_threads: int) -> None:
    env_id, num_envs, horizon = maml_envs.env_id(name), 4, 15
    batch = gym.make_vec(
        env_id, num_envs=num_envs, max_episode_steps=horizon, num_threads=num_threads
    )
    singles = [gym.make(env_id, max_episode_steps=horizon) for _ in range(num_envs)]
    for seed in (20, None):  # the generators continue in the second episode
        observation, _ = batch.reset(seed=seed)
        starts = [
            env.reset(seed=None if seed is None else seed + i)[0] for i, env in enumerate(singles)
        ]
        np.testing.assert_array_equal(observation, starts)
        assert batch.tasks == [env.unwrapped.task for env in singles]
        terminated = np.zeros(num_envs, bool)
        for actions in _actions(name, horizon, num_envs):
            live = ~terminated
            observation, reward, terminated, truncated, info = batch.step(actions)
            for i in np.flatnonzero(live):
                single = singles[i].step(actions[i])
                np.testing.assert_array_equal(observation[i], single[0])
                assert (reward[i], terminated[i], truncated[i]) == single[1:4]
                assert {key: info[key][i] for key in single[4]} == single[4]
                assert all(info[f"_{key}"][i] for key in single[4])
        assert (terminated | truncated).all()
    for env in (batch, *singles):
        env.close()


@pytest.mark.slow
@per_kind
def test_threads_do_not_change_results(name: str) -> None:
    one, two = (
        gym.make_vec(maml_envs.env_id(name), num_envs=7, max_episode_steps=30, num_threads=threads)
        for threads in (1, 2)
    )
    np.testing.assert_array_equal(one.reset(seed=3)[0], two.reset(seed=3)[0])
    rng = np.random.default_rng(0)
    for t, actions in enumerate(_actions(name, 60, 7)):
        if t % 11 == 10:  # simulations then finish at different times
            mask = rng.random(7) < 0.4
            mask[t % 7] = True
            np.testing.assert_array_equal(
                one.reset(options={"reset_mask": mask})[0],
                two.reset(options={"reset_mask": mask})[0],
            )
        results = one.step(actions)
        _assert_equal(results, two.step(actions))
    assert 0 < (results[2] | results[3]).sum() < 7
    one.close()
    two.close()


@per_kind
def test_subset_of_simulations_equals_a_single_environment(name: str) -> None:
    env_id, horizon, late = maml_envs.env_id(name), 6, 3
    batch = gym.make_vec(env_id, num_envs=3, max_episode_steps=horizon)
    batch.reset(seed=0)
    actions = _actions(name, late + horizon, 3)
    for action in actions[:late]:
        batch.step(action)
    # reset simulation 1, so that it ends last
    task = batch.tasks[1]
    observation, _ = batch.reset(
        seed=[None, 50, None], options={"reset_mask": np.array([False, True, False])}
    )
    single = gym.make(env_id, max_episode_steps=horizon)
    start, _ = single.reset(seed=50, options={"task": task})
    np.testing.assert_array_equal(observation[1], start)
    for t, action in enumerate(actions[late:]):
        observation, reward, _, truncated, _ = batch.step(action)
        expected = single.step(action[1])
        np.testing.assert_array_equal(observation[1], expected[0])
        assert reward[1] == expected[1]
        assert truncated.tolist() == [
            t >= horizon - late - 1,
            t == horizon - 1,
            t >= horizon - late - 1,
        ]
    batch.close()
    single.close()


def test_the_first_task_is_drawn_from_numbers_of_its_own() -> None:
    rng, same = seeding.np_random(3)[0], seeding.np_random(3)[0]
    of_tasks = [task_generator(rng).random() for _ in range(2)]
    assert of_tasks[0] == of_tasks[1] != task_generator(seeding.np_random(4)[0]).random()
    assert rng.random() == same.random() != of_tasks[0]
    assert of_tasks[0] not in [child.random() for child in rng.spawn(3)]


def test_the_seed_of_a_reset_of_some_does_not_seed_the_others() -> None:
    env, intact = (gym.make_vec("maml_rl/HalfCheetahVel-v0", num_envs=2) for _ in range(2))
    env.reset(seed=[1, 2])
    intact.reset(seed=[7, 2])
    env.reset(seed=7, options={"reset_mask": np.array([True, False])})
    np.testing.assert_array_equal(env.reset()[0], intact.reset()[0])
    env.close()
    intact.close()


def test_termination_at_the_horizon_equals_the_single_environment() -> None:
    env_id, task = "maml_rl/PointNavigation-v0", {"goal_x": 0.1, "goal_y": 0.0}
    batch, single = (
        gym.make_vec(env_id, num_envs=1, max_episode_steps=2),
        gym.make(env_id, max_episode_steps=2),
    )
    batch.reset(seed=0, options={"task": task})
    single.reset(seed=0, options={"task": task})
    for action in np.array([[0.05, 0.0], [0.05, 0.0]], np.float32):
        _, _, terminated, truncated, _ = batch.step(action[None])
        assert (terminated[0], truncated[0]) == single.step(action)[2:4]
    assert terminated[0]
    batch.close()
    single.close()


def test_terminated_simulation_is_not_stepped() -> None:
    env = gym.make_vec("maml_rl/PointNavigation-v0", num_envs=2, max_episode_steps=5)
    env.reset(
        seed=0,
        options={"tasks": [{"goal_x": 0.05, "goal_y": 0.0}, {"goal_x": -0.5, "goal_y": 0.0}]},
    )
    action = np.tile(np.float32([0.05, 0.0]), (2, 1))
    steps = [env.step(action) for _ in range(6)]
    for t, (observation, reward, terminated, truncated, _) in enumerate(steps):
        assert terminated.tolist() == [True, False]
        assert truncated.tolist() == [False, t >= 4]  # a terminated one is not truncated too
        np.testing.assert_array_equal(observation[0], steps[0][0][0])
        assert (reward[0] != 0) == (t == 0)
        assert (reward[1] != 0) == (t < 5)
    env.close()


def test_default_number_of_threads_is_the_available_cpus(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    num_threads_used: list[int] = []
    family = maml_envs.FAMILIES["HalfCheetahVel"]()
    make = type(family.robot).batch_engine

    def spy(robot: Any, num_sims: int, num_threads: int, derived: Any) -> Any:
        num_threads_used.append(num_threads)
        return make(robot, num_sims, num_threads, derived)

    monkeypatch.setattr(type(family.robot), "batch_engine", spy)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0}, raising=False)
    maml_envs.FamilyVectorEnv(family, 2).close()
    maml_envs.FamilyVectorEnv(family, 2, num_threads=2).close()
    assert num_threads_used == [1, 2]
    # Processes of torchrun share the CPUs of their machine.
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1, 2, 3}, raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    maml_envs.FamilyVectorEnv(family, 2).close()
    assert num_threads_used == [1, 2, 2]


@per_kind
def test_one_seed_per_simulation(name: str) -> None:
    env = gym.make_vec(maml_envs.env_id(name), num_envs=3)
    with pytest.raises(ValueError, match=r"3 seeds.*2"):
        env.reset(seed=[1, 2])
    by_list, _ = env.reset(seed=[7, 8, 9])
    tasks = env.tasks
    other = gym.make_vec(maml_envs.env_id(name), num_envs=3)
    by_number, _ = other.reset(seed=7)
    np.testing.assert_array_equal(by_list, by_number)
    assert tasks == other.tasks
    np.testing.assert_array_equal(
        env.reset(seed=[None, 8, None])[0][[0, 2]], other.reset()[0][[0, 2]]
    )
    env.close()
    other.close()


@per_kind
def test_seeded_reset_seeds_the_task_generator(name: str) -> None:
    env = gym.make_vec(maml_envs.env_id(name), num_envs=2)
    env.reset(seed=4)
    first = env.sample_tasks(5)
    env.reset(seed=4)
    assert env.sample_tasks(5) == first
    env.close()


@pytest.mark.parametrize("num_envs", [0, -1])
def test_num_envs_must_be_positive(num_envs: int) -> None:
    with pytest.raises(ValueError, match=f"num_envs.*{num_envs}"):
        maml_envs.FamilyVectorEnv(maml_envs.FAMILIES["PointNavigation"](), num_envs)


@pytest.mark.parametrize("number", [0, -5])
def test_horizon_and_number_of_threads_must_be_positive(number: int) -> None:
    for name in ("max_episode_steps", "num_threads"):
        with pytest.raises(ValueError, match=f"^{name} must be at least 1, got {number}$"):
            maml_envs.FamilyVectorEnv(maml_envs.FAMILIES["PointNavigation"](), **{name: number})
    with pytest.raises(ValueError, match=f"^max_episode_steps must be at least 1, got {number}$"):
        DeviceVectorEnv(
            maml_envs.FAMILIES["PointNavigation"](), max_episode_steps=number, device="cpu"
        )


@pytest.mark.parametrize(
    "mask", [[False] * 3, [True, False], [True] * 5], ids=["empty", "short", "long"]
)
def test_invalid_reset_mask_is_rejected(mask: list[bool]) -> None:
    env = gym.make_vec("maml_rl/PointNavigation-v0", num_envs=3)
    env.reset(seed=0)
    with pytest.raises(ValueError, match="reset_mask"):  # as in Gymnasium
        env.reset(options={"reset_mask": np.array(mask)})
    env.close()


@per_kind
def test_unstable_simulation_is_reported(name: str) -> None:
    unstable, others = 1, [0, 2, 3]
    env, intact = (
        gym.make_vec(maml_envs.env_id(name), num_envs=4, max_episode_steps=20) for _ in range(2)
    )
    env.reset(seed=0)
    intact.reset(seed=0)
    actions = _actions(name, 12, 4)
    for action in actions[:3]:
        env.step(action)
        intact.step(action)
    engine = env.unwrapped.engine
    engine.state[next(iter(engine.state))][unstable, 0] = np.nan
    for t, action in enumerate(actions[3:8]):
        results = env.step(action)
        _assert_equal(results, intact.step(action), others)
        _, reward, terminated, truncated, info = results
        assert info["unstable"].tolist() == [
            False,
            t == 0,
            False,
            False,
        ]  # in one step
        assert truncated.tolist() == [False, True, False, False]
        assert not terminated.any()
        assert t == 0 or reward[unstable] == 0
    mask = np.arange(4) == unstable
    seed = [None, 30, None, None]
    observation, _ = env.reset(seed=seed, options={"reset_mask": mask})
    np.testing.assert_array_equal(
        observation, intact.reset(seed=seed, options={"reset_mask": mask})[0]
    )
    assert np.isfinite(observation).all()
    for action in actions[8:]:
        results = env.step(action)
        assert not results[4]["unstable"].any()
        _assert_equal(results, intact.step(action))
    env.close()
    intact.close()


@per_kind
def test_all_simulations_can_become_unstable(name: str) -> None:
    env = gym.make_vec(maml_envs.env_id(name), num_envs=2)
    env.reset(seed=0)
    for value in env.unwrapped.engine.state.values():
        if value.flags.writeable:  # derived fields are read-only
            value[:] = np.nan
    *_, terminated, truncated, info = env.step(_actions(name, 1, 2)[0])
    assert info["unstable"].all()
    assert truncated.all()
    assert not terminated.any()
    observation, _ = env.reset(seed=0)
    assert np.isfinite(observation).all()
    assert not env.step(_actions(name, 1, 2)[0])[4]["unstable"].any()
    env.close()


@per_kind
def test_unstable_single_simulation_is_reported(name: str) -> None:
    env, intact = gym.make(maml_envs.env_id(name)), gym.make(maml_envs.env_id(name))
    env.reset(seed=0)
    action = _actions(name, 1, 1)[0, 0]
    *_, truncated, info = env.step(action)
    assert not truncated
    assert info["unstable"] is False
    engine = env.unwrapped.engine
    engine.state[next(iter(engine.state))][0, 0] = np.nan
    *_, terminated, truncated, info = env.step(action)
    assert info["unstable"] is True
    assert truncated is True
    assert terminated is False
    intact.reset(seed=0)
    np.testing.assert_array_equal(env.reset(seed=9)[0], intact.reset(seed=9)[0])
    clean, expected = env.step(action), intact.step(action)
    np.testing.assert_array_equal(clean[0], expected[0])
    assert clean[1:] == expected[1:]
    assert clean[4]["unstable"] is False
    env.close()
    intact.close()


@per_kind
def test_non_finite_action_makes_the_simulation_unstable(name: str) -> None:
    env, intact = (gym.make_vec(maml_envs.env_id(name), num_envs=2) for _ in range(2))
    env.reset(seed=0)
    intact.reset(seed=0)
    actions = _actions(name, 1, 2)[0]
    expected = intact.step(actions)
    actions[1, 0] = np.nan
    results = env.step(actions)
    assert results[4]["unstable"].tolist() == [False, True]
    assert results[3].tolist() == [False, True]
    _assert_equal(results, expected, [0])
    env.close()
    intact.close()


class AlwaysOver(maml_envs.FAMILIES["HalfCheetahVel"]):  # type: ignore[misc]
    """Every state ends the episode."""

    def terminated(self, xp: Any, state: Any, task: Any) -> Any:
        return xp.ones_like(state["qpos"][:, 0], dtype=bool)


def test_unstable_simulation_never_terminates() -> None:
    batch, single = maml_envs.FamilyVectorEnv(AlwaysOver(), 2), maml_envs.FamilyEnv(AlwaysOver())
    batch.reset(seed=0)
    single.reset(seed=0)
    assert single.step(np.zeros(6))[2:4] == (True, False)
    batch.engine.state["qpos"][0, 0] = single.engine.state["qpos"][0, 0] = np.nan
    _, _, terminated, truncated, _ = batch.step(np.zeros((2, 6)))
    assert terminated.tolist() == [False, True]
    assert truncated.tolist() == [True, False]
    assert single.step(np.zeros(6))[2:4] == (False, True)
    batch.close()
    single.close()
