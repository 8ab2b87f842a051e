"""Custom environments: their tasks, spaces and errors."""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import maml_envs
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

import maml_rl
from maml_rl.cli import main
from maml_rl.errors import UserError
from maml_rl.policies.action_map import ActionMap
from maml_rl.sampling.environments import as_task_vector_env, make_single_env, make_task_vector_env
from maml_rl.settings.env import EnvConfig

TINY: dict[str, Any] = {
    "meta_batch_size": 2,
    "num_episodes": 2,
    "horizon": 5,
    "num_iterations": 2,
    "device": "cpu",
}
QUIET = {"final_evaluation": False, "final_video": False, "checkpoint_every": 1}
both_ways = pytest.mark.parametrize(
    "vectorization", ["sync", pytest.param("async", marks=pytest.mark.slow)]
)


class Goal(gym.Env):
    """Rewards an action for its nearness to ``goal``; raises where its arguments ask for it."""

    observation_space: spaces.Space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space: spaces.Space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, goal: float = 0.0, wrong: str = "", size: int = 2, after: int = 0) -> None:
        if wrong == "constructor":
            raise RuntimeError("no robot here")
        self.goal, self.wrong, self.steps, self.after = goal, wrong, 0, after
        self.observation_space = spaces.Box(-1.0, 1.0, (size,), np.float32)

    def observation(self) -> np.ndarray:
        return np.zeros(self.observation_space.shape, np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if self.wrong == "reset":
            raise RuntimeError("stuck in reset")
        return self.observation(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        observation, reward = self.observation(), -abs(self.goal)
        wrong = self.wrong if self.steps > self.after else ""
        if wrong == "step":
            raise RuntimeError("stuck in step")
        if wrong == "answer":
            raise TimeoutError("no answer")
        if wrong == "death":
            os._exit(3)
        if wrong == "nan observation":
            observation[1] = np.nan
        if wrong == "inf reward":
            reward = np.inf
        if wrong == "shape":
            observation = np.zeros(3, np.float32)
        return observation, reward, False, False, {}


class GoalWithTasks(Goal):
    """Draws its tasks itself."""

    def sample_tasks(self, num_tasks: int) -> Any:
        if self.wrong == "number":
            return [{"goal": 1.0}]
        if self.wrong == "kind":
            return [1.0] * num_tasks
        if self.wrong == "sample":
            raise RuntimeError("no tasks")
        return [{"goal": float(goal)} for goal in self.np_random.uniform(1, 2, num_tasks)]

    def set_task(self, task: dict[str, float]) -> None:
        self.goal = task["goal"]
        if self.wrong == "spaces":
            self.observation_space = spaces.Box(-1.0, 1.0, (5,), np.float32)


class GoalOfList(Goal):
    """Takes a task, and draws none."""

    def set_task(self, task: dict[str, float]) -> None:
        self.goal = 10 * task["place"]


class AnySpaces(gym.Env):
    """Checks every action; its reward is the sum of the action."""

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space) -> None:
        self.observation_space, self.action_space = observation_space, action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        return self.observation_space.sample(), float(np.sum(action)), False, False, {}


class TasksOnTop(gym.Wrapper):
    """Makes a family of an environment from outside."""

    def sample_tasks(self, num_tasks: int) -> list[dict[str, float]]:
        return [{"goal": float(goal)} for goal in self.np_random.uniform(3, 4, num_tasks)]

    def set_task(self, task: dict[str, float]) -> None:
        self.unwrapped.goal = task["goal"]


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    before = dict(gym.registry)
    gym.register(id="Goal-v0", entry_point=Goal)
    gym.register(id="GoalWithTasks-v0", entry_point=GoalWithTasks)
    gym.register(id="GoalOfList-v0", entry_point=GoalOfList)
    gym.register(id="AnySpaces-v0", entry_point=AnySpaces)
    gym.register(id="Wrapped-v0", entry_point=lambda: TasksOnTop(Goal()))
    yield
    gym.registry.clear()
    gym.registry.update(before)


def _train(tmp_path: Path, env: dict[str, Any], **settings: Any) -> maml_rl.Agent:
    settings = {"logging": QUIET, "output": str(tmp_path / "run"), **TINY, **settings}
    return maml_rl.load(maml_rl.train(maml_rl.load_config(env=env, **settings)))


class TestTasksOfTheConfiguration:
    @both_ways
    def test_gravity_of_the_pendulum_really_changes(self, vectorization):
        config = EnvConfig(
            name="Pendulum-v1", kwarg_ranges={"g": [5, 15]}, vectorization=vectorization
        )
        env = make_task_vector_env(config, 2, 10)
        gravities = [5.0, 15.0]
        for gravity in (gravities, gravities[::-1]):
            env.set_tasks([{"g": g} for g in gravity])
            start, _ = env.reset(seed=3)
            after, *_ = env.step(np.zeros((2, 1), np.float32))
            # θ̈ = 3g / 2l sin θ for dt = 0.05 s and l = 1 m.
            expected = start[:, 2] + 1.5 * np.array(gravity) * start[:, 1] * 0.05
            np.testing.assert_allclose(after[:, 2], expected, atol=1e-5)
        env.close()

    def test_distributions(self):
        setting = {
            "a": [1, 2],
            "b": {"low": 0.01, "high": 100, "log": True},
            "c": {"choices": ["x", [1, 2], None]},
        }
        tasks = EnvConfig(name="any", kwarg_ranges=setting).drawn_tasks.sample(
            np.random.default_rng(0), 4000
        )
        a, b = np.array([task["a"] for task in tasks]), np.array([task["b"] for task in tasks])
        assert 1 <= a.min() < 1.01 < 1.99 < a.max() <= 2
        assert b.min() >= 0.01
        assert b.max() <= 100
        assert abs(np.median(np.log(b))) < 0.3
        assert [
            sum(task["c"] == choice for task in tasks) > 1200 for choice in setting["c"]["choices"]
        ] == [True] * 3
        again = EnvConfig(name="any", kwarg_ranges=dict(reversed(setting.items())))
        assert again.drawn_tasks.sample(np.random.default_rng(0), 4000) == tasks

    @pytest.mark.parametrize(
        "value",
        [
            *(3, [1], [1, 2, 3], [2, 1], ["a", "b"], [True, False], [0, float("inf")]),
            *({"low": 1}, {"low": 0, "high": 1, "log": True}, {"low": 1, "high": 2, "log": 1}),
            *({"choices": []}, {"choices": 3}, {"choices": [1], "log": True}),
        ],
        ids=str,
    )
    def test_bad_ranges_are_refused(self, value):
        with pytest.raises(UserError, match=r"kwarg_ranges: 'g'.*choices"):
            maml_rl.load_config(env={"name": "Pendulum-v1", "kwarg_ranges": {"g": value}})

    @pytest.mark.parametrize(
        ("env", "named"),
        [
            (
                {"name": "Pendulum-v1", "kwarg_ranges": {"gg": [1, 2]}},
                r"kwarg_ranges.*'gg'.*Did you mean 'g'.*: g\.",
            ),
            (
                {"name": "Pendulum-v1", "task_list": [{"mass": 1}]},
                "task_list.*'mass', and the environment has no set_task",
            ),
            (
                {"name": "GoalWithTasks-v0", "kwarg_ranges": {"goal": [1, 2]}},
                "GoalWithTasks-v0.*draws its tasks itself",
            ),
            (
                {"name": "GoalWithTasks-v0", "task_list": [{"goal": 1}]},
                "GoalWithTasks-v0.*draws its tasks itself",
            ),
            ({"name": "Goal-v0", "kwarg_ranges": {"size": {"choices": [2.5]}}}, "Goal-v0.*2.5"),
        ],
    )
    def test_tasks_that_the_environment_does_not_take(self, env, named):
        with pytest.raises(UserError, match=named):
            make_task_vector_env(EnvConfig(**env), 1, 5)

    def test_both_at_once_are_refused(self):
        with pytest.raises(ValueError, match="one of the two"):
            EnvConfig(name="Goal-v0", kwarg_ranges={"goal": [1, 2]}, task_list=({"goal": 1},))

    @pytest.mark.parametrize("name", maml_envs.FAMILIES)
    @pytest.mark.parametrize(
        "setting", [{"kwarg_ranges": {"low": [1, 2]}}, {"task_list": [{"goal_velocity": 1}]}]
    )
    def test_built_in_families_draw_their_own_tasks(self, name, setting):
        with pytest.raises(UserError, match=rf"{name}.*env\.dynamics"):
            maml_rl.load_config(env={"name": name, **setting})

    def test_list_goes_to_set_task_or_to_the_constructor(self):
        for name, task, reward in (
            ("GoalOfList-v0", {"place": 2}, -20.0),
            ("Goal-v0", {"goal": 2}, -2.0),
        ):
            env = make_task_vector_env(EnvConfig(name=name, task_list=(task,)), 1, 5)
            assert env.sample_tasks(3) == [task] * 3
            env.set_tasks([task])
            env.reset(seed=0)
            assert env.step(np.zeros((1, 1), np.float32))[1].tolist() == [reward]
            env.close()

    def test_spaces_may_not_change_with_the_arguments(self):
        env = make_task_vector_env(EnvConfig(name="Goal-v0", task_list=({"size": 3},)), 1, 5)
        env.set_tasks([{"size": 4}])
        with pytest.raises(
            UserError, match=r"observation space of environment 'Goal-v0' changes.*'size': 4"
        ):
            env.reset(seed=0)
        env.close()

    def test_an_environment_object_cannot_change_its_arguments(self, tmp_path):
        setting = {"name": "Pendulum-v1", "kwarg_ranges": {"g": [5, 15]}}
        policy = _train(tmp_path, setting)
        env = gym.make("Pendulum-v1", g=12.0, max_episode_steps=5)
        for task in ({"g": 12.0}, {"nonsense": 1}):
            with pytest.raises(UserError, match=r"neither set_task.*make it with .*without env"):
                policy.adapt(env, task=task)
        of_object, of_task = policy.adapt(env), policy.adapt(task={"g": 12.0})
        torch.testing.assert_close(of_object.belief["weight_0"], of_task.belief["weight_0"])
        env.close()

    def test_run_keeps_them(self, tmp_path):
        ranges = {"g": [5, 15], "render_mode": {"choices": [None]}}
        policy = _train(tmp_path, {"name": "Pendulum-v1", "kwarg_ranges": ranges})
        assert policy.config.env.kwarg_ranges == ranges
        light, heavy = (policy.adapt(task={"g": g}).belief["weight_0"] for g in (3.0, 20.0))
        assert not torch.equal(light, heavy)
        with pytest.raises(UserError, match=r"Pendulum-v1.*'gg'") as refused:
            policy.adapt(task={"gg": 3.0})
        assert str(refused.value) == (
            "task: the constructor of 'Pendulum-v1' takes no argument 'gg'. Did you mean 'g'? Its "
            "arguments: g."
        )
        single = make_single_env(policy.config.env)  # what a video shows
        single.assigned_task = {"g": 3.0}
        single.reset(seed=0)
        assert single.unwrapped.g == 3.0
        # An empty task takes back one that did not start an episode.
        single.assigned_task = {"g": 4.0}
        single.assigned_task = {}
        single.reset(seed=0)
        assert single.unwrapped.g == 3.0

    @pytest.mark.slow
    def test_on_the_command_line(self, tmp_path, capsys):
        run = tmp_path / "run"
        flags = [f"--{name}={value}" for name, value in TINY.items()]
        env = [
            "--env",
            "Goal-v0",
            "--env.task_list",
            "[{goal: 1}, {goal: 2}]",
            "--output",
            str(run),
        ]
        assert main(["train", *env, *flags]) == 0
        assert maml_rl.load(run).config.env.task_list == ({"goal": 1}, {"goal": 2})
        others = ["--tasks.task_list", "[{goal: 5}]", "--num_tasks", "1", "--num_steps", "0"]
        assert main(["evaluate", str(run), "--num_episodes", "2", *others]) == 0
        evaluated = json.loads((run / "evaluation" / "results.json").read_text())
        assert '"goal": 5' in json.dumps(evaluated)


OBSERVATIONS = {
    "image": spaces.Box(0, 255, (2, 3, 1), np.uint8),
    "dict": spaces.Dict({"a": spaces.Box(-1, 1, (2,)), "b": spaces.Discrete(3)}),
    "tuple": spaces.Tuple([spaces.Discrete(2), spaces.MultiBinary(3)]),
    "scalar": spaces.Box(0.0, 1.0, ()),
    "discrete": spaces.Discrete(4, start=2),
}
ACTIONS = {
    "discrete from 3": spaces.Discrete(3, start=3),
    "multi-discrete": spaces.MultiDiscrete([2, 4, 3], start=[0, 5, -1]),
    "matrix": spaces.Box(-2.0, 3.0, (2, 2), np.float32),
    "float64": spaces.Box(-2.0, 3.0, (2,), np.float64),
}


class TestSpaces:
    @pytest.mark.parametrize("name", OBSERVATIONS)
    def test_observations_are_boxes(self, name, tmp_path):
        """A Box with axes stays as it is; everything else is flattened."""
        space, box = OBSERVATIONS[name], spaces.Box(-1.0, 1.0, (1,))
        config = EnvConfig(
            name="AnySpaces-v0", kwargs={"observation_space": space, "action_space": box}
        )
        env = make_task_vector_env(config, 2, 5)
        observations, _ = env.reset(seed=4)
        for i in range(2):
            observation, _ = AnySpaces(space, box).reset(seed=4 + i)
            if not (isinstance(space, spaces.Box) and space.shape):
                observation = spaces.flatten(space, observation)
            np.testing.assert_array_equal(observations[i], observation)
        env.close()

    @pytest.mark.thorough
    @pytest.mark.parametrize("outer", ["trpo", "promp"])
    @pytest.mark.parametrize("name", ACTIONS)
    def test_actions_are_of_the_space(self, name, outer, tmp_path, monkeypatch):
        space = ACTIONS[name]
        box = spaces.Box(-1.0, 1.0, (3,))
        gym.register(id="TheseActions-v0", entry_point=lambda: AnySpaces(box, space))
        policy = _train(
            tmp_path, {"name": "TheseActions-v0"}, outer={"name": outer}, num_iterations=1
        )
        for deterministic in (True, False):
            action, _ = policy.predict(np.zeros(3, np.float32), deterministic=deterministic)
            assert space.contains(action), (action, action.dtype)
            assert all(
                space.contains(one) for one in policy.predict(np.zeros((5, 3), np.float32))[0]
            )
        adapted = policy.adapt(gym.make("TheseActions-v0", max_episode_steps=5))
        assert adapted.num_adaptation_steps == 1

    def test_choices_are_counted_from_the_start(self):
        assert ActionMap(spaces.Discrete(3, start=5), 1.0)(np.array([0, 2])).tolist() == [5, 7]
        assert ActionMap(ACTIONS["multi-discrete"], 1.0)(np.array([[1, 0, 2]])).tolist() == [
            [1, 5, 1]
        ]

    def test_dict_observations_of_a_vector_environment_at_hand(self):
        space = OBSERVATIONS["dict"]
        make = [lambda: AnySpaces(space, spaces.Discrete(2))] * 2
        envs = SyncVectorEnv(make, autoreset_mode=AutoresetMode.DISABLED)
        with as_task_vector_env(envs, EnvConfig(), 2, 5) as env:
            assert env.reset(seed=0)[0].shape == (2, spaces.flatdim(space))

    def test_another_size_than_the_policys(self, tmp_path):
        policy = _train(tmp_path, {"name": "Goal-v0"}, num_iterations=1)
        with pytest.raises(UserError, match=r"\(3,\).*the policy expects.*\(2,\)"):
            policy.adapt(gym.make("Goal-v0", size=3))


def test_methods_of_a_wrapper_count() -> None:
    env = make_task_vector_env(EnvConfig(name="Wrapped-v0"), 2, 5)
    tasks = env.sample_tasks(2)
    env.set_tasks(tasks)
    env.reset(seed=0)
    assert env.step(np.zeros((2, 1), np.float32))[1].tolist() == [-task["goal"] for task in tasks]
    env.close()


class TestMistakes:
    """One line that names the environment; no process stays."""

    @pytest.mark.slow
    @both_ways
    @pytest.mark.parametrize(
        ("wrong", "status", "named"),
        [
            ("constructor", 2, "RuntimeError: no robot here"),
            ("reset", 2, "raised in reset: RuntimeError: stuck in reset"),
            ("step", 2, "raised in step: RuntimeError: stuck in step"),
            ("shape", 2, "shape (3,)"),
            ("nan observation", 1, "an observation is not finite"),
            ("inf reward", 1, "a reward is not finite"),
            ("number", 2, "sample_tasks(2)"),
            ("kind", 2, "sample_tasks(2)"),
            ("sample", 2, "sample_tasks(2): RuntimeError: no tasks"),
            ("spaces", 2, "observation space of environment 'GoalWithTasks-v0' changes"),
        ],
    )
    @pytest.mark.filterwarnings("ignore:.*:UserWarning")  # Gymnasium's own checks warn of the same
    def test_one_line(self, wrong, status, named, vectorization, tmp_path, capfd):
        flags = [f"--{name}={value}" for name, value in TINY.items()]
        env = [
            "--env",
            "GoalWithTasks-v0",
            "--env.kwargs",
            f"{{wrong: {wrong}}}",
            "--env.vectorization",
            vectorization,
        ]
        assert main(["train", *env, *flags, "--output", str(tmp_path / "run")]) == status
        said, output = capfd.readouterr()
        assert ("--resume" in said) == (status == 2 and (tmp_path / "run").exists())
        (line,) = [line for line in output.splitlines() if line.startswith("error:")]
        assert "GoalWithTasks-v0" in line
        assert named in line
        assert "Traceback" not in output
        assert multiprocessing.active_children() == []

    @pytest.mark.slow
    def test_worker_that_dies(self):
        config = EnvConfig(name="Goal-v0", kwargs={"wrong": "death"}, vectorization="async")
        env = make_task_vector_env(config, 2, 5)
        env.reset(seed=0)
        with pytest.raises(
            UserError, match=r"worker process of environment 'Goal-v0' died in step"
        ):
            env.step(np.zeros((2, 1), np.float32))
        env.close()
        assert multiprocessing.active_children() == []

    @pytest.mark.slow
    def test_an_error_of_the_system_in_a_worker_of_the_users_is_named(self):
        env = AsyncVectorEnv(
            [functools.partial(Goal, wrong="answer")] * 2, autoreset_mode=AutoresetMode.DISABLED
        )
        try:
            with as_task_vector_env(env, EnvConfig(), 2, 5) as envs:
                envs.reset(seed=0)
                with pytest.raises(UserError, match="failed in step: TimeoutError: no answer"):
                    envs.step(np.zeros((2, 1), np.float32))
        finally:
            env.close(terminate=True)

    @pytest.mark.slow
    @both_ways
    def test_run_keeps_its_last_checkpoint(self, vectorization, tmp_path):
        kwargs = {"wrong": "step", "after": 50}
        env = {"name": "Goal-v0", "kwargs": kwargs, "vectorization": vectorization}
        with pytest.raises(UserError, match="stuck in step"):
            _train(tmp_path, env, num_iterations=50)
        assert list((tmp_path / "run" / "checkpoints").iterdir())
        assert maml_rl.load(tmp_path / "run").config.num_iterations == 50
        assert multiprocessing.active_children() == []

    @pytest.mark.slow
    @pytest.mark.parametrize("task", [{"wrong name": 1.0}, 3.0], ids=["names", "type"])
    @both_ways
    def test_task_of_another_kind(self, task, vectorization):
        env = make_task_vector_env(
            EnvConfig(name="GoalWithTasks-v0", vectorization=vectorization), 1, 5
        )
        with pytest.raises(UserError, match=r"GoalWithTasks-v0.*(wrong name.*KeyError|got 3\.0)"):
            env.set_tasks([task])
        env.close()
        assert multiprocessing.active_children() == []


SCRIPT = """
import multiprocessing
import gymnasium as gym
from gymnasium.envs.classic_control import PendulumEnv
import maml_rl

gym.register(id="OfAScript-v0", entry_point=PendulumEnv)

if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    env = {"name": "OfAScript-v0", "kwarg_ranges": {"g": [5, 15]}, "vectorization": "async"}
    quiet = {"final_evaluation": False, "final_video": False}
    sizes = {"meta_batch_size": 2, "num_episodes": 2, "horizon": 5, "num_iterations": 1}
    maml_rl.train(maml_rl.load_config(env=env, logging=quiet, output="run", device="cpu", **sizes))
    assert multiprocessing.active_children() == []
"""


@pytest.mark.thorough
def test_workers_may_be_spawned(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "checkpoints" / "000001").is_dir()
