"""TaskVecEnv against Stable-Baselines3's DummyVecEnv, PPO on one task, and model conversion."""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import maml_envs  # noqa: F401
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.wrappers import RescaleAction
from helpers.synthetic_policies import KINDS, make_agent, observations_of
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize

import maml_rl
from maml_rl.agents import sb3_env
from maml_rl.agents.from_scratch import PPOSettings, _mean_return, ppo_learning_curve
from maml_rl.agents.sb3_env import TaskVecEnv
from maml_rl.errors import UserError
from maml_rl.sampling.environments import make_task_vector_env
from maml_rl.settings.env import EnvConfig

NUM_ENVS = 5


class Walk(gym.Env):
    """An episode has ``length`` steps, the task; a number drawn at reset is in the observation."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Discrete(3)
    length = 1

    def sample_tasks(self, num_tasks: int) -> list[dict[str, int]]:
        return [{"length": int(length)} for length in self.np_random.integers(1, 6, num_tasks)]

    def set_task(self, task: dict[str, int]) -> None:
        self.length = task["length"]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.count = 0
        self.number = self.np_random.random()
        return np.array([0, self.number], np.float32), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.count += 1
        observation = np.array([self.count, self.number], np.float32)
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


def make(
    name: str, horizon: int, normalize_actions: bool = False, num_envs: int = NUM_ENVS
) -> TaskVecEnv:
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
        ("HopperVel", 40, False),  # falls before the horizon
        ("HalfCheetahDir", 6, True),
        # In Gymnasium's vector environment; some episodes terminate, some are truncated.
        ("TestWalk-v0", 4, False),
    ],
)
def test_every_step_equals_stable_baselines3s_own(
    name: str, horizon: int, normalize_actions: bool
) -> None:
    ours, theirs = (
        make(name, horizon, normalize_actions),
        make_dummy(name, horizon, normalize_actions),
    )
    assert ours.action_space == theirs.action_space
    assert ours.observation_space == theirs.observation_space
    assert ours.seed(7) == theirs.seed(7)
    np.testing.assert_array_equal(ours.reset(), theirs.reset())
    # Scaling rounds in its own order of operations.
    close = functools.partial(
        np.testing.assert_allclose, rtol=0, atol=1e-6 if normalize_actions else 0
    )
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
    np.testing.assert_array_equal(
        observation, second.step(np.full((NUM_ENVS, 2), 0.1, np.float32))[0]
    )
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
    """Three sub-environments that count; the second fails with NaN at its third step."""

    num_envs = 3
    single_observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float64)
    single_action_space = spaces.Discrete(2)
    np_random = np.random.default_rng(0)

    def __init__(self, unstable: bool = True, terminates: bool = False) -> None:
        self.says_unstable, self.terminates = unstable, terminates

    def sample_tasks(self, num_tasks: int) -> list[dict[str, float]]:
        return [{}] * num_tasks

    def set_tasks(self, tasks: Any) -> None:
        pass

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        mask = (options or {}).get("reset_mask", np.ones(3, bool))
        self.count = np.where(mask, 0, self.count) if options else np.zeros(3)
        return self.count[:, None].copy(), {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        self.count = self.count + 1
        broken = np.array([False, self.count[1] == 3, False])
        observation = np.where(broken, np.nan, self.count)[:, None]
        info = {"unstable": broken} if self.says_unstable else {}
        return (
            observation,
            np.where(broken, np.inf, 1.0),
            broken & self.terminates,
            broken & self.says_unstable,
            info,
        )

    def close(self) -> None:
        pass


@pytest.mark.parametrize("terminates", [False, True])
def test_an_episode_that_fails_is_truncated_before_that_step(terminates: bool) -> None:
    env = TaskVecEnv(Breaking(terminates=terminates))
    env.reset()
    for _ in range(2):
        assert not env.step(np.zeros(3, int))[2].any()
    observation, reward, ended, infos = env.step(np.zeros(3, int))
    np.testing.assert_array_equal(observation[:, 0], [3, 0, 3])
    np.testing.assert_array_equal(reward, [1, 0, 1])
    np.testing.assert_array_equal(ended, [False, True, False])
    assert infos[0] == infos[2] == {}
    assert infos[1]["TimeLimit.truncated"] is True
    assert infos[1]["unstable"]
    np.testing.assert_array_equal(infos[1]["terminal_observation"], [2])
    np.testing.assert_array_equal(env.step(np.zeros(3, int))[0][:, 0], [4, 1, 4])


def test_a_non_finite_value_stops_where_it_enters() -> None:
    env = TaskVecEnv(Breaking(unstable=False))
    env.reset()
    env.step(np.zeros(3, int))
    env.step(np.zeros(3, int))
    with pytest.raises(FloatingPointError, match="observation of sub-environment 1 is not finite"):
        env.step(np.zeros(3, int))


class Still:
    """A model whose action is always 0."""

    def predict(self, observation: np.ndarray) -> tuple[np.ndarray, None]:
        return np.zeros(len(observation), int), None


def test_the_mean_return_is_of_one_episode_of_each_sub_environment() -> None:
    env = make_task_vector_env(EnvConfig(name="TestWalk-v0"), 4, 10)
    lengths = np.array([1, 5, 2, 4])
    env.set_tasks([{"length": int(length)} for length in lengths])
    expected = (lengths * (lengths + 1) / 2).mean()  # rewards 1, 2, 3, ...
    assert _mean_return(Still(), TaskVecEnv(env), seed=0) == pytest.approx(expected)
    env.close()


def test_an_episode_that_became_unstable_has_no_return() -> None:
    class Ends(Breaking):
        """Episodes of five steps with rewards of 1; that of the second fails in step 3."""

        def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
            observation, reward, terminated, truncated, info = super().step(actions)
            return observation, reward, terminated | (self.count == 5), truncated, info

    assert _mean_return(Still(), TaskVecEnv(Ends()), seed=0) == 5


curve_of = functools.partial(ppo_learning_curve, EnvConfig(name="PointNavigation"))
GOAL = {"goal_x": 0.3, "goal_y": -0.4}
QUICK = PPOSettings(num_envs=8, n_steps=32, learning_rate=3e-3, n_epochs=5, gamma=0.9)


@pytest.mark.slow
def test_ppo_learns_to_reach_a_goal() -> None:
    reported: list[int] = []
    curve = curve_of(
        GOAL,
        20,
        num_env_steps=4000,
        seed=0,
        settings=QUICK,
        num_points=4,
        num_episodes=30,
        progress=reported.append,
    )
    # To stand still returns −20 · 0.5 = −10; at full speed the goal is five steps away.
    assert curve.returns[0] < -9
    assert curve.returns[-1] > -4
    assert curve.num_env_steps == [0, 1024, 2048, 3072, 4096]
    assert reported == [256] * 16


@pytest.mark.slow
def test_the_seed_says_everything_and_the_global_generators_stay() -> None:
    def run(seed: int) -> list[float]:
        return curve_of(
            GOAL, 5, num_env_steps=300, seed=seed, settings=QUICK, num_points=1, num_episodes=4
        ).returns

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


@pytest.mark.slow
def test_points_that_lie_within_one_update_are_one() -> None:
    curve = curve_of(
        GOAL, 5, num_env_steps=600, seed=0, settings=QUICK, num_points=6, num_episodes=2
    )
    assert curve.num_env_steps == [0, 256, 512, 768]
    assert len(curve.returns) == 4
    assert (QUICK.whole_updates(600), QUICK.whole_updates(512)) == (768, 512)


def test_unbounded_actions_are_refused() -> None:
    class Unbounded(Walk):
        action_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)

    gym.register(id="TestUnbounded-v0", entry_point=Unbounded)
    try:
        with pytest.raises(UserError, match="bounded"):
            ppo_learning_curve(
                EnvConfig(name="TestUnbounded-v0"), {"length": 3}, 5, num_env_steps=1, seed=0
            )
    finally:
        del gym.registry["TestUnbounded-v0"]


# --- policies out and in ---


class Blank(gym.Env):
    """An environment with the spaces of a policy, without dynamics."""

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space) -> None:
        self.observation_space, self.action_space = observation_space, action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self.np_random.normal(size=self.observation_space.shape), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return (
            self.np_random.normal(size=self.observation_space.shape),
            1.0,
            False,
            self.np_random.random() < 0.1,
            {},
        )


def blank(kind: str) -> Blank:
    agent = make_agent(kind)
    return Blank(agent.observation_space, agent.action_space)


def parameters_of(model: Any, observations: np.ndarray) -> list[np.ndarray]:
    """Mean and standard deviation of the actor's distribution, or its logits."""
    inner = model.policy.get_distribution(torch.from_numpy(observations)).distribution
    values = [inner.logits] if hasattr(inner, "logits") else [inner.mean, inner.stddev]
    return [value.detach().numpy() for value in values]


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["PPO", A2C], ids=["PPO", "A2C"])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "unbounded"])
def test_the_actor_has_the_policys_distribution(kind: str, algorithm: Any) -> None:
    agent = make_agent(kind)
    observations = observations_of(agent)
    model = agent.to_sb3(blank(kind), algorithm)
    expected = agent.module(with_distribution=True)(torch.from_numpy(observations))
    actual = parameters_of(model, observations)
    if isinstance(agent.action_space, spaces.Discrete):
        expected = [expected.log_softmax(-1)]
    for value, expected_value in zip(actual, expected, strict=True):
        np.testing.assert_allclose(value, expected_value.detach(), rtol=1e-4, atol=1e-5)
    actions, _ = model.predict(observations, deterministic=True)
    np.testing.assert_allclose(
        actions, agent.predict(observations, deterministic=True)[0], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("kind", ["plain", "discrete"])
def test_the_model_learns_is_evaluated_and_survives_a_file(kind: str, tmp_path: Path) -> None:
    model = make_agent(kind).to_sb3(blank(kind), n_steps=16, batch_size=8, seed=0)
    observations = observations_of(make_agent(kind))
    before = parameters_of(model, observations)[0]
    model.learn(32)
    after = parameters_of(model, observations)[0]
    assert not np.array_equal(before, after)
    assert np.isfinite(evaluate_policy(model, Monitor(blank(kind)), n_eval_episodes=2)[0])
    model.save(tmp_path / "model")
    np.testing.assert_array_equal(
        parameters_of(PPO.load(tmp_path / "model", device="cpu"), observations)[0], after
    )


@pytest.mark.slow
def test_an_adapted_policy_starts_where_it_stands_on_its_own_environment() -> None:
    task = {"goal_x": 0.4, "goal_y": -0.3}
    agent = maml_rl.load("PointNavigation")
    adapted = agent.adapt(task=task)
    for env in (None, "PointNavigation"):
        model = adapted.to_sb3(env, task=task, num_envs=4, n_steps=8, batch_size=8)
        assert model.n_envs == 4
        mean, _ = evaluate_policy(model, model.get_env(), n_eval_episodes=4)
        assert mean > evaluate_policy(agent, model.get_env(), n_eval_episodes=4)[0]  # type: ignore[arg-type]
    model.learn(32)
    assert len(model.ep_info_buffer) == 0  # an episode has 100 steps
    batch = make("PointNavigation", 5)
    assert adapted.to_sb3(batch, "A2C").get_env() is batch


def test_an_invalid_task_is_refused_and_the_new_environment_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    env: Any = make_task_vector_env(EnvConfig(name="PointNavigation"), 2, 5)
    monkeypatch.setattr(sb3_env, "make_task_vector_env", lambda *args: env)
    with pytest.raises(UserError, match="a task of PointNavigation must be a mapping"):
        maml_rl.load("PointNavigation").to_sb3(task={"goal": 1.0}, num_envs=2)
    assert env.closed


def test_an_invalid_setting_is_refused_and_only_a_new_environment_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    env: Any = make_task_vector_env(EnvConfig(name="PointNavigation"), 1, 5)
    given = make("PointNavigation", 5)
    monkeypatch.setattr(sb3_env, "make_task_vector_env", lambda *args: env)
    agent = maml_rl.load("PointNavigation")
    for one in (None, given):
        with pytest.raises(UserError, match="Did you mean 'learning_rate'"):
            agent.to_sb3(one, learning_rates=1e-3)
    assert env.closed
    given.reset()  # it is still open
    given.step(np.zeros((given.num_envs, 2), np.float32))


def test_ppo_refuses_an_invalid_task() -> None:
    with pytest.raises(UserError, match="a task of PointNavigation must be a mapping"):
        curve_of({"goal": 1.0}, 5, num_env_steps=300, seed=0, settings=QUICK)


def test_tasks_are_drawn_where_none_is_given() -> None:
    agent = maml_rl.load("PointNavigation")
    tasks = [
        agent.to_sb3(num_envs=3, seed=seed).get_env().get_attr("tasks", 0)[0] for seed in (0, 0, 1)
    ]
    assert tasks[0] == tasks[1] != tasks[2]
    assert len({task["goal_x"] for task in tasks[0]}) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"algorithm": DQN}, "DQN is not supported"),
        ({"algorithm": "SAC"}, "SAC is not supported"),
        ({"env": "CartPole-v1"}, "Discrete"),
        ({"env": "HalfCheetahDri"}, "HalfCheetahDri"),
        ({"env": 3}, "VecEnv"),
        ({"num_envs": 0}, "num_envs"),
        ({"policy_kwargs": {}}, "policy_kwargs"),
        ({"use_sde": True}, "use_sde"),
        ({"n_steps": "x"}, "PPO refuses the settings .*'n_steps': 'x'.*TypeError"),
        ({"learning_rate": -1}, "PPO refuses the settings .*ValueError"),
        ({"_init_setup_model": False}, "PPO has no setting '_init_setup_model'"),
        ({"learning_rates": 1e-3}, "'learning_rates'. Did you mean 'learning_rate'.*n_steps"),
    ],
    ids=str,
)
def test_what_cannot_become_a_model_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        maml_rl.load("PointNavigation").to_sb3(**arguments)


