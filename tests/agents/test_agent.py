"""The agent that users hold: predict, adapt, save, load."""

from __future__ import annotations

import dataclasses
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
from helpers.runs import reseal
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
    return make_run(tmp_path_factory.mktemp("agent") / "run")


@pytest.fixture(scope="module")
def agent(run) -> Agent:
    return maml_rl.load(run)


@pytest.fixture(scope="module")
def cartpole(tmp_path_factory) -> Agent:
    # Long enough that poles fall: while every one stands, the reward is constant.
    folder = tmp_path_factory.mktemp("discrete") / "run"
    return maml_rl.load(make_run(folder, env={"name": "CartPole-v1"}, horizon=60))


def equal(a: Agent, b: Agent) -> bool:
    return all(torch.equal(value, b.belief[name]) for name, value in a.belief.items())


def changed(a: Agent, b: Agent) -> bool:
    return all(value.isfinite().all() for value in b.belief.values()) and not equal(a, b)


# --- predict ---


def test_one_observation_gives_one_action(agent):
    action, state = agent.predict(np.zeros(2), state=None, deterministic=True)
    assert action.shape == (2,)
    assert state is None
    assert action.dtype == agent.action_space.dtype
    assert agent.action_space.contains(action)


def test_many_observations_give_an_action_each(agent):
    observations = np.random.default_rng(0).normal(size=(5, 2))
    actions, _ = agent.predict(observations, deterministic=True)
    assert actions.shape == (5, 2)
    for observation, action in zip(observations, actions, strict=True):
        np.testing.assert_allclose(
            agent.predict(observation, deterministic=True)[0], action, rtol=1e-5, atol=1e-7
        )
    assert agent.predict(observations[:0], deterministic=True)[0].shape == (0, 2)
    with pytest.raises(UserError, match="deterministic must be true or false, got 'no'"):
        agent.predict(observations, deterministic="no")  # type: ignore[arg-type]
    np.testing.assert_array_equal(agent.predict(observations, deterministic=1)[0], actions)


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


