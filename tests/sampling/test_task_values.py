"""Values of tasks: any plain value reaches the environment and the results with its type."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

import maml_rl
from maml_rl.agents.from_scratch import PPOSettings
from maml_rl.analysis.tasks.words import value_names_of
from maml_rl.cli import main
from maml_rl.env_flags import task_values, tasks_of_file
from maml_rl.errors import UserError
from maml_rl.sampling.environments import make_task_vector_env
from maml_rl.sampling.failures import as_json
from maml_rl.sampling.task_in_observation import TaskEncoder, TaskObserver
from maml_rl.settings.env import EnvConfig
from maml_rl.training.baseline_runs import train_ppo

TINY: dict[str, Any] = {
    "meta_batch_size": 2,
    "num_episodes": 2,
    "horizon": 3,
    "num_iterations": 1,
    "device": "cpu",
}
QUIET = {"final_evaluation": False, "final_video": False}
PLAIN = {
    "k": 2,
    "x": 2.0,
    "gait": "off",
    "on": True,
    "none": None,
    "at": [1, [2.5, "3"]],
    "more": {"a": {"b": [1]}},
}
DRAWN: dict[str, Any] = {
    "numpy": {
        "k": np.int64(3),
        "x": np.float32(0.5),
        "on": np.bool_(True),
        "at": np.array([[1, 2]]),
    },
    "tuple of numpy": {"at": (np.float64(1.5), np.int32(2)), "more": {"a": [np.array([1.0])]}},
    "text": {"gait": "trot"},
    "set": {"at": {1, 2}},
    "object": {"at": [object()]},
    "array of objects": {"at": np.array([{1}, None])},
    "key": {1: 2},
    "nested key": {"at": {1: 2}},
}
"""What the environment of the tests draws, by the name of the kind."""
WRITTEN = {
    "numpy": {"k": 3, "x": 0.5, "on": True, "at": [[1, 2]]},
    "tuple of numpy": {"at": [1.5, 2], "more": {"a": [[1.0]]}},
    "text": {"gait": "trot"},
}
SET: list[Any] = []
"""Every task that was set, in order."""


class WithoutTasks(gym.Env):
    observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return np.zeros(2, np.float32), -float(np.abs(action).sum()), False, False, {}


class OfArguments(WithoutTasks):
    def __init__(self, **task: Any) -> None:
        SET.append(task)


class FromAList(WithoutTasks):
    def set_task(self, task: Any) -> None:
        SET.append(task)


class TakesTasks(FromAList):
    def __init__(self, kind: str = "text") -> None:
        self.kind = kind

    def sample_tasks(self, num_tasks: int) -> list[Any]:
        return [DRAWN[self.kind]] * num_tasks


class Terrain(TakesTasks):
    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 10}

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__()
        self.render_mode = render_mode

    def render(self) -> Any:
        return np.zeros((128, 128, 3), np.uint8)


@pytest.fixture(autouse=True)
def _registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    before = dict(gym.registry)
    for env in (OfArguments, FromAList, TakesTasks, Terrain):
        gym.register(id=f"{env.__name__}-v0", entry_point=env)
    SET.clear()
    yield
    gym.registry.clear()
    gym.registry.update(before)


def train(env: dict[str, Any], **settings: Any) -> Path:
    return maml_rl.train(
        maml_rl.load_config(env=env, **{"logging": QUIET, "output": "run", **TINY, **settings})
    )


def evaluated(*argv: str) -> list[dict[str, Any]]:
    """The tasks in results.json of an evaluation."""
    small = ["--num_episodes=2", "--num_steps=1", "--device=cpu", "--output=results"]
    assert main(["evaluate", "run", *argv, *small]) == 0
    content = json.loads(Path("results/results.json").read_text())
    return [entry["task"] for entry in content["results"][0]["tasks"]]


FLAG = "k=2, x=2.0, gait=off, on=true, none=null, at=[1, [2.5, '3']], more={a: {b: [1]}}"


@pytest.mark.slow
def test_a_task_on_the_command_line_keeps_its_types() -> None:
    assert repr(task_values(FLAG)) == repr(PLAIN)
    train({"name": "TakesTasks-v0"})
    SET.clear()
    assert repr(evaluated("--task", FLAG)) == repr([PLAIN])
    assert {repr(task) for task in SET} == {repr(PLAIN)}


@pytest.mark.parametrize(
    ("text", "task"),
    [
        ("a='x,y',b=1", {"a": "x,y", "b": 1}),
        ('a="q\\",r",b="2"', {"a": 'q",r', "b": "2"}),
        ("a=it's,b=don't", {"a": "it's", "b": "don't"}),
        ("a=1e-3,b=-2,c=.inf", {"a": 1e-3, "b": -2, "c": float("inf")}),
        ("a=12:30,b=2:3:4", {"a": "12:30", "b": "2:3:4"}),
        ("a=b=c", {"a": "b=c"}),
    ],
)
def test_values_of_a_task_are_read_as_yaml(text: str, task: dict[str, Any]) -> None:
    assert repr(task_values(text)) == repr(task)


@pytest.mark.parametrize("text", ["a=1,a=2", "a", "a=", "=1", ",", "a=[1", "a=]", "a=1,,b=2"])
def test_a_task_that_does_not_read_is_refused(text: str) -> None:
    with pytest.raises((UserError, argparse.ArgumentTypeError)):
        task_values(text)


ICE = {"disabled_joint": 2, "terrain": "ice", "goal": [1, 2]}
MUD = {"disabled_joint": 0, "terrain": "mud", "goal": [-0.5, 2]}
TASKS_FILE = """
- {disabled_joint: 2, terrain: ice, goal: [1, 2]}
- disabled_joint: 0
  terrain: mud
  goal: [-0.5, 2]