def test_bounds_and_arguments_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match="need bounded actions"):
        make_agent("unbounded").to_sb3(blank("unbounded"))
    agent = maml_rl.load("PointNavigation")
    with pytest.raises(UserError, match=r"-1\.0, 1\.0.*-0\.1, 0\.1"):
        agent.to_sb3(make("PointNavigation", 5, normalize_actions=True))
    with pytest.raises(UserError, match="leave them out"):
        agent.to_sb3(make("PointNavigation", 5), num_envs=2)
    with pytest.raises(UserError, match="TaskVecEnv"):
        agent.to_sb3(make("PointNavigation", 5).env)  # type: ignore[arg-type]


def test_an_environment_that_normalises_observations_is_refused() -> None:
    """The actor reads raw observations: its first layer normalises them."""
    agent = maml_rl.load("PointNavigation")
    point = gym.make("maml_rl/PointNavigation-v0")
    with pytest.raises(UserError, match="env normalises observations"):
        agent.to_sb3(VecNormalize(DummyVecEnv([lambda: point])))
    with pytest.raises(UserError, match="env normalises observations"):
        agent.to_sb3(gym.wrappers.ClipAction(gym.wrappers.NormalizeObservation(point)))
    with pytest.raises(UserError, match="env normalises observations"):
        agent.to_sb3(DummyVecEnv([lambda: gym.wrappers.NormalizeObservation(point)]))
    agent.to_sb3(VecNormalize(DummyVecEnv([lambda: point]), norm_obs=False))


