"""The policy that users hold: predict, adapt, save, load."""

from __future__ import annotations

import importlib
import json
import re
import shutil
import types
from pathlib import Path

import gymnasium as gym
import maml_envs
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from safetensors.torch import load_file, save_file

import maml_rl
from maml_rl.agents.agent import Agent
from maml_rl.errors import UserError

GOAL = {"goal_x": 0.4, "goal_y": -0.3}
ENV_ID = maml_envs.env_id("PointNavigation")


def make_run(output: Path, **settings) -> Path:
    values = {
        "env": {"name": "PointNavigation"},
        "device": "cpu",
        "num_iterations": 1,
        "meta_batch_size": 2,
        "num_episodes": 4,
        "horizon": 6,
        "policy": {"hidden_sizes": [8], "normalize_observations": True},
        "logging": {"final_evaluation": False, "final_video": False},
    }
    return maml_rl.train(maml_rl.load_config(**values | settings, output=str(output)))


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return make_run(tmp_path_factory.mktemp("policy") / "run")


@pytest.fixture(scope="module")
def policy(run) -> Agent:
    return maml_rl.load(run)


@pytest.fixture(scope="module")
def cartpole(tmp_path_factory) -> Agent:
    # Long enough that poles fall: while every one stands, the reward is constant.
    folder = tmp_path_factory.mktemp("discrete") / "run"
    return maml_rl.load(make_run(folder, env={"name": "CartPole-v1"}, horizon=60))


def equal(a: Agent, b: Agent) -> bool:
    return all(torch.equal(value, b.theta[name]) for name, value in a.theta.items())


def changed(a: Agent, b: Agent) -> bool:
    return all(value.isfinite().all() for value in b.theta.values()) and not equal(a, b)


# --- predict ---


def test_one_observation_gives_one_action(policy):
    action, state = policy.predict(np.zeros(2), state="kept", deterministic=True)
    assert action.shape == (2,)
    assert state == "kept"
    assert action.dtype == policy.action_space.dtype
    assert policy.action_space.contains(action)


def test_many_observations_give_an_action_each(policy):
    observations = np.random.default_rng(0).normal(size=(5, 2))
    actions, _ = policy.predict(observations, deterministic=True)
    assert actions.shape == (5, 2)
    for observation, action in zip(observations, actions, strict=True):
        np.testing.assert_allclose(
            policy.predict(observation, deterministic=True)[0], action, rtol=1e-5, atol=1e-7
        )
    assert policy.predict(observations[:0], deterministic=True)[0].shape == (0, 2)


def test_discrete_actions(cartpole):
    observations = np.random.default_rng(0).normal(size=(50, 4))
    action, _ = cartpole.predict(observations[0], deterministic=True)
    assert cartpole.action_space.contains(action)
    actions, _ = cartpole.predict(observations)
    assert actions.shape == (50,)
    assert set(actions.tolist()) == {0, 1}
    env = gym.make("CartPole-v1")
    env.reset(seed=0)
    env.step(action)
    env.close()