"""


@pytest.mark.slow
def test_tasks_of_a_file_are_evaluated_and_recorded() -> None:
    train({"name": "Terrain-v0"})
    Path("tasks.yaml").write_text(TASKS_FILE)
    SET.clear()
    assert repr(evaluated("--tasks_file", "tasks.yaml")) == repr([ICE, MUD])
    assert {repr(task) for task in SET} == {repr(ICE), repr(MUD)}
    for flag, tasks in (
        ("--tasks_file=tasks.yaml", [ICE, MUD]),
        ("--task=disabled_joint=2,terrain=ice,goal=[1,2]", [ICE]),
    ):
        SET.clear()
        assert main(["record", "run", flag, "--num_steps=1", "--output=video.gif"]) == 0
        # The text is drawn to find out whether the environment renders.
        played = {repr(task) for task in SET} - {repr(DRAWN["text"])}
        assert played == {repr(task) for task in tasks}
        Path("video.gif").unlink()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, "No such file"),
        ("[", "cannot be read as YAML"),
        ("goal: 1", "must hold a list, got dict"),
        ("", "must hold a list, got NoneType"),
        ("[]", "got an empty list"),
        ("- {a: 1}\n- 3", "got 3 as task 2"),
        ("- {}", "got {} as task 1"),
        ("- {1: 2}", "a key that is not text: '1'"),
        ("- !!python/object:os.system {}", "python/object"),
        ("[" * 60 + "]" * 60, "nested more than 50 deep"),
        ("&a [*a]", "an alias refers to a node that contains it"),
    ],
)
@pytest.mark.parametrize("command", ["evaluate", "record"])
def test_a_bad_file_of_tasks_is_refused(
    command: str, text: str | None, problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if text is not None:
        Path("tasks.yaml").write_text(text)
    with pytest.raises(argparse.ArgumentTypeError):
        tasks_of_file("tasks.yaml")
    assert main([command, "HalfCheetahVel", "--tasks_file=tasks.yaml"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: argument --tasks_file: tasks.yaml ")
    assert problem in line
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("others", "problem"),
    [
        ("--task=goal_velocity=1", "not allowed with argument --tasks_file"),
        ("--num_tasks=2", "not allowed with argument --tasks_file"),
        ("--dynamics=body_mass=2", "leave out --dynamics"),
    ],
)
@pytest.mark.parametrize("command", ["evaluate", "record"])
def test_a_file_of_tasks_stands_alone(
    command: str, others: str, problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("tasks.yaml").write_text("- {goal_velocity: 1}")
    assert main([command, "HalfCheetahVel", "--tasks_file=tasks.yaml", others]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert problem in line
    assert not Path("runs").exists()


def test_a_value_that_is_not_yaml_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "HalfCheetahVel", "--task", "goal_velocity=[1"]) == 2
    assert "--task goal_velocity '[1' cannot be read as YAML" in capsys.readouterr().err


@pytest.mark.slow
def test_a_list_of_tasks_keeps_their_types() -> None:
    task_list = [PLAIN, {**PLAIN, "k": 3}]
    Path("my.yaml").write_text(
        json.dumps({"env": {"name": "FromAList-v0", "task_list": task_list}})
    )
    flags = [f"--{name}={value}" for name, value in TINY.items()] + [
        "--output=run",
        "--config=my.yaml",
    ]
    assert main(["train", *flags, *[f"--logging.{name}=false" for name in QUIET]]) == 0
    kept = maml_rl.load("run").config.env.task_list
    tasks = {repr(task) for task in task_list}
    assert [repr(task) for task in kept] == [repr(task) for task in task_list]
    assert {repr(task) for task in SET} <= tasks
    assert {repr(task) for task in evaluated("--num_tasks=3")} <= tasks


@pytest.mark.thorough
@pytest.mark.parametrize("vectorization", ["sync", pytest.param("async", marks=pytest.mark.slow)])
def test_choices_of_an_argument_keep_their_types(vectorization: str) -> None:
    ranges = {"value": {"choices": ["off", "2", 2, [1, "on"], {"a": "12:30"}]}}
    train({"name": "OfArguments-v0", "kwarg_ranges": ranges, "vectorization": vectorization})
    kept = maml_rl.load("run").config.env.kwarg_ranges
    assert repr(kept) == repr(ranges)
    choices = {repr(choice) for choice in ranges["value"]["choices"]}
    assert {repr(task["value"]) for task in SET} <= choices
    assert {repr(task["value"]) for task in evaluated("--num_tasks=6")} <= choices


@pytest.mark.thorough
@pytest.mark.parametrize("kind", WRITTEN)
def test_what_an_environment_draws_is_written_as_plain_values(kind: str) -> None:
    train({"name": "TakesTasks-v0", "kwargs": {"kind": kind}}, logging={"final_video": False})
    expected = {repr(DRAWN[kind])}
    assert {repr(task) for task in SET} == expected, "a copy is played, with its types"
    assert not any(task is DRAWN[kind] for task in SET)
    content = json.loads(Path("run/evaluation/results.json").read_text())
    assert [entry["task"] for entry in content["results"][0]["tasks"]] == [WRITTEN[kind]] * 40
    assert evaluated("--num_tasks=2") == [WRITTEN[kind]] * 2
    assert json.loads(as_json(DRAWN[kind])) == WRITTEN[kind]
    settings = PPOSettings(num_envs=1, n_steps=4, batch_size=4, n_epochs=1)
    SET.clear()
    path = train_ppo(Path("run"), num_tasks=1, num_env_steps=4, settings=settings)
    assert {repr(task) for task in SET} == {repr(DRAWN[kind])}
    assert [curve["task"] for curve in json.loads(path.read_text())["tasks"]] == [WRITTEN[kind]]


@pytest.mark.parametrize("kind", [kind for kind in DRAWN if kind not in WRITTEN])
def test_tasks_that_cannot_be_written_are_refused_before_there_is_a_folder(kind: str) -> None:
    with pytest.raises(UserError, match=r"TakesTasks-v0.*task.* file"):
        train({"name": "TakesTasks-v0", "kwargs": {"kind": kind}})
    assert not Path("run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["numpy", "tuple of numpy", "object", "nested key"])
def test_a_task_of_python_is_written_as_plain_values_or_refused_before_it_is_played(
    kind: str,
) -> None:
    train({"name": "TakesTasks-v0"})
    SET.clear()
    policy = maml_rl.load("run")
    if kind in WRITTEN:
        assert maml_rl.evaluate(policy, tasks=[DRAWN[kind]], num_episodes=1).tasks == [
            WRITTEN[kind]
        ]
        return
    with pytest.raises(UserError, match="a file"):
        maml_rl.evaluate(policy, tasks=[DRAWN[kind]], num_episodes=1)
    assert SET == []


@pytest.mark.parametrize(
    "task",
    [
        "goal_x=east,goal_y=0",
        "goal_x='1',goal_y=0",
        "goal_x=[1],goal_y=0",
        "goal=1",
        "goal_x=null,goal_y=0",
    ],
)
def test_a_built_in_family_takes_numbers(task: str, capsys: pytest.CaptureFixture[str]) -> None:
    train({"name": "PointNavigation"})
    capsys.readouterr()
    assert main(["evaluate", "run", "--task", task, "--num_episodes=2"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert "PointNavigation" in line
    assert not Path("run/evaluation").exists()


def test_a_policy_does_not_observe_a_number_in_text() -> None:
    env = make_task_vector_env(EnvConfig(name="FromAList-v0", task_list=({"k": "2"},)), 1, 3)
    with pytest.raises(UserError, match="one number for each"):
        TaskObserver(env, "FromAList-v0")
    env.close()


def test_an_evaluation_of_a_policy_that_observes_the_task_has_units_and_names() -> None:
    env = make_task_vector_env(EnvConfig(name="HalfCheetahDir", observe_task=True), 1, 5)
    assert env.task_units["body_mass"] == "factor"
    assert value_names_of(env) == {"direction": {"1": "forward", "-1": "backward"}}


def test_a_policy_observes_the_dynamics_in_force() -> None:
    dynamics = {"change_step": 2, "changed/gravity": 5.0, "change_episode": 1, "body_mass": 2.0}
    config = EnvConfig(name="HalfCheetahVel", kwargs={"dynamics": dynamics}, observe_task=True)
    env = make_task_vector_env(config, 2, 4)
    (task, _) = env.sample_tasks(2)
    unchanged = {**task, "changed/gravity": 9.81}
    env.set_tasks([task, unchanged])
    expected = {False: [2.0, task["goal_velocity"], 9.81], True: [2.0, task["goal_velocity"], 5.0]}
    for episode in range(3):
        observation, _ = env.reset(seed=0, options={"episode": episode})
        for t in range(4):
            is_changed = episode + (t >= 2) >= 2
            np.testing.assert_allclose(observation[0, 17:], expected[is_changed])
            np.testing.assert_allclose(observation[1, 17:], expected[False])
            observation, *_ = env.step(np.zeros((2, 6)))
    with pytest.raises(UserError, match="one number for each of"):
        env.set_tasks([task, {**task, "changed/slope": 0.1}])
    env.close()


@pytest.mark.slow
def test_tasks_of_different_names_are_evaluated() -> None:
    train({"name": "FromAList-v0", "task_list": [{"a": 1}, {"b": "x"}]})
    assert {repr(task) for task in evaluated("--num_tasks=8")} == {"{'a': 1}", "{'b': 'x'}"}


def test_an_encoder_of_tasks_leaves_the_generator_as_it_was() -> None:
    env = make_task_vector_env(EnvConfig(name="PointNavigation"), 2, 3)
    try:
        env.np_random = np.random.default_rng(5)
        expected = env.sample_tasks(3)
        env.np_random = np.random.default_rng(5)
        encoder = TaskEncoder(env, "PointNavigation", "a test")
        tasks = env.sample_tasks(3)
    finally:
        env.close()
    assert tasks == expected
    assert encoder(tasks).tolist() == [[task["goal_x"], task["goal_y"]] for task in tasks]