@pytest.mark.parametrize("seed", [-1, "x"])
def test_a_wrong_seed_is_refused(seed: Any) -> None:
    with pytest.raises(UserError, match="seed must be an integer of at least 0"):
        maml_rl.load("PointNavigation").to_sb3(seed=seed)


@pytest.mark.parametrize("model_class", [PPO, A2C])
@pytest.mark.parametrize("name", ["PointNavigation", "CartPole-v1"])
def test_a_model_becomes_a_policy_that_a_run_starts_from(
    name: str, model_class: Any, tmp_path: Path
) -> None:
    env_id = f"maml_rl/{name}-v0" if name == "PointNavigation" else name
    kwargs = {
        "net_arch": {"pi": [7], "vf": [9, 5]},
        "activation_fn": torch.nn.SiLU,
        "log_std_init": -1.5,
    }
    model = model_class("MlpPolicy", env_id, policy_kwargs=kwargs, seed=0, device="cpu")
    agent = maml_rl.from_sb3(
        model, name, policy={"normalize_observations": True}, inner={"step_size": 0.3}
    )
    assert agent.config.policy.hidden_sizes == (7,)
    assert agent.config.inner.step_size == 0.3
    observations = (
        np.random.default_rng(0).normal(size=(5, *agent.observation_space.shape)).astype(np.float32)
    )
    expected = parameters_of(model, observations)
    actual = agent.module(with_distribution=True)(torch.from_numpy(observations))
    actual = [actual.log_softmax(-1)] if isinstance(agent.action_space, spaces.Discrete) else actual
    for value, expected_value in zip(actual, expected, strict=True):
        np.testing.assert_allclose(value.detach(), expected_value, rtol=1e-4, atol=1e-6)
    back = parameters_of(agent.to_sb3(), observations)
    np.testing.assert_allclose(back[0], expected[0], rtol=1e-4, atol=1e-6)
    agent.save(tmp_path / "start")
    sizes = {"num_iterations": 1, "meta_batch_size": 2, "num_episodes": 2, "horizon": 5}
    outer = {"fisher_state_stride": 5}
    off = {"final_evaluation": False, "final_video": False}
    settings = {"hidden_sizes": [7], "nonlinearity": "silu", "normalize_observations": True}
    config = maml_rl.load_config(
        env=name,
        policy=settings,
        init_from=str(tmp_path / "start"),
        output=str(tmp_path / "run"),
        outer=outer,
        logging=off,
        **sizes,
    )
    trained = maml_rl.load(maml_rl.train(config))
    change = trained.belief["weight_0"] - agent.belief["weight_0"]
    assert float(change.abs().max()) < 0.3


