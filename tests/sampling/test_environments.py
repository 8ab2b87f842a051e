from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import maml_envs
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from maml_rl.errors import UserError
from maml_rl.sampling.environments import as_task_vector_env, make_task_vector_env
from maml_rl.sampling.gym_vector_env import GymTaskVectorEnv
from maml_rl.settings.env import EnvConfig, Vectorization, resolve_env_id

NEVER = 1000


class Countdown(gym.Env):
    """Observes the steps so far, the ``length`` of the episode, and a number drawn at reset."""

    observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float64)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, length: int = NEVER, unstable_from_episode: int | None = None) -> None:
        self.length = length
        self.episode = 0
        self.unstable_from_episode = unstable_from_episode

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.count, self.drawn = 0, self.np_random.random()
        self.episode = 1 if seed is not None else self.episode + 1
        return self._observation(), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.count += 1
        info = {}
        if self.unstable_from_episode is not None:
            info["unstable"] = self.episode >= self.unstable_from_episode
        return (
            self._observation(),
            10.0 * self.count + float(action[0]),
            self.count >= self.length,
            False,
            info,
        )

    def _observation(self) -> np.ndarray:
        return np.array([self.count, self.length, self.drawn])


class CountdownBySetter(Countdown):
    """Takes its task by a method."""

    def sample_tasks(self, num_tasks: int) -> list[dict[str, int]]:
        return [{"length": int(length)} for length in self.np_random.integers(2, 100, num_tasks)]

    def set_task(self, task: dict[str, int]) -> None:
        self.length = task["length"]


class CountdownByOptions(Countdown):
    """Takes its task at a reset, for that episode alone."""

    def sample_tasks(self, num_tasks: int) -> list[dict[str, int]]:
        return [{"length": int(length)} for length in self.np_random.integers(2, 100, num_tasks)]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        self.length = (options or {}).get("task", {"length": NEVER})["length"]
        return super().reset(seed=seed, options=options)


class CountdownFromEpisode(Countdown):
    """Its episodes are as long as the number of updates before them."""

    takes_episode = True

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        self.length = (options or {}).get("episode", NEVER)
        return super().reset(seed=seed, options=options)


WITH_TASKS = {"TestSetter-v0": CountdownBySetter, "TestOptions-v0": CountdownByOptions}
with_tasks = pytest.mark.parametrize("env_id", list(WITH_TASKS))
both_ways = pytest.mark.parametrize(
    "vectorization", ["sync", pytest.param("async", marks=pytest.mark.slow)]
)


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    before = dict(gym.registry)
    for env_id, env_class in {**WITH_TASKS, "TestPlain-v0": Countdown}.items():
        gym.register(id=env_id, entry_point=env_class)
    yield
    gym.registry.clear()
    gym.registry.update(before)


def _make(
    env_id: str,
    num_envs: int = 2,
    horizon: int = 50,
    vectorization: Vectorization = "sync",
    **kwargs: Any,
) -> GymTaskVectorEnv:
    env = make_task_vector_env(
        EnvConfig(name=env_id, kwargs=kwargs, vectorization=vectorization), num_envs, horizon
    )
    assert isinstance(env, GymTaskVectorEnv)
    return env


def _actions(num_envs: int) -> np.ndarray:
    return np.linspace(-0.5, 0.5, num_envs, dtype=np.float32)[:, None]


@pytest.mark.parametrize(
    ("name", "env_id"),
    [
        ("HalfCheetahVel", "maml_rl/HalfCheetahVel-v0"),
        ("PointNavigation", "maml_rl/PointNavigation-v0"),
        ("maml_rl/HalfCheetahDir-v0", "maml_rl/HalfCheetahDir-v0"),
        ("maml_envs:HalfCheetahDir", "maml_rl/HalfCheetahDir-v0"),
        ("Pendulum-v1", "Pendulum-v1"),
        ("TestPlain-v0", "TestPlain-v0"),
    ],
)
def test_names_of_environments(name: str, env_id: str) -> None:
    assert resolve_env_id(name) == env_id