def test_deterministic_actions_repeat_and_sampled_ones_do_not(policy):
    observations = np.tile([0.3, -0.1], (20, 1))
    first, again = (policy.predict(observations, deterministic=True)[0] for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert (first == first[0]).all()
    sampled = [policy.predict(observations)[0] for _ in range(2)]
    assert not np.array_equal(*sampled)
    seeded = [policy.predict(observations, rng=np.random.default_rng(3))[0] for _ in range(2)]
    np.testing.assert_array_equal(*seeded)


def test_sampled_actions_stay_in_the_action_space(policy):
    observations = 100 * np.random.default_rng(0).normal(size=(500, 2))
    actions, _ = policy.predict(observations)
    assert all(policy.action_space.contains(action) for action in actions)
    assert actions.std() > 0


def test_predict_normalizes(policy):
    assert policy.normalizer is not None
    shifted = policy.normalizer._replace(mean=policy.normalizer.mean + 1)
    other = maml_rl.Agent(**{**vars(policy), "normalizer": shifted})
    observation = np.array([0.3, -0.1])
    assert not np.array_equal(
        policy.predict(observation, deterministic=True)[0],
        other.predict(observation, deterministic=True)[0],
    )


@pytest.mark.parametrize("shape", [(3,), (1,), (), (4, 3), (2, 2, 2), (0,)])
def test_an_observation_of_another_size_is_refused(policy, shape):
    with pytest.raises(UserError, match=r"\(2,\)"):
        policy.predict(np.zeros(shape))


def test_an_observation_that_is_not_finite_is_refused(policy):
    with pytest.raises(UserError, match=r"not finite.*nan"):
        policy.predict(np.array([[0.0, 0.0], [np.nan, 0.0]]))


def test_the_package_lists_its_names():
    assert dir(maml_rl) == sorted(maml_rl.__all__)


def test_training_takes_a_configuration():
    with pytest.raises(UserError, match="load_config"):
        maml_rl.train({"env": "PointNavigation"})


@pytest.mark.parametrize(
    "observation", [{"a": np.zeros(2)}, (np.zeros(1), np.zeros(1))], ids=["dict", "tuple"]
)
def test_an_observation_that_is_not_flattened_is_refused(policy, observation):
    with pytest.raises(UserError, match=r"gymnasium\.spaces\.flatten"):
        policy.predict(observation)


def test_predict_leaves_global_generators_alone(policy):
    before = torch.get_rng_state(), np.random.get_state()[1]  # noqa: NPY002
    policy.predict(np.zeros((3, 2)))
    assert torch.equal(torch.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002


# --- adapt ---


def single_env() -> gym.Env:
    return gym.make(ENV_ID, max_episode_steps=6)


def test_adapting_gives_another_policy_and_leaves_this_one(policy):
    theta = {name: value.clone() for name, value in policy.theta.items()}
    adapted = policy.adapt(task=GOAL)
    assert changed(policy, adapted)
    assert all(torch.equal(policy.theta[name], value) for name, value in theta.items())
    assert (policy.num_adaptation_steps, adapted.num_adaptation_steps) == (0, 1)
    assert adapted.adapt(task=GOAL, num_steps=2).num_adaptation_steps == 3


def test_adapting_is_a_function_of_task_and_seed(policy):
    adapted = policy.adapt(task=GOAL, seed=1)
    assert equal(adapted, policy.adapt(task=GOAL, seed=1))
    assert not equal(adapted, policy.adapt(task=GOAL, seed=2))
    assert not equal(adapted, policy.adapt(task={"goal_x": -0.4, "goal_y": 0.3}, seed=1))


def test_no_steps_change_nothing(policy):
    assert equal(policy, policy.adapt(task=GOAL, num_steps=0))


def test_two_steps_differ_from_one(policy):
    assert not equal(policy.adapt(task=GOAL, num_steps=1), policy.adapt(task=GOAL, num_steps=2))


def test_adapting_helps(policy):
    """At least 7 of 8 distant goals are reached better after a step on many episodes."""
    better = 0
    for angle in np.linspace(0, 2 * np.pi, 8, endpoint=False):
        task = {"goal_x": 0.5 * float(np.cos(angle)), "goal_y": 0.5 * float(np.sin(angle))}
        goal = np.array(list(task.values()))
        adapted = policy.adapt(task=task, num_episodes=100)
        before, after = (
            p.predict(np.zeros(2), deterministic=True)[0] @ goal for p in (policy, adapted)
        )
        better += after > before
    assert better >= 7


def test_every_way_to_name_the_environment_gives_the_same(policy):
    """With the same task and seed, a family, its id, an environment and a batch adapt alike."""
    expected = policy.adapt(task=GOAL)
    assert equal(expected, policy.adapt("PointNavigation", task=GOAL))
    assert equal(expected, policy.adapt(ENV_ID, task=GOAL))
    single, batch = single_env(), gym.make_vec(ENV_ID, num_envs=4, max_episode_steps=6)
    assert equal(expected, policy.adapt(batch, task=GOAL))
    for name, value in policy.adapt(single, task=GOAL).theta.items():
        torch.testing.assert_close(value, expected.theta[name], rtol=1e-4, atol=1e-5)
    for env in (single, batch):
        env.reset(seed=0)  # still open
        env.step(env.action_space.sample())
        env.close()


def test_adapting_to_the_task_that_an_environment_has(policy):
    env = single_env()
    env.unwrapped.set_task(GOAL)
    assert changed(policy, policy.adapt(env))
    assert env.unwrapped.task == GOAL
    assert equal(policy.adapt(env, num_episodes=2), policy.adapt(env, task=GOAL, num_episodes=2))
    env.close()


def test_adapting_on_a_batch_of_gymnasiums(policy):
    def make() -> gym.Env:
        env = single_env()
        env.unwrapped.set_task(GOAL)
        return env

    envs = SyncVectorEnv([make] * 2, autoreset_mode=AutoresetMode.DISABLED)
    adapted = policy.adapt(envs, num_episodes=4)
    for name, value in policy.adapt(task=GOAL).theta.items():
        torch.testing.assert_close(adapted.theta[name], value, rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match="takes no tasks"):
        policy.adapt(envs, task=GOAL)
    with pytest.raises(UserError, match="equal rounds"):
        policy.adapt(envs, num_episodes=3)
    envs.reset(seed=0)
    envs.close()


def test_a_batch_that_resets_by_itself_is_refused(policy):
    envs = SyncVectorEnv([single_env] * 2)
    with pytest.raises(UserError, match="DISABLED"):
        policy.adapt(envs)
    envs.close()


def test_an_environment_with_other_spaces_is_refused_with_both(policy):
    for env in ("Pendulum-v1", "CartPole-v1"):
        with pytest.raises(UserError) as refused:
            policy.adapt(env)
        message = str(refused.value)
        for space in (policy.observation_space, policy.action_space):
            assert str(space) in message
        other = gym.make(env)
        for space in (other.observation_space, other.action_space):
            assert str(space) in message
        other.close()


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_episodes": 0},
        {"num_episodes": -1},
        {"num_steps": -1},
        {"num_steps": 1.5},
        {"num_episodes": True},
        {"env": "PointNavigaton"},
    ],
    ids=str,
)
def test_bad_arguments_are_refused(policy, arguments):
    name, value = next(iter(arguments.items()))
    with pytest.raises(UserError, match=f"(?s){'' if name == 'env' else name}.*{value}"):
        policy.adapt(**arguments)