def test_models_that_do_not_fit_are_refused() -> None:
    def model(**kwargs: Any) -> PPO:
        return PPO(
            "MlpPolicy", kwargs.pop("env", "maml_rl/PointNavigation-v0"), device="cpu", **kwargs
        )

    normalized = VecNormalize(DummyVecEnv([lambda: gym.make("maml_rl/PointNavigation-v0")]))
    refused: list[tuple[Any, str, str]] = [
        (model(use_sde=True), "PointNavigation", "use_sde"),
        (model(policy_kwargs={"activation_fn": torch.nn.GELU}), "PointNavigation", "GELU"),
        (model(env=normalized), "PointNavigation", "VecNormalize"),
        (
            model(env=make("PointNavigation", 5, normalize_actions=True)),
            "PointNavigation",
            r"-1\.0, 1\.0",
        ),
        (model(policy_kwargs={"log_std_init": -30.0}), "PointNavigation", "too small"),
        (model(env="CartPole-v1"), "PointNavigation", "Discrete"),
        (DQN("MlpPolicy", "CartPole-v1"), "CartPole-v1", "not from DQN"),
        ("model.zip", "CartPole-v1", "not from str"),
    ]
    for candidate, env, message in refused:
        with pytest.raises(UserError, match=message):
            maml_rl.from_sb3(candidate, env)
    with pytest.raises(UserError, match=r"leave out policy\.hidden_sizes"):
        maml_rl.from_sb3(model(), "PointNavigation", policy={"hidden_sizes": [3]})
    with pytest.raises(UserError, match=r"^'policy\.nonlinearity' in the arguments: write a"):
        maml_rl.from_sb3(model(), "PointNavigation", **{"policy.nonlinearity": "relu"})
    with pytest.raises(UserError, match="policy in the arguments must be a mapping"):
        maml_rl.from_sb3(model(), "PointNavigation", policy="x")
    diverged = model()
    torch.nn.init.constant_(diverged.policy.action_net.weight, torch.nan)
    with pytest.raises(UserError, match=r"the model cannot be used: theta .* is not finite"):
        maml_rl.from_sb3(diverged, "PointNavigation")