MODULE = """
import gymnasium as gym
import numpy as np
from gymnasium import spaces


class Still(gym.Env):
    observation_space = spaces.Box(-1.0, 1.0, (1,))
    action_space = spaces.Box(-1.0, 1.0, (1,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), 1.0, False, False, {}


gym.register(id="StillInAModule-v0", entry_point=Still)
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    name = "module_with_a_still_environment"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    sys.modules.pop(name, None)


def test_module_is_imported_first(module: str) -> None:
    assert "StillInAModule-v0" not in gym.registry
    assert resolve_env_id(f"{module}:StillInAModule-v0") == "StillInAModule-v0"
    with pytest.raises(UserError, match=f"Did you mean '{module}:StillInAModule-v0'"):
        resolve_env_id(f"{module}:StillInAModul-v0")
    env = make_task_vector_env(EnvConfig(name=f"{module}:StillInAModule-v0"), 2, 3)
    env.reset(seed=0)
    assert env.step(_actions(2))[1].tolist() == [1.0, 1.0]
    env.close()


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("HalfCheetahVell", r"'HalfCheetahVell'.*Did you mean 'HalfCheetahVel'"),
        ("PointNavigaton", r"'PointNavigaton'.*Did you mean 'PointNavigation'"),
        ("Pendulum-v11", r"'Pendulum-v11'.*Did you mean 'Pendulum-v1'"),
        ("Crane-v0", r"'Crane-v0'\..* one of your modules registers it: --env module:Crane-v0\."),
        ("crane.xml", r"'crane\.xml'\. A model needs a family: see docs/add_a_family\.md\. Valid"),
        ("xyzzy_42", r"Valid are.*, and module:Family or module:EnvId-v0\.$"),
        ("maml_envs:Crane-v0", r"^((?!one of your modules).)*$"),
        ("xyzzy_42", r"'xyzzy_42'.*Valid are.*HalfCheetahDir.*PointNavigation"),
        ("maml_envs:HalfCheetaVel", r"'HalfCheetaVel'.*Did you mean 'HalfCheetahVel'"),
        (
            "no_such_module_anywhere:Env-v0",
            r"'no_such_module_anywhere:Env-v0'.*'no_such_module_anywhere' cannot be",
        ),
        ("robots.py:Env-v0", r"'robots.py:Env-v0': leave out .py: robots:Env-v0"),
        ("maml_envs.no_such_part:Env-v0", r"'maml_envs.no_such_part' cannot be imported"),
        ("no_such_module:Env-v0", "A command searches the current folder"),
        ("no_such_module:Env-v0", r"imported \(No module named 'no_such_module'\)\. A command"),
        ("no_such_module:Env-v0", r"where no_such_module\.py is, .*PYTHONPATH, or install"),
    ],
)
def test_unknown_environments_are_named(name: str, named: str) -> None:
    with pytest.raises(UserError, match=named):
        resolve_env_id(name)


@pytest.mark.parametrize(
    ("source", "flags"),
    [
        ("import maml_envs\n\n@maml_envs.register\nclass Crane:\n    pass\n", "--env crane:Crane"),
        (
            "@register\nclass One: ...\n@dataclass\nclass Part: ...\n@register\nclass Two: ...",
            "--env crane:One or --env crane:Two",
        ),
        ("gymnasium.register(id='Crane-v0')", "--env crane:NAME"),
        ("class", "--env crane:NAME"),
    ],
)
@pytest.mark.parametrize("name", ["crane", "crane.py"])
def test_families_of_a_module_are_named_without_importing_it(
    name: str, source: str, flags: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("crane.py").write_text(f"{source}\n")
    message = rf"'{name}'\. crane\.py is in this folder; name its family: {flags}\."
    with pytest.raises(UserError, match=message):
        resolve_env_id(name)
    assert "crane" not in sys.modules


def test_family_is_used_as_it_is() -> None:
    env = make_task_vector_env(
        EnvConfig(name="HalfCheetahVel", kwargs={"low": 3.0, "high": 4.0}), 3, 7
    )
    assert isinstance(env, maml_envs.FamilyVectorEnv)
    assert (env.num_envs, env.max_episode_steps) == (3, 7)
    assert all(3 <= task["goal_velocity"] <= 4 for task in env.sample_tasks(20))
    env.close()


@pytest.mark.parametrize(
    ("name", "kwargs", "named"),
    [
        ("HalfCheetahVel", {"low": 3.0, "high": 1.0}, "HalfCheetahVel.*low and high"),
        ("HalfCheetahVel", {"hihg": 1.0}, "HalfCheetahVel.*hihg"),
        ("TestPlain-v0", {"lenght": 1}, "TestPlain-v0.*lenght"),
    ],
)
def test_refused_arguments_are_named(name: str, kwargs: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named):
        make_task_vector_env(EnvConfig(name=name, kwargs=kwargs), 2, 5)


def test_observations_that_cannot_be_flattened_are_refused() -> None:
    class Unsupported(Countdown):
        observation_space = spaces.Sequence(spaces.Box(0.0, 1.0))

        closed = 0

        def close(self) -> None:
            type(self).closed += 1

    gym.register(id="TestUnsupported-v0", entry_point=Unsupported)
    with pytest.raises(UserError, match=r"Sequence.*cannot be flattened"):
        make_task_vector_env(EnvConfig(name="TestUnsupported-v0"), 2, 5)
    assert Unsupported.closed == 1
    # An environment of the user's stays open.
    refused = pytest.raises(UserError, match=r"Sequence.*cannot be flattened")
    with refused, as_task_vector_env(Unsupported(), EnvConfig(), 1, 5):
        pass
    assert Unsupported.closed == 1


@both_ways
@with_tasks
def test_each_sub_environment_has_its_own_task(env_id: str, vectorization: Vectorization) -> None:
    env = _make(env_id, vectorization=vectorization)
    lengths = [1, 4]
    env.set_tasks([{"length": length} for length in lengths])
    for _ in range(2):  # tasks are kept over resets
        observation, _ = env.reset(seed=3)
        assert observation[:, 1].tolist() == lengths
        for t in range(1, 4):  # the finished one is reset too, and keeps its task
            observation, _, terminated, truncated, _ = env.step(_actions(2))
            assert observation[:, 1].tolist() == lengths
            assert terminated.tolist() == [True, False]
            assert not truncated.any()
            assert observation[1, 0] == t
        *_, terminated, _, _ = env.step(_actions(2))
        assert terminated.all()
    env.set_tasks([{"length": 9}, {"length": 2}])
    assert env.reset()[0][:, 1].tolist() == [9, 2]
    env.close()


@both_ways
@with_tasks
def test_steps_after_the_end_are_thrown_away(env_id: str, vectorization: Vectorization) -> None:
    env = _make(env_id, vectorization=vectorization)
    env.set_tasks([{"length": 2}, {"length": 7}])
    start, _ = env.reset(seed=5)
    actions = _actions(2)
    for t in range(1, 8):
        observation, reward, terminated, truncated, info = env.step(actions)
        ends = min(t, 2), t
        np.testing.assert_array_equal(observation[:, 0], ends)
        np.testing.assert_array_equal(observation[:, 2], start[:, 2])  # drawn at every reset
        np.testing.assert_allclose(
            reward, [10 * t + actions[0, 0] if t <= 2 else 0, 10 * t + actions[1, 0]]
        )
        assert terminated.tolist() == [t >= 2, t >= 7]
        assert not truncated.any()
        assert info["unstable"].tolist() == [False, False]
    observation, reward, terminated, *_ = env.step(actions)  # with every episode over
    np.testing.assert_array_equal(observation[:, 0], [2, 7])
    assert reward.tolist() == [0, 0]
    assert terminated.all()
    observation, _ = env.reset(seed=5)
    np.testing.assert_array_equal(observation, start)
    *_, terminated, truncated, _ = env.step(actions)
    assert not (terminated | truncated).any()
    env.close()


@both_ways
def test_an_environment_gets_the_number_of_updates_before(vectorization: Vectorization) -> None:
    gym.register(id="TestEpisodes-v0", entry_point=CountdownFromEpisode)
    env = _make("TestEpisodes-v0", vectorization=vectorization)
    assert env.takes_episode
    observation, _ = env.reset(seed=0, options={"episode": 4})
    assert observation[:, 1].tolist() == [4, 4]
    env.close()
    assert not _make("TestPlain-v0").takes_episode


@both_ways
def test_horizon_truncates(vectorization: Vectorization) -> None:
    env = _make("TestSetter-v0", horizon=3, vectorization=vectorization)
    env.set_tasks([{"length": 2}, {"length": 9}])
    env.reset(seed=0)
    flags = [env.step(_actions(2))[2:4] for _ in range(5)]
    assert [terminated.tolist() for terminated, _ in flags] == [[False, False]] + [
        [True, False]
    ] * 4
    assert [truncated.tolist() for _, truncated in flags] == [[False, False]] * 2 + [
        [False, True]
    ] * 3
    env.close()


@both_ways
@pytest.mark.parametrize("env_id", ["TestPlain-v0", *WITH_TASKS])
def test_sub_environment_i_gets_the_seed_plus_i(env_id: str, vectorization: Vectorization) -> None:
    env = _make(env_id, vectorization=vectorization)
    single = gym.make(env_id)
    for seed in (7, 30):
        observation, _ = env.reset(seed=seed)
        np.testing.assert_array_equal(
            observation, [single.reset(seed=seed + i)[0] for i in range(2)]
        )
    assert not np.array_equal(env.reset()[0], observation)
    env.close()


@with_tasks
def test_tasks_are_drawn_with_the_generator_that_is_given(env_id: str) -> None:
    env = _make(env_id)
    draws = []
    for seed in (0, 0, 1):
        env.np_random = np.random.default_rng(seed)
        draws.append(env.sample_tasks(6))
    assert len(draws[0]) == 6
    assert draws[0] == draws[1] != draws[2]
    expected = np.random.default_rng(0).integers(2, 100, 6)
    assert [task["length"] for task in draws[0]] == expected.tolist()
    assert env.sample_tasks(6) != draws[2]  # the generator has advanced
    env.close()


@both_ways
def test_environment_without_tasks_is_a_family_of_one(vectorization: Vectorization) -> None:
    env = _make("TestPlain-v0", vectorization=vectorization, length=4)
    tasks = env.sample_tasks(2)
    assert tasks == [{}, {}]
    env.set_tasks(tasks)
    observation, _ = env.reset(seed=0)
    assert observation[:, 1].tolist() == [4, 4]
    flags = [env.step(_actions(2))[2].all() for _ in range(4)]
    assert flags == [False, False, False, True]
    env.close()


@both_ways
@with_tasks
def test_empty_task_leaves_a_sub_environment_alone(
    env_id: str, vectorization: Vectorization
) -> None:
    env = _make(env_id, vectorization=vectorization)
    env.set_tasks([{"length": 3}, {}])
    assert env.reset(seed=0)[0][:, 1].tolist() == [3, NEVER]
    env.close()


@pytest.mark.parametrize(
    ("env_id", "expected"), [("TestSetter-v0", [3, 4]), ("TestOptions-v0", [NEVER, NEVER])]
)
def test_after_empty_tasks_resets_pass_none(env_id: str, expected: list[int]) -> None:
    env = _make(env_id)
    env.set_tasks([{"length": 3}, {"length": 4}])
    env.reset(seed=0)
    env.set_tasks([{}, {}])
    assert env.reset(seed=0)[0][:, 1].tolist() == expected
    env.close()


@with_tasks
@pytest.mark.parametrize("num_tasks", [1, 3])
def test_one_task_per_sub_environment(env_id: str, num_tasks: int) -> None:
    env = _make(env_id)
    for task in ({"length": 3}, {}):
        with pytest.raises(
            ValueError, match=f"expected 2 tasks, one per sub-environment, got {num_tasks}"
        ):
            env.set_tasks([task] * num_tasks)
    env.close()


def test_unstable_simulation_of_the_environment_is_reported() -> None:
    env = _make("TestSetter-v0", unstable_from_episode=1)
    env.set_tasks([{"length": 4}, {"length": 4}])
    env.reset(seed=0)
    assert env.step(_actions(2))[4]["unstable"].tolist() == [True, True]
    env.close()


def test_unstable_simulation_after_the_end_is_ignored() -> None:
    # Whatever happens in a finished sub-environment, its episode was fine.
    env = _make("TestSetter-v0", unstable_from_episode=2)
    env.set_tasks([{"length": 1}, {"length": 9}])
    env.reset(seed=0)
    for _ in range(5):
        info = env.step(_actions(2))[4]
        assert info["unstable"].tolist() == [False, False]
    env.close()


def test_results_are_not_overwritten_by_later_steps() -> None:
    env = _make("TestSetter-v0")
    env.set_tasks([{"length": 2}, {"length": 5}])
    results = [env.reset(seed=0)[0]]
    copies = [results[0].copy()]
    for _ in range(5):
        step = env.step(_actions(2))
        results += [*step[:4], step[4]["unstable"]]
        copies += [value.copy() for value in results[len(copies) :]]
    env.reset(seed=1)
    for result, copy in zip(results, copies, strict=True):
        np.testing.assert_array_equal(result, copy)
    env.close()


@pytest.mark.parametrize("name", sorted(maml_envs.FAMILIES))
def test_adapter_and_batch_engine_agree(name: str) -> None:
    num_envs, horizon = 3, 12
    env_id = maml_envs.env_id(name)
    batch = gym.make_vec(env_id, num_envs=num_envs, max_episode_steps=horizon)
    make = functools.partial(gym.make, env_id, max_episode_steps=horizon)
    adapted = GymTaskVectorEnv.of(make, num_envs, "sync")
    batch.np_random, adapted.np_random = np.random.default_rng(0), np.random.default_rng(0)
    tasks = batch.sample_tasks(num_envs)
    assert adapted.sample_tasks(num_envs) == tasks
    if name == "PointNavigation":  # one that is met early
        tasks[1] = {"goal_x": 0.05, "goal_y": 0.05}
    space = batch.single_action_space
    rng = np.random.default_rng(0)
    for env in (batch, adapted):
        env.set_tasks(tasks)
    for seed in (0, 5):
        np.testing.assert_array_equal(batch.reset(seed=seed)[0], adapted.reset(seed=seed)[0])
        for t in range(horizon):
            actions = rng.uniform(space.low, space.high, (num_envs, *space.shape)).astype(
                np.float32
            )
            if name == "PointNavigation" and t == 0:
                actions[1] = 0.05
            results, expected = adapted.step(actions), batch.step(actions)
            for a, b in zip(results[:4], expected[:4], strict=True):
                np.testing.assert_array_equal(a, b)
            assert results[4]["unstable"].tolist() == expected[4]["unstable"].tolist()
        assert (results[2] | results[3]).all()
        assert results[2].tolist() == [False, name == "PointNavigation", False]
    batch.close()
    adapted.close()


def _closed(env: gym.Env | gym.vector.VectorEnv) -> list[bool]:
    """Becomes non-empty when ``env`` is closed."""
    calls: list[bool] = []
    close = env.close
    env.close = lambda: calls.append(True) or close()  # type: ignore[method-assign,assignment,func-returns-value]
    return calls


def test_environment_at_hand_stays_open() -> None:
    single = gym.make("TestSetter-v0", max_episode_steps=3)
    closed = _closed(single)
    with as_task_vector_env(single, EnvConfig(), 4, 9) as env:
        assert env.num_envs == 1
        env.set_tasks([{"length": 2}])
        assert env.reset(seed=6)[0].tolist() == [single.reset(seed=6)[0].tolist()]
        env.reset(seed=6)
        flags = [bool(env.step(_actions(1))[2][0]) for _ in range(3)]
        assert flags == [False, True, True]
        assert env.sample_tasks(2) == [{}, {}]  # its own task stays
    assert closed == []
    assert single.unwrapped.length == 2


def test_family_vector_environment_at_hand_is_used_as_it_is() -> None:
    batch = gym.make_vec("maml_rl/PointNavigation-v0", num_envs=2)
    closed = _closed(batch)
    with as_task_vector_env(batch, EnvConfig(), 4, 9) as env:
        assert env is batch
    assert closed == []
    batch.close()


def test_vector_environment_at_hand() -> None:
    sync = SyncVectorEnv(
        [functools.partial(Countdown, 2), Countdown], autoreset_mode=AutoresetMode.DISABLED
    )
    with as_task_vector_env(sync, EnvConfig(), 4, 9) as env:
        env.set_tasks(env.sample_tasks(2))
        env.reset(seed=0)
        flags = [env.step(_actions(2))[2].tolist() for _ in range(4)]
    assert flags == [[False, False]] + [[True, False]] * 3
    assert sync.closed is False
    sync.close()


@pytest.mark.parametrize(
    "vector_class", [SyncVectorEnv, pytest.param(AsyncVectorEnv, marks=pytest.mark.slow)]
)
def test_vector_environment_at_hand_takes_no_tasks(vector_class: type) -> None:
    vector = vector_class([CountdownBySetter] * 2, autoreset_mode=AutoresetMode.DISABLED)
    try:
        with (
            as_task_vector_env(vector, EnvConfig(), 2, 9) as env,
            pytest.raises(UserError, match="takes no tasks"),
        ):
            env.set_tasks([{"length": 3}, {"length": 4}])
    finally:
        vector.close()


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_vector_environment_with_autoreset_is_refused(mode: AutoresetMode) -> None:
    sync = SyncVectorEnv([Countdown], autoreset_mode=mode)
    with (
        pytest.raises(UserError, match=r"AutoresetMode\.DISABLED"),
        as_task_vector_env(sync, EnvConfig(), 1, 9),
    ):
        pass
    sync.close()


def test_environment_by_name_is_made_and_closed() -> None:
    config = EnvConfig(name="HalfCheetahVel", kwargs={"low": 3.0, "high": 3.0})
    for name in (None, "HalfCheetahVel"):  # with the configuration's arguments
        with as_task_vector_env(name, config, 2, 5) as env:
            assert env.sample_tasks(1) == [{"goal_velocity": 3.0}]
            closed = _closed(env)
        assert closed == [True]
    with as_task_vector_env("TestPlain-v0", config, 2, 5) as env:
        assert isinstance(env, GymTaskVectorEnv)
        assert env.num_envs == 2


class NextStepVectorEnv(gym.vector.VectorEnv):
    """Has tasks, but resets by itself."""

    def __init__(self, num_envs: int, max_episode_steps: int) -> None:
        self.num_envs = num_envs
        self.metadata = {"autoreset_mode": gym.vector.AutoresetMode.NEXT_STEP}
        self.single_observation_space = gym.spaces.Box(-1, 1, (1,))
        self.single_action_space = gym.spaces.Box(-1, 1, (1,))

    def sample_tasks(self, num_tasks: int) -> list[dict[str, float]]:
        return [{} for _ in range(num_tasks)]

    def set_tasks(self, tasks: list[dict[str, float]]) -> None:
        pass


def test_a_vector_environment_that_resets_by_itself_is_not_used(caplog) -> None:
    caplog.set_level("INFO", logger="maml_rl")
    gym.register(
        id="NextStep-v0",
        entry_point="gymnasium.envs.classic_control:CartPoleEnv",
        vector_entry_point=NextStepVectorEnv,
    )
    try:
        env = make_task_vector_env(EnvConfig(name="NextStep-v0"), 2, 5)
        assert isinstance(env, GymTaskVectorEnv)
        assert "its autoreset_mode is AutoresetMode.NEXT_STEP" in caplog.text
        env.close()
        make_task_vector_env(
            EnvConfig(name="NextStep-v0", kwargs={"sutton_barto_reward": True}), 2, 5
        )
        assert "NextStep-v0 is not used, copies of the single one are: " in caplog.text
        assert "unexpected keyword argument 'sutton_barto_reward'" in caplog.text
    finally:
        gym.registry.pop("NextStep-v0")


class DictVectorEnv(NextStepVectorEnv):
    """Has tasks, but observations that are not arrays."""

    def __init__(self, num_envs: int, max_episode_steps: int) -> None:
        super().__init__(num_envs, max_episode_steps)
        self.metadata = {"autoreset_mode": gym.vector.AutoresetMode.DISABLED}
        self.single_observation_space = spaces.Dict(x=spaces.Box(-1, 1, (1,)))


def test_a_vector_environment_without_arrays_is_not_used(caplog) -> None:
    """The single environment's observations are flattened."""
    caplog.set_level("INFO", logger="maml_rl")
    gym.register(id="Dict-v0", entry_point=Countdown, vector_entry_point=DictVectorEnv)
    try:
        env = make_task_vector_env(EnvConfig(name="Dict-v0"), 2, 5)
        assert isinstance(env, GymTaskVectorEnv)
        assert "not a Box with an axis" in caplog.text
        env.close()
    finally:
        gym.registry.pop("Dict-v0")


@pytest.mark.parametrize(("name", "num_envs"), [("TestPlain-v0", 3), ("HalfCheetahVel", 60)])
def test_copies_of_an_environment_are_one_per_task(name: str, num_envs: int) -> None:
    """Those of a batch engine, which steps them together, are one per episode."""
    env = make_task_vector_env(EnvConfig(name=name), 60, 5, num_tasks=3)
    assert env.num_envs == num_envs
    env.close()


@pytest.mark.slow
@pytest.mark.parametrize("vectorization", ["sync", pytest.param("async", marks=pytest.mark.slow)])
def test_copies_are_announced_before_they_are_made(vectorization, caplog) -> None:
    caplog.set_level("INFO", logger="maml_rl")
    make_task_vector_env(EnvConfig(name="TestPlain-v0", vectorization=vectorization), 3, 5).close()
    where = {"sync": "in this process", "async": "in worker processes"}[vectorization]
    assert f"making 3 copies of environment 'TestPlain-v0' {where}" in caplog.text