@pytest.mark.parametrize(
    "settings",
    [
        {"inner": {"adapts": "context"}, "policy": {"hidden_sizes": [8], "context_size": 3}},
        {"inner": {"learned_step_size": "scalar"}, "policy": {"hidden_sizes": [8]}},
        {
            "inner": {"adapts": "head", "test_step_sizes": [0.3, 0.1]},
            "policy": {"hidden_sizes": [8]},
        },
    ],
    ids=["context", "learned", "head"],
)
def test_every_kind_of_adapted_policy_is_saved_and_adapts_on(settings, tmp_path):
    config = maml_rl.load_config(
        env="PointNavigation",
        device="cpu",
        num_iterations=1,
        meta_batch_size=2,
        num_episodes=4,
        horizon=8,
        logging={"final_evaluation": False, "final_video": False},
        output=str(tmp_path / "run"),
        **settings,
    )
    policy = maml_rl.load(maml_rl.train(config))
    adapted = policy.adapt(task=GOAL, num_steps=2, seed=3)
    once = policy.adapt(task=GOAL, num_steps=1, seed=3)
    loaded = maml_rl.load(once.save(tmp_path / "adapted"))
    observation = np.array([0.1, -0.2])
    action = adapted.predict(observation, deterministic=True)[0]
    assert not np.array_equal(action, policy.predict(observation, deterministic=True)[0])
    np.testing.assert_array_equal(
        loaded.predict(observation, deterministic=True)[0],
        once.predict(observation, deterministic=True)[0],
    )
    again = loaded.adapt(task=GOAL, num_steps=1, seed=3)  # its second step
    np.testing.assert_allclose(again.predict(observation, deterministic=True)[0], action, atol=1e-6)


@pytest.mark.parametrize(
    "task", [{"goal": 1.0}, {"goal_x": float("nan"), "goal_y": 0.0}, {"goal_x": 0.0}]
)
def test_a_task_of_another_family_is_refused(policy, task):
    with pytest.raises(ValueError, match="goal_x"):
        policy.adapt(task=task)


def test_arguments_of_the_family_stay_when_it_is_named_by_its_id(tmp_path):
    """A tolerance that ends every episode at once changes adaptation, with any name."""
    env = {"name": "PointNavigation", "goal_tolerance": 50.0}
    policy = maml_rl.load(make_run(tmp_path / "run", env=env))
    expected = policy.adapt(task=GOAL)
    assert equal(expected, policy.adapt("PointNavigation", task=GOAL))
    assert equal(expected, policy.adapt(ENV_ID, task=GOAL))


def test_discrete_policies_adapt(cartpole):
    assert changed(cartpole, cartpole.adapt())


# --- save and load ---


def test_saved_and_loaded_is_equal(policy, tmp_path):
    adapted = policy.adapt(task=GOAL)
    folder = adapted.save(tmp_path / "adapted")
    loaded = maml_rl.load(folder)
    assert equal(loaded, adapted)
    assert list(loaded.theta) == list(adapted.theta)
    assert loaded.config == adapted.config
    assert loaded.num_adaptation_steps == 1
    assert loaded.observation_space == adapted.observation_space
    assert loaded.action_space == adapted.action_space
    assert loaded.normalizer is not None
    for a, b in zip(loaded.normalizer, adapted.normalizer, strict=True):
        assert torch.equal(a, b)
    observations = np.random.default_rng(0).normal(size=(5, 2))
    np.testing.assert_array_equal(
        loaded.predict(observations, deterministic=True)[0],
        adapted.predict(observations, deterministic=True)[0],
    )
    assert equal(loaded.adapt(task=GOAL), adapted.adapt(task=GOAL))