def test_deterministic_actions_repeat_and_sampled_ones_do_not(agent):
    observations = np.tile([0.3, -0.1], (20, 1))
    first, again = (agent.predict(observations, deterministic=True)[0] for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert (first == first[0]).all()
    sampled = [agent.predict(observations)[0] for _ in range(2)]
    assert not np.array_equal(*sampled)
    for rng in (0, np.random.RandomState(0)):
        with pytest.raises(UserError, match="rng must be a generator"):
            agent.predict(observations, rng=rng)
    seeded = [agent.predict(observations, rng=np.random.default_rng(3))[0] for _ in range(2)]
    np.testing.assert_array_equal(*seeded)


def test_sampled_actions_stay_in_the_action_space(agent):
    observations = 100 * np.random.default_rng(0).normal(size=(500, 2))
    actions, _ = agent.predict(observations)
    assert all(agent.action_space.contains(action) for action in actions)
    assert actions.std() > 0


def test_predict_normalizes(agent):
    normalizer = agent.state.tensors["normalizer"]
    shifted = {**normalizer, "mean": normalizer["mean"] + 1}
    state = agent.state._replace(tensors={**agent.state.tensors, "normalizer": shifted})
    other = dataclasses.replace(agent, state=state)
    observation = np.array([0.3, -0.1])
    assert not np.array_equal(
        agent.predict(observation, deterministic=True)[0],
        other.predict(observation, deterministic=True)[0],
    )


@pytest.mark.parametrize("shape", [(3,), (1,), (), (4, 3), (2, 2, 2), (0,)])
def test_an_observation_of_another_size_is_refused(agent, shape):
    with pytest.raises(UserError, match=r"\(2,\)"):
        agent.predict(np.zeros(shape))


def test_an_observation_that_is_not_finite_is_refused(agent):
    with pytest.raises(UserError, match=r"not finite.*nan"):
        agent.predict(np.array([[0.0, 0.0], [np.nan, 0.0]]))
    with pytest.raises(UserError, match=r"not finite.*e\+300"):
        agent.predict(np.array([1e300, 0.0]))  # inf in float32


@pytest.mark.parametrize(
    ("observation", "message"),
    [
        (np.array(["a", "b"]), "observations of numbers, got <U1"),
        (np.array([None, 1.0]), "observations of numbers, got object"),
        (np.zeros(2, complex), "observations of numbers, got complex128"),
        ([[0.0, 0.0], [0.0]], "not an array of numbers"),
    ],
    ids=["text", "object", "complex", "ragged"],
)
def test_an_observation_that_is_not_made_of_numbers_is_refused(agent, observation, message):
    with pytest.raises(UserError, match=message):
        agent.predict(observation)


def test_the_package_lists_its_names():
    assert dir(maml_rl) == sorted(maml_rl.__all__)


def test_training_takes_a_configuration():
    with pytest.raises(UserError, match="load_config"):
        maml_rl.train({"env": "PointNavigation"})


@pytest.mark.parametrize(
    "observation", [{"a": np.zeros(2)}, (np.zeros(1), np.zeros(1))], ids=["dict", "tuple"]
)
def test_an_observation_that_is_not_flattened_is_refused(agent, observation):
    with pytest.raises(UserError, match=r"gymnasium\.spaces\.flatten"):
        agent.predict(observation)


def test_predict_leaves_global_generators_alone(agent):
    before = torch.get_rng_state(), np.random.get_state()[1]  # noqa: NPY002
    agent.predict(np.zeros((3, 2)))
    assert torch.equal(torch.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002


# --- adapt ---


def single_env() -> gym.Env:
    return gym.make(ENV_ID, max_episode_steps=6)


def test_adapting_gives_another_agent_and_leaves_this_one(agent):
    belief = {name: value.clone() for name, value in agent.belief.items()}
    adapted = agent.adapt(task=GOAL)
    assert changed(agent, adapted)
    assert all(torch.equal(agent.belief[name], value) for name, value in belief.items())
    assert (agent.num_adaptation_steps, adapted.num_adaptation_steps) == (0, 1)
    assert adapted.adapt(task=GOAL, num_steps=2).num_adaptation_steps == 3


def test_adapting_is_a_function_of_task_and_seed(agent):
    adapted = agent.adapt(task=GOAL, seed=1)
    assert equal(adapted, agent.adapt(task=GOAL, seed=1))
    assert not equal(adapted, agent.adapt(task=GOAL, seed=2))
    assert not equal(adapted, agent.adapt(task={"goal_x": -0.4, "goal_y": 0.3}, seed=1))


def test_no_steps_change_nothing(agent):
    assert equal(agent, agent.adapt(task=GOAL, num_steps=0))


def test_two_steps_differ_from_one(agent):
    assert not equal(agent.adapt(task=GOAL, num_steps=1), agent.adapt(task=GOAL, num_steps=2))


def test_adapting_helps(agent):
    """At least 7 of 8 distant goals are reached better after a step on many episodes."""
    better = 0
    for angle in np.linspace(0, 2 * np.pi, 8, endpoint=False):
        task = {"goal_x": 0.5 * float(np.cos(angle)), "goal_y": 0.5 * float(np.sin(angle))}
        goal = np.array(list(task.values()))
        adapted = agent.adapt(task=task, num_episodes=100)
        before, after = (
            p.predict(np.zeros(2), deterministic=True)[0] @ goal for p in (agent, adapted)
        )
        better += after > before
    assert better >= 7


def test_every_way_to_name_the_environment_gives_the_same(agent):
    """With the same task and seed, a family, its id, an environment and a batch adapt alike."""
    expected = agent.adapt(task=GOAL)
    assert equal(expected, agent.adapt("PointNavigation", task=GOAL))
    assert equal(expected, agent.adapt(ENV_ID, task=GOAL))
    single, batch = single_env(), gym.make_vec(ENV_ID, num_envs=4, max_episode_steps=6)
    assert equal(expected, agent.adapt(batch, task=GOAL))
    for name, value in agent.adapt(single, task=GOAL).belief.items():
        torch.testing.assert_close(value, expected.belief[name], rtol=1e-4, atol=1e-5)
    for env in (single, batch):
        env.reset(seed=0)  # still open
        env.step(env.action_space.sample())
        env.close()


def test_adapting_to_the_task_that_an_environment_has(agent):
    env = single_env()
    env.unwrapped.set_task(GOAL)
    assert changed(agent, agent.adapt(env))
    assert env.unwrapped.task == GOAL
    assert equal(agent.adapt(env, num_episodes=2), agent.adapt(env, task=GOAL, num_episodes=2))
    env.close()


def test_adapting_on_a_batch_of_gymnasiums(agent):
    def make() -> gym.Env:
        env = single_env()
        env.unwrapped.set_task(GOAL)
        return env

    envs = SyncVectorEnv([make] * 2, autoreset_mode=AutoresetMode.DISABLED)
    adapted = agent.adapt(envs, num_episodes=4)
    for name, value in agent.adapt(task=GOAL).belief.items():
        torch.testing.assert_close(adapted.belief[name], value, rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match="takes no tasks"):
        agent.adapt(envs, task=GOAL)
    with pytest.raises(UserError, match="equal rounds"):
        agent.adapt(envs, num_episodes=3)
    envs.reset(seed=0)
    envs.close()


def test_a_batch_that_resets_by_itself_is_refused(agent):
    envs = SyncVectorEnv([single_env] * 2)
    with pytest.raises(UserError, match="DISABLED"):
        agent.adapt(envs)
    envs.close()


def test_an_environment_with_other_spaces_is_refused_with_both(agent):
    for env in ("Pendulum-v1", "CartPole-v1"):
        with pytest.raises(UserError) as refused:
            agent.adapt(env)
        message = str(refused.value)
        for space in (agent.observation_space, agent.action_space):
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
def test_bad_arguments_are_refused(agent, arguments):
    name, value = next(iter(arguments.items()))
    with pytest.raises(UserError, match=f"(?s){'' if name == 'env' else name}.*{value}"):
        agent.adapt(**arguments)


@pytest.mark.parametrize(
    "task", [{"goal": 1.0}, {"goal_x": float("nan"), "goal_y": 0.0}, {"goal_x": 0.0}]
)
def test_a_task_of_another_family_is_refused(agent, task):
    with pytest.raises(ValueError, match="goal_x"):
        agent.adapt(task=task)


def test_arguments_of_the_family_stay_when_it_is_named_by_its_id(tmp_path):
    """A tolerance that ends every episode at once changes adaptation, with any name."""
    env = {"name": "PointNavigation", "goal_tolerance": 50.0}
    agent = maml_rl.load(make_run(tmp_path / "run", env=env))
    expected = agent.adapt(task=GOAL)
    assert equal(expected, agent.adapt("PointNavigation", task=GOAL))
    assert equal(expected, agent.adapt(ENV_ID, task=GOAL))


def test_discrete_actions_adapt(cartpole):
    assert changed(cartpole, cartpole.adapt())


# --- save and load ---


def test_saved_and_loaded_is_equal(agent, tmp_path):
    adapted = agent.adapt(task=GOAL)
    folder = adapted.save(tmp_path / "adapted")
    loaded = maml_rl.load(folder)
    assert equal(loaded, adapted)
    assert list(loaded.belief) == list(adapted.belief)
    assert loaded.config == adapted.config
    assert loaded.num_adaptation_steps == 1
    assert loaded.observation_space == adapted.observation_space
    assert loaded.action_space == adapted.action_space
    for group in ("theta", "normalizer"):
        tensors = loaded.state.tensors[group]
        assert tensors
        assert list(tensors) == list(adapted.state.tensors[group])
        for name, value in tensors.items():
            assert torch.equal(value, adapted.state.tensors[group][name]), name
    observations = np.random.default_rng(0).normal(size=(5, 2))
    np.testing.assert_array_equal(
        loaded.predict(observations, deterministic=True)[0],
        adapted.predict(observations, deterministic=True)[0],
    )
    assert equal(loaded.adapt(task=GOAL), adapted.adapt(task=GOAL))


def test_saving_over_something_is_refused(agent, tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(UserError, match="not empty"):
        agent.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_load_takes_a_string_or_a_path(run):
    assert equal(maml_rl.load(run), maml_rl.load(str(run)))


@pytest.mark.parametrize("device", ["cuda:99", "gpu"])
def test_a_device_that_is_not_there_is_refused(run, device):
    with pytest.raises(UserError, match=device):
        maml_rl.load(run, device=device)


def test_a_checkpoint_of_another_shape_is_refused(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    config = copy / "config.yaml"
    config.write_text(config.read_text().replace("- 8", "- 9"))
    with pytest.raises(UserError, match="does not fit the settings"):
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
    reseal(path.parent)
    with pytest.raises(UserError, match="normalizer"):
        maml_rl.load(copy)


def test_counters_are_in_the_saved_values(agent, tmp_path):
    folder = agent.adapt(task=GOAL, num_steps=2).save(tmp_path / "adapted")
    (values,) = folder.rglob("values.json")
    assert json.loads(values.read_text())["num_adaptation_steps"] == 2


def test_a_task_in_place_of_an_environment_is_refused(agent):
    with pytest.raises(UserError, match="task="):
        agent.adapt({"goal_x": 0.3, "goal_y": -0.2})


def test_it_shows_itself_without_its_numbers(agent):
    assert len(repr(agent)) < 200
    assert "PointNavigation" in repr(agent)


def test_the_commands_modules_do_not_hide_the_functions(agent):
    for name in ("train", "evaluate", "record"):
        importlib.import_module(f"maml_rl.{name}")
        assert isinstance(getattr(maml_rl, name), types.FunctionType)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda agent: maml_rl.load(None), "a run must be a folder"),
        (lambda agent: agent.adapt(gym.Env), "expected an environment id"),
        (lambda agent: agent.adapt(), "no task to adapt to: pass one as task={'goal"),
        (lambda agent: agent.adapt("PointNavigation"), "or pass an environment whose task is set"),
        (
            lambda agent: agent.adapt(seed="a"),
            "seed must be an integer of at least 0, got 'a'",
        ),
        (
            lambda agent: agent.adapt(num_episodes=0),
            "num_episodes must be an integer of at least 1, got 0",
        ),
        (
            lambda agent: agent.to_sb3(num_envs=2.5),
            "num_envs must be an integer of at least 1, got 2.5",
        ),
        (lambda agent: maml_rl.evaluate(agent, num_tasks=0), "num_tasks must be"),
        (lambda agent: maml_rl.evaluate(agent, num_steps=True), "num_steps must be"),
        (lambda agent: maml_rl.evaluate("PointNavigation"), "evaluate takes an agent"),
        (lambda agent: maml_rl.evaluate(agent, env="Cart-v0"), "env must be an EnvConfig"),
        (lambda agent: agent.predict((np.zeros(2), {})), "got what reset returns"),
        (lambda agent: maml_rl.record("PointNavigation", "x.mp4"), "record takes an agent"),
        (lambda agent: maml_rl.record(agent, "x.mp4", seed=-1), "seed must be"),
    ],
)
def test_invalid_arguments_are_refused(call, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=re.escape(message)):
        call(maml_rl.load("PointNavigation"))
    assert list(tmp_path.iterdir()) == []
