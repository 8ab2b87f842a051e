"""Sweeps and changed arguments of ``evaluate``, on custom environments and built-in families."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

import maml_rl

# registers the built-in families, before the fixture remembers what is registered
import maml_rl.settings.parser
from maml_rl.cli import main
from maml_rl.env_flags import env_of
from maml_rl.errors import UserError
from maml_rl.settings.drawn_tasks import with_fixed

TINY: dict[str, Any] = {
    "meta_batch_size": 2,
    "num_episodes": 2,
    "horizon": 3,
    "num_iterations": 1,
    "device": "cpu",
}
QUIET = {"final_evaluation": False, "final_video": False}


class Arm(gym.Env):
    """Its reward shows its arguments and its task."""

    observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, gain: float = 1.0, name: str = "arm", link_mass: float = 0.0) -> None:
        self.gain, self.offset, self.link_mass = gain, len(name), link_mass
        self.num_links = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        reward = 1000 * self.gain + 100 * self.offset + 10 * self.num_links + self.link_mass
        return np.zeros(2, np.float32), float(reward), False, False, {}


class ArmWithTasks(Arm):
    def sample_tasks(self, num_tasks: int) -> list[dict[str, Any]]:
        masses = self.np_random.uniform(5, 6, num_tasks)
        return [{"link_mass": mass, "num_links": np.int64(2), "gait": "trot"} for mass in masses]

    def set_task(self, task: dict[str, Any]) -> None:
        assert isinstance(task["num_links"], (int, np.integer))
        if task["link_mass"] > 100:
            raise ValueError("too heavy")
        self.num_links, self.link_mass = task["num_links"], task["link_mass"]


@pytest.fixture(autouse=True)
def _registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    before = dict(gym.registry)
    gym.register(id="Arm-v0", entry_point=Arm)
    gym.register(id="ArmWithTasks-v0", entry_point=ArmWithTasks)
    yield
    gym.registry.clear()
    gym.registry.update(before)


def train(name: str, **env: Any) -> None:
    maml_rl.train(
        maml_rl.load_config(env={"name": name, **env}, logging=QUIET, output="run", **TINY)
    )


def evaluated(*argv: str) -> list[dict[str, Any]]:
    small = [
        "--num_tasks=2",
        "--num_episodes=1",
        "--num_steps=0",
        "--device=cpu",
        "--output=results",
    ]
    if "--task" in argv:
        del small[0]
    assert main(["evaluate", "run", *argv, *small]) == 0
    return json.loads(Path("results/results.json").read_text())["results"]


def returns(result: dict[str, Any]) -> list[float]:
    """Per step of the horizon, of each task."""
    return [entry["returns"][0] / TINY["horizon"] for entry in result["tasks"]]


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    capsys.readouterr()
    assert main([*argv[:1], "run", *argv[1:]]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert not Path("run/evaluation").exists()
    return line


@pytest.mark.slow
def test_a_number_of_a_task_that_the_environment_draws_is_swept() -> None:
    train("ArmWithTasks-v0")
    plain, *swept = evaluated("--dynamics", "link_mass=1:4:4")
    assert all(5 <= value % 10 <= 6 for value in returns(plain))
    assert [result["swept"]["link_mass"] for result in swept] == [1, 2, 3, 4]
    assert [returns(result) for result in swept] == [[1320.0 + mass] * 2 for mass in (1, 2, 3, 4)]
    assert [entry["task"] for entry in swept[1]["tasks"]] == [
        {"link_mass": 2.0, "num_links": 2, "gait": "trot"}
    ] * 2
    assert Path("results/sweep_link_mass.png").exists()


@pytest.mark.slow
def test_an_integer_stays_one_and_two_sweeps_make_a_grid() -> None:
    train("ArmWithTasks-v0")
    results = evaluated("--dynamics", "num_links=1:3:3,link_mass=1:2:2")
    assert len(results) == 1 + 3 + 2 + 6
    tasks = [result["tasks"][0]["task"] for result in results if "num_links" in result["swept"]]
    assert {type(task["num_links"]) for task in tasks} == {int}
    assert returns(results[-1]) == [1332.0] * 2
    assert Path("results/grid_num_links_link_mass.png").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "tasks",
    [{"kwarg_ranges": {"link_mass": [5, 6]}}, {"task_list": [{"link_mass": 5}, {"link_mass": 6}]}],
)
def test_an_argument_that_is_drawn_is_swept(tasks: dict[str, Any]) -> None:
    train("Arm-v0", **tasks)
    _, *swept = evaluated("--dynamics", "link_mass=1:4:2")
    assert [returns(result) for result in swept] == [[1301.0] * 2, [1304.0] * 2]


@pytest.mark.slow
def test_a_task_number_of_a_family_is_swept() -> None:
    train("HalfCheetahVel")
    _, *swept = evaluated("--dynamics", "goal_velocity=0.5:1:2")
    assert [entry["task"] for result in swept for entry in result["tasks"]] == [
        *[{"goal_velocity": 0.5}] * 2,
        *[{"goal_velocity": 1.0}] * 2,
    ]


@pytest.mark.slow
def test_a_number_that_the_family_draws_beside_its_body_is_swept() -> None:
    train("CrippledHalfCheetah")
    _, *swept = evaluated("--dynamics", "disabled_actuator=1:2:2,body_mass=2:3:2")
    assert {entry["task"]["disabled_actuator"] for entry in swept[0]["tasks"]} == {1}
    assert {entry["task"]["body_mass"] for entry in swept[-1]["tasks"]} == {3}
    assert {entry["task"]["disabled_actuator"] for entry in swept[-1]["tasks"]} == {2}


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("env", "flags", "words"),
    [
        (
            "ArmWithTasks-v0",
            ["--dynamics=link_mas=1:2:2"],
            ["no numeric value 'link_mas'", "mean link_mass?", "num_links"],
        ),
        ("ArmWithTasks-v0", ["--dynamics=gait=1:2:2"], ["no numeric value 'gait'"]),
        ("ArmWithTasks-v0", ["--dynamics=link_mass=1:200:2"], ["too heavy"]),
        ("ArmWithTasks-v0", ["--dynamics=link_mass=3"], ["no dynamics", "LOW:HIGH:POINTS"]),
        ("Arm-v0", ["--dynamics=gain=1:2:2"], ["no numeric value 'gain'", "no numeric values"]),
        ("Arm-v0", ["--env.gian=2"], ["'gian'", "Did you mean 'gain'?", "gain, name, link_mass"]),
        ("Arm-v0", ["--tasks.gian=2"], ["'gian'", "Did you mean 'gain'?", "gain, name, link_mass"]),
        ("Arm-v0", ["--env.name=Pendulum-v1"], ["env.name is fixed by the run"]),
        ("Arm-v0", ["--tasks.kwarg_ranges={gain: [1, 2]}"], ["do not come from env.kwarg_ranges"]),
        ("HalfCheetahVel", ["--dynamics=goal_velocity=0:1e6:2"], ["goal_velocity"]),
        ("HalfCheetahVel", ["--dynamics=body_mas=1:2:2"], ["'body_mas'", "'body_mass'"]),
        ("HalfCheetahVel", ["--env.hihg=3"], ["no setting 'hihg'", "Did you mean high?"]),
    ],
)
def test_what_cannot_be_set_is_refused_before_anything_is_played(
    env: str, flags: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    train(env)
    line = refused(capsys, "evaluate", *flags)
    assert all(word in line for word in words), line


@pytest.mark.parametrize(
    ("env", "name", "message"),
    [
        (
            "HalfCheetahVel",
            "goal_velocity",
            "goal_velocity is a value of its tasks: choose",
        ),
        (
            "HalfCheetahVel",
            "goal_velocty",
            "sweep over it with goal_velocity=LOW:HIGH",
        ),
        ("HalfCheetahVel", "body_mas", "unknown dynamics 'body_mas'. Did you mean 'body_mass'"),
        (
            "PointNavigation",
            "mass",
            "Values of its tasks are goal_x, goal_y: choose",
        ),
    ],
)
def test_a_task_value_is_swept_and_is_not_dynamics(env: str, name: str, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        env_of(maml_rl.load_config(env=env), [f"--env.dynamics.{name}=1.0"])


@pytest.mark.parametrize("command", ["evaluate", "record"])
def test_an_argument_that_is_drawn_is_not_set_in_silence(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    train("Arm-v0", kwarg_ranges={"link_mass": [5, 6]})
    for flag in ("--env.link_mass=3", "--env.kwargs.link_mass=3", "--tasks.link_mass=3"):
        assert "link_mass is drawn for each task" in refused(capsys, command, flag)


@pytest.mark.slow
def test_an_argument_is_changed() -> None:
    train("Arm-v0", kwarg_ranges={"link_mass": [0, 0]}, gain=3)
    for flags, expected in (
        ([], 3300),
        (["--env.gain", "2"], 2300),
        (["--tasks.gain=2"], 2300),
        (["--env.kwargs.gain=2", "--env.kwargs.name", "robot"], 2500),
        (["--env.kwargs", "{gain: 2, name: robot}"], 2500),
        (["--env.gain=2", "--task", "link_mass=7"], 2307),
    ):
        (result,) = evaluated(*flags)
        assert set(returns(result)) == {expected}, flags


@pytest.mark.slow
def test_ranges_are_merged_by_argument() -> None:
    train("Arm-v0", kwarg_ranges={"link_mass": [5, 6], "gain": [2, 2]})
    for flag in (
        "--tasks.kwarg_ranges={link_mass: [1, 1]}",
        "--tasks.kwarg_ranges.link_mass=[1, 1]",
    ):
        (result,) = evaluated(flag)
        assert returns(result) == [2301.0] * 2


def test_a_fixed_value_is_an_integer_if_the_old_and_the_new_one_are() -> None:
    task = {"count": 2, "mass": 0.5}
    for new, type_of in ((3.0, int), (1.5, float)):
        fixed = with_fixed(task, {"count": new, "mass": 3}, "env")
        assert fixed == {"count": new, "mass": 3}
        assert type(fixed["count"]) is type_of
    assert task == {"count": 2, "mass": 0.5}


def test_numbers_of_every_task_are_replaced_from_python() -> None:
    train("ArmWithTasks-v0")
    agent = maml_rl.load("run")
    evaluation = maml_rl.evaluate(
        agent, num_tasks=2, num_episodes=1, num_steps=0, fixed={"link_mass": 3}
    )
    assert [task["link_mass"] for task in evaluation.tasks] == [3, 3]
    for fixed, message in (
        ({"gait": 3}, "no numeric value 'gait'"),
        ({"link_mass": "a"}, "link_mass must be a finite number, got 'a'"),
        ({"link_mass": None}, "link_mass must be a finite number, got None"),
        (5, "fixed must map names of task values to numbers, got 5"),
    ):
        with pytest.raises(UserError, match=message):
            maml_rl.evaluate(agent, num_tasks=2, num_episodes=1, num_steps=0, fixed=fixed)