def test_saving_over_something_is_refused(policy, tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(UserError, match="not empty"):
        policy.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_load_takes_a_string_or_a_path(run):
    assert equal(maml_rl.load(run), maml_rl.load(str(run)))


@pytest.mark.parametrize("device", ["cuda:99", "gpu"])
def test_a_device_that_is_not_there_is_refused(run, device):
    with pytest.raises(UserError, match=device):
        maml_rl.load(run, device=device)


def test_a_policy_of_another_shape_is_refused(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    config = copy / "config.yaml"
    config.write_text(config.read_text().replace("- 8", "- 9"))
    with pytest.raises(UserError, match="do not fit"):
        maml_rl.load(copy)


@pytest.mark.parametrize(
    "damage", ["tensor missing", "tensor too many", "other size", "all missing"]
)
def test_a_damaged_normalizer_is_refused(run, tmp_path, damage):
    copy = shutil.copytree(run, tmp_path / "copy")
    (path,) = copy.rglob("tensors.safetensors")
    tensors = load_file(path)
    if damage == "tensor missing":
        del tensors["normalizer/mean"]
    elif damage == "tensor too many":
        tensors["normalizer/median"] = torch.zeros(2)
    elif damage == "other size":
        tensors["normalizer/mean"] = torch.zeros(3)
    else:
        tensors = {name: value for name, value in tensors.items() if name.startswith("theta")}
    save_file(tensors, path)
    with pytest.raises(UserError):
        maml_rl.load(copy).predict(np.zeros(2))


def test_counters_are_in_the_saved_values(policy, tmp_path):
    folder = policy.adapt(task=GOAL, num_steps=2).save(tmp_path / "adapted")
    (values,) = folder.rglob("values.json")
    assert json.loads(values.read_text())["num_adaptation_steps"] == 2


def test_adapting_twice_equals_adapting_by_two_steps(policy):
    task = {"goal_x": 0.3, "goal_y": -0.2}
    twice = policy.adapt(task=task, num_steps=1).adapt(task=task, num_steps=1)
    at_once = policy.adapt(task=task, num_steps=2)
    assert twice.num_adaptation_steps == at_once.num_adaptation_steps == 2
    for name, value in at_once.theta.items():
        assert torch.equal(value, twice.theta[name]), name


def test_a_task_in_place_of_an_environment_is_refused(policy):
    with pytest.raises(UserError, match="task="):
        policy.adapt({"goal_x": 0.3, "goal_y": -0.2})


def test_it_shows_itself_without_its_numbers(policy):
    assert len(repr(policy)) < 200
    assert "PointNavigation" in repr(policy)


def test_the_commands_modules_do_not_hide_the_functions(policy):
    for name in ("train", "evaluate", "record"):
        importlib.import_module(f"maml_rl.{name}")
        assert isinstance(getattr(maml_rl, name), types.FunctionType)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda policy: maml_rl.load(None), "a run must be a folder"),
        (lambda policy: policy.adapt(gym.Env), "expected an environment id"),
        (
            lambda policy: policy.adapt(seed="a"),
            "seed must be an integer of at least 0, got 'a'",
        ),
        (
            lambda policy: policy.adapt(num_episodes=0),
            "num_episodes must be an integer of at least 1, got 0",
        ),
        (
            lambda policy: policy.to_sb3(num_envs=2.5),
            "num_envs must be an integer of at least 1, got 2.5",
        ),
        (lambda policy: maml_rl.evaluate(policy, num_tasks=0), "num_tasks must be"),
        (lambda policy: maml_rl.evaluate(policy, num_steps=True), "num_steps must be"),
        (lambda policy: maml_rl.evaluate("PointNavigation"), "evaluate takes a policy"),
        (lambda policy: maml_rl.record("PointNavigation", "x.mp4"), "record takes a policy"),
        (lambda policy: maml_rl.record(policy, "x.mp4", seed=-1), "seed must be"),
    ],
)
def test_invalid_arguments_are_refused(call, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=re.escape(message)):
        call(maml_rl.load("PointNavigation"))
    assert list(tmp_path.iterdir()) == []
