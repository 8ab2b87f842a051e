"""Our environments as Stable-Baselines3's, step by step beside its own DummyVecEnv, and its PPO on one task."""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import maml_envs  # noqa: F401
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.wrappers import RescaleAction
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

from maml_rl.errors import UserError
from maml_rl.sb3 import PPOSettings, TaskVecEnv, ppo_learning_curve
from maml_rl.task_vector_env import EnvConfig, make_task_vector_env

NUM_ENVS = 5


class Walk(gym.Env):
    """It ends after ``length`` steps, which is its task, and shows a number drawn at each reset."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Discrete(3)
    length = 1

    def sample_tasks(self, num_tasks: int) -> list[dict[str, int]]:
        return [{"length": int(length)} for length in self.np_random.integers(1, 6, num_tasks)]

    def set_task(self, task: dict[str, int]) -> None:
        self.length = task["length"]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.count, self.drawn = 0, self.np_random.random()
        return np.array([0, self.drawn], np.float32), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.count += 1
        observation = np.array([self.count, self.drawn], np.float32)
        return observation, self.count + 0.1 * float(action), self.count >= self.length, False, {}


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    gym.register(id="TestWalk-v0", entry_point=Walk)
    yield
    del gym.registry["TestWalk-v0"]


def tasks_of(name: str) -> list[Any]:
    env = make_task_vector_env(EnvConfig(name=name), 1, 10)
    env.np_random = np.random.default_rng(3)
    tasks = list(env.sample_tasks(NUM_ENVS))
    env.close()
    return tasks


def make(name: str, horizon: int, normalize_actions: bool = False, num_envs: int = NUM_ENVS) -> TaskVecEnv:
    env = make_task_vector_env(EnvConfig(name=name), num_envs, horizon)
    env.set_tasks(tasks_of(name)[:num_envs])
    return TaskVecEnv(env, normalize_actions)


def make_dummy(name: str, horizon: int, normalize_actions: bool = False) -> DummyVecEnv:
    env_id = name if name in gym.registry else f"maml_rl/{name}-v0"

    def single() -> gym.Env:
        env = gym.make(env_id, max_episode_steps=horizon)
        return RescaleAction(env, np.float32(-1), np.float32(1)) if normalize_actions else env

    dummy = DummyVecEnv([single] * NUM_ENVS)
    for i, task in enumerate(tasks_of(name)):
        dummy.env_method("set_task", task, indices=i)
    return dummy


@pytest.mark.parametrize(
    ("name", "horizon", "normalize_actions"),
    [
        ("PointNavigation", 9, False),
        ("PointNavigation", 9, True),
        ("HopperVel", 40, False),  # falls before
        ("HalfCheetahDir", 6, True),
        ("TestWalk-v0", 4, False),  # under Gymnasium's vector environment; some end by themselves, some by time
    ],
)
def test_every_step_equals_stable_baselines3s_own(name: str, horizon: int, normalize_actions: bool) -> None:
    ours, theirs = make(name, horizon, normalize_actions), make_dummy(name, horizon, normalize_actions)
    assert ours.action_space == theirs.action_space
    assert ours.observation_space == theirs.observation_space
    assert ours.seed(7) == theirs.seed(7)
    np.testing.assert_array_equal(ours.reset(), theirs.reset())
    # Scaling rounds in its own order of operations.
    close = functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-6 if normalize_actions else 0)
    theirs.action_space.seed(0)
    num_ended, cut = 0, set()
    for _ in range(3 * horizon):
        actions = np.stack([theirs.action_space.sample() for _ in range(NUM_ENVS)])
        observation, reward, ended, infos = ours.step(actions)
        expected_observation, expected_reward, expected_ended, expected_infos = theirs.step(actions)
        assert observation.dtype == expected_observation.dtype
        close(observation, expected_observation)
        assert reward.dtype == np.float32
        np.testing.assert_allclose(reward, expected_reward, rtol=1e-6)
        np.testing.assert_array_equal(ended, expected_ended)
        for i in range(NUM_ENVS):
            if not ended[i]:
                assert infos[i] == {}
                continue
            close(infos[i]["terminal_observation"], expected_infos[i]["terminal_observation"])
            assert infos[i]["TimeLimit.truncated"] is bool(expected_infos[i]["TimeLimit.truncated"])
            num_ended, cut = num_ended + 1, cut | {infos[i]["TimeLimit.truncated"]}
    assert num_ended >= 2 * NUM_ENVS
    if name in ("HopperVel", "TestWalk-v0"):
        assert False in cut
    if name != "HopperVel":
        assert True in cut
    ours.close()
    theirs.close()


def test_actions_are_clipped_to_the_space() -> None:
    first, second = make("PointNavigation", 5), make("PointNavigation", 5)
    for env in (first, second):
        env.seed(0)
        env.reset()
    observation, *_ = first.step(np.full((NUM_ENVS, 2), 7.0))
    np.testing.assert_array_equal(observation, second.step(np.full((NUM_ENVS, 2), 0.1, np.float32))[0])
    np.testing.assert_allclose(observation, 0.1, rtol=1e-6)


def test_what_was_returned_stays_as_it_is() -> None:
    env = make("PointNavigation", 3)
    observations = [env.reset()]
    kept = [observations[0].copy()]
    for _ in range(7):
        observation, _, _, infos = env.step(np.full((NUM_ENVS, 2), 0.01))
        assert all("left here" not in info for info in infos)
        for info in infos:
            info["left here"] = True
        observations.append(observation)
        kept.append(observation.copy())
    np.testing.assert_array_equal(observations, kept)


def test_its_wrappers_and_its_evaluation_take_it() -> None:
    env = VecMonitor(make("PointNavigation", 6))
    env.seed(1)
    env.reset()
    total = np.zeros(NUM_ENVS)
    for _ in range(6):
        _, reward, _, infos = env.step(np.zeros((NUM_ENVS, 2)))
        total += reward
    assert [info["episode"]["l"] for info in infos] == [6] * NUM_ENVS
    np.testing.assert_allclose([info["episode"]["r"] for info in infos], total, rtol=1e-4)

    class Still:
        def predict(self, observation: np.ndarray, **_: Any) -> tuple[np.ndarray, None]:
            return np.zeros((len(observation), 2)), None

    mean, _ = evaluate_policy(Still(), env, n_eval_episodes=NUM_ENVS)  # type: ignore[arg-type]
    assert mean == pytest.approx(total.mean(), rel=1e-4)


def test_questions_about_sub_environments_are_answered_honestly() -> None:
    env = make("PointNavigation", 6)
    assert env.get_attr("render_mode") == [None] * NUM_ENVS
    assert env.get_attr("num_envs", [0, 2]) == [NUM_ENVS] * 2
    assert not env.has_attr("no_such_thing")
    assert env.env_is_wrapped(Monitor, 1) == [False]
    for call in (
        lambda: env.set_attr("task", {}),
        lambda: env.env_method("set_task", {}),
    ):
        with pytest.raises(NotImplementedError, match="sub-environments of a batch"):
            call()
    env.set_options({"task": {"goal_x": 0.0, "goal_y": 0.0}})
    with pytest.raises(NotImplementedError, match="no reset options"):
        env.reset()


class Breaking:
    """Three sub-environments that count; the second breaks down at its third step, and shows what is no number."""

    num_envs = 3
    single_observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float64)
    single_action_space = spaces.Discrete(2)
    np_random = np.random.default_rng(0)

    def __init__(self, void: bool = True) -> None:
        self.says_void = void

    def sample_tasks(self, num_tasks: int) -> list[dict[str, float]]:
        return [{}] * num_tasks

    def set_tasks(self, tasks: Any) -> None:
        pass

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        mask = (options or {}).get("reset_mask", np.ones(3, bool))
        self.count = np.where(mask, 0, self.count) if options else np.zeros(3)
        return self.count[:, None].copy(), {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        self.count = self.count + 1
        broken = np.array([False, self.count[1] == 3, False])
        observation = np.where(broken, np.nan, self.count)[:, None]
        info = {"void": broken} if self.says_void else {}
        return observation, np.where(broken, np.inf, 1.0), np.zeros(3, bool), broken & self.says_void, info

    def close(self) -> None:
        pass


def test_an_episode_that_broke_down_is_cut_before_it_did() -> None:
    env = TaskVecEnv(Breaking())
    env.reset()
    for _ in range(2):
        assert not env.step(np.zeros(3, int))[2].any()
    observation, reward, ended, infos = env.step(np.zeros(3, int))
    np.testing.assert_array_equal(observation[:, 0], [3, 0, 3])
    np.testing.assert_array_equal(reward, [1, 0, 1])
    np.testing.assert_array_equal(ended, [False, True, False])
    assert infos[0] == infos[2] == {}
    assert infos[1]["TimeLimit.truncated"] is True
    assert infos[1]["void"]
    np.testing.assert_array_equal(infos[1]["terminal_observation"], [2])
    np.testing.assert_array_equal(env.step(np.zeros(3, int))[0][:, 0], [4, 1, 4])


def test_a_number_that_is_none_stops_where_it_enters() -> None:
    env = TaskVecEnv(Breaking(void=False))
    env.reset()
    env.step(np.zeros(3, int))
    env.step(np.zeros(3, int))
    with pytest.raises(FloatingPointError, match="observation of sub-environment 1 is not finite"):
        env.step(np.zeros(3, int))


curve_of = functools.partial(ppo_learning_curve, EnvConfig(name="PointNavigation"))
GOAL = {"goal_x": 0.3, "goal_y": -0.4}
QUICK = PPOSettings(num_envs=8, n_steps=32, learning_rate=3e-3, n_epochs=5, gamma=0.9)


def test_ppo_learns_to_reach_a_goal() -> None:
    told: list[int] = []
    curve = curve_of(
        GOAL, 20, num_env_steps=4000, seed=0, settings=QUICK, num_points=4, num_episodes=30, progress=told.append
    )
    # To stand still returns −20 · 0.5 = −10; at full speed the goal is five steps away.
    assert curve.returns[0] < -9
    assert curve.returns[-1] > -4
    assert curve.num_env_steps == [0, 1024, 2048, 3072, 4096]
    assert told == [256] * 16


def test_the_seed_says_everything_and_the_global_generators_stay() -> None:
    def run(seed: int) -> list[float]:
        return curve_of(GOAL, 5, num_env_steps=300, seed=seed, settings=QUICK, num_points=1, num_episodes=4).returns

    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(0)
    first = run(1)
    after = random.random(), np.random.random(), float(torch.rand(()))  # noqa: NPY002
    assert run(1) == first
    assert run(2) != first
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(0)
    assert after == (random.random(), np.random.random(), float(torch.rand(())))  # noqa: NPY002


def test_points_that_lie_within_one_update_are_one() -> None:
    curve = curve_of(GOAL, 5, num_env_steps=600, seed=0, settings=QUICK, num_points=6, num_episodes=2)
    assert curve.num_env_steps == [0, 256, 512, 768]
    assert len(curve.returns) == 4
    assert (QUICK.whole_updates(600), QUICK.whole_updates(512)) == (768, 512)


def test_unbounded_actions_are_refused() -> None:
    class Unbounded(Walk):
        action_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)

    gym.register(id="TestUnbounded-v0", entry_point=Unbounded)
    try:
        with pytest.raises(UserError, match="bounded"):
            ppo_learning_curve(EnvConfig(name="TestUnbounded-v0"), {"length": 3}, 5, num_env_steps=1, seed=0)
    finally:
        del gym.registry["TestUnbounded-v0"]