def test_a_dict_environment_is_flattened_as_adapting_does(tmp_path):
    class Cart(gym.Env):
        observation_space = spaces.Dict(
            {"x": spaces.Box(-1.0, 1.0, (1,)), "v": spaces.Box(-1.0, 1.0, (1,))}
        )
        action_space = spaces.Box(-1.0, 1.0, (1,))

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return {"x": np.zeros(1, np.float32), "v": np.ones(1, np.float32)}, {}

        def step(self, action):
            return (
                {"x": np.zeros(1, np.float32), "v": np.ones(1, np.float32)},
                0.0,
                False,
                False,
                {},
            )

    gym.register("DictCart-v0", Cart)
    try:
        quiet = {"final_evaluation": False, "final_video": False}
        sizes = {"num_iterations": 1, "meta_batch_size": 1, "num_episodes": 2, "horizon": 3}
        config = maml_rl.load_config(
            env="DictCart-v0", output=str(tmp_path / "run"), logging=quiet, **sizes
        )
        agent = maml_rl.load(maml_rl.train(config))
        model = agent.to_sb3(gym.make("DictCart-v0", max_episode_steps=3), n_steps=4, batch_size=4)
        model.learn(8)
        assert model.predict(np.array([1.0, 0.0], np.float32))[0].shape == (1,)
    finally:
        gym.registry.pop("DictCart-v0")
