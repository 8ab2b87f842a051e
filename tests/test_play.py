"""``play``: what the window shows, when it closes, and what is printed."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import glfw
import gymnasium as gym
import mujoco
import numpy as np
import pytest
from gymnasium import spaces
from maml_envs import FAMILIES

import maml_rl
from maml_rl.agents.agent import Agent
from maml_rl.cli import main
from maml_rl.system.random_streams import Phase, RandomStreams

HORIZON = 4
FPS = 8
EVENTS: list[tuple[str, Any]] = []
"""What happened in environments with a window, in order."""
DISPLAY = {"DISPLAY", "WAYLAND_DISPLAY"}


class Shown(gym.Env):
    """A point on a line, whose window is a list of events."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["human"], "render_fps": FPS}
    observation_space = spaces.Box(-9.0, 9.0, (1,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, render_mode: str | None = None, fails_in: str = "") -> None:
        self.render_mode = render_mode
        self.fails_in = fails_in
        self.goal = 0.0
        self._show("open", None)

    def _show(self, event: str, value: Any) -> None:
        if self.render_mode == "human":
            EVENTS.append((event, value))
            if event == self.fails_in == "step":
                raise KeyboardInterrupt
            if event == self.fails_in:
                raise RuntimeError("No available video device")

    def sample_tasks(self, num_tasks: int) -> list[dict[str, float]]:
        return [{"goal": float(goal)} for goal in self.np_random.uniform(-1, 1, num_tasks)]

    def set_task(self, task: dict[str, float]) -> None:
        if abs(task["goal"]) > 1:
            raise ValueError("the goal must be within 1")
        self.goal = task["goal"]
        self._show("task", self.goal)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.x = self.np_random.uniform(-0.1, 0.1, 1).astype(np.float32)
        self._show("reset", self.x[0])
        return self.x.copy(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.x = (self.x + action).astype(np.float32)
        reward = -abs(float(self.x[0]) - self.goal)
        self._show("step", reward)
        return self.x.copy(), reward, False, False, {}

    def close(self) -> None:
        self._show("close", None)


class OfMujoco(Shown):
    """As an environment with MuJoCo's window."""

    model = mujoco.MjModel.from_xml_string("<mujoco/>")


class WithoutWindow(Shown):
    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": FPS}


class WithoutImages(Shown):
    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}


@pytest.fixture(autouse=True)
def _registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    before = dict(gym.registry)
    for env in (Shown, OfMujoco, WithoutWindow, WithoutImages):
        gym.register(id=f"{env.__name__}-v0", entry_point=env)
    EVENTS.clear()
    yield
    gym.registry.clear()
    gym.registry.update(before)


class Clock:
    """Time that passes only by waiting."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(importlib.import_module("maml_rl.play"), "time", clock)
    return clock


def train(name: str = "Shown", **kwargs: Any) -> Agent:
    config = maml_rl.load_config(
        env={"name": f"{name}-v0", "kwargs": kwargs},
        device="cpu",
        num_iterations=1,
        meta_batch_size=2,
        num_episodes=2,
        horizon=HORIZON,
        policy={"hidden_sizes": [4]},
        logging={"final_evaluation": False, "final_video": False},
        output="run",
    )
    return maml_rl.load(maml_rl.train(config))


def play(*argv: str) -> int:
    EVENTS.clear()
    return main(["play", "run", *argv])


def shown(event: str) -> list[Any]:
    return [value for name, value in EVENTS if name == event]


def episode(agent: Agent, goal: float, deterministic: bool) -> float:
    """The return of the episode that ``play --seed 3`` plays."""
    streams = RandomStreams(3, Phase.RECORDING)
    env = Shown()
    env.set_task({"goal": goal})
    observation, _ = env.reset(seed=streams.reset_seed(0, 1))
    rng = streams.actions(0, 0)
    total = 0.0
    for _ in range(HORIZON):
        action, _ = agent.predict(observation, deterministic=deterministic, rng=rng)
        observation, reward, *_ = env.step(action)
        total += reward
    return total


@pytest.mark.parametrize("flags", [[], ["--stochastic"]])
def test_an_episode_after_each_adaptation_step(
    flags: list[str], clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    agent = train()
    capsys.readouterr()
    assert play("--task=goal=0.5", "--num_steps=2", "--num_episodes=3", "--seed=3", *flags) == 0
    # The episodes, played by hand.
    expected = ["Shown-v0, goal 0.50"]
    for label in ("before adaptation", "after 1 step", "after 2 steps"):
        total = episode(agent, 0.5, deterministic=not flags)
        expected += [label, f"  return {total:.2f} in 4 control steps"]
        agent = agent.adapt(task={"goal": 0.5}, num_steps=1, num_episodes=3, seed=3)
    out, err = capsys.readouterr()
    assert out.splitlines() == expected
    assert len(set(expected)) == len(expected), "adaptation changes the return"
    assert err == ""
    # The window: one, that shows all episodes from the same state, in real time.
    events = [name for name, _ in EVENTS]
    one_episode = ["reset", *["step"] * HORIZON]
    assert events == ["open", "task", *one_episode * 3, "close"]
    assert shown("task") == [0.5]
    assert len(set(shown("reset"))) == 1
    assert clock.now == pytest.approx(3 * HORIZON / FPS)


def test_a_slow_window_is_not_followed_by_a_fast_one(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    train()
    shown_at = []

    def slow_step(self: Shown, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if self.render_mode == "human":
            clock.now += 10.0 if len(shown_at) == 1 else 0.0
            shown_at.append(clock.now)
        return self.x.copy(), 0.0, False, False, {}

    monkeypatch.setattr(Shown, "step", slow_step)
    assert play("--num_steps=0") == 0
    dt = 1 / FPS
    assert shown_at == pytest.approx([dt, 2 * dt + 10, 2 * dt + 10, 3 * dt + 10])


def test_without_a_task_one_is_drawn_with_the_seed(capsys: pytest.CaptureFixture[str]) -> None:
    train()
    tasks = []
    for seed in ("1", "1", "2"):
        assert play("--seed", seed, "--num_steps=0") == 0
        tasks.append(shown("task"))
    assert tasks[0] == tasks[1] != tasks[2]
    assert f"Shown-v0, goal {tasks[2][0]:.2f}" in capsys.readouterr().out


def test_ctrl_c_closes_the_window(capsys: pytest.CaptureFixture[str]) -> None:
    train(fails_in="step")
    assert play() == 130
    assert [name for name, _ in EVENTS] == ["open", "task", "reset", "step", "close"]
    assert capsys.readouterr().err == "stopped\n"


@pytest.mark.parametrize("how", ["button", "escape"])
def test_it_stops_when_the_user_closes_mujocos_window(
    how: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train("OfMujoco")
    capsys.readouterr()
    monkeypatch.setattr(glfw, "init", lambda: True)
    monkeypatch.setattr(glfw, "get_primary_monitor", lambda: "monitor")

    def is_closed() -> bool:
        return len(shown("step")) >= HORIZON + 2

    # Escape destroys the window; the button only asks for it.
    has_context = {"button": lambda: True, "escape": lambda: not is_closed()}[how]
    monkeypatch.setattr(glfw, "get_current_context", lambda: "window" if has_context() else None)
    monkeypatch.setattr(glfw, "window_should_close", lambda window: is_closed())
    assert play("--num_steps=5", "--num_episodes=2") == 0
    assert len(shown("step")) == HORIZON + 2
    assert EVENTS[-1] == ("close", None)
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines[1:] if "return" not in line] == [
        "before adaptation",
        "after 1 step",
    ]
    assert lines[-1] == "after 1 step", "the second episode did not end"


@pytest.mark.parametrize(
    ("name", "kwargs", "flags", "problem"),
    [
        ("Shown", {}, ["--task=goal=2"], "the goal must be within 1"),
        ("Shown", {}, ["--task=goal"], "NAME=VALUE"),
        ("Shown", {}, ["--dynamics=goal=0:1:3"], "play does not sweep"),
        ("Shown", {}, ["--task=goal=1", "--dynamics=goal=1"], "leave out --dynamics"),
        ("Shown", {}, ["--num_steps=-1"], "--num_steps"),
        ("Shown", {"fails_in": "open"}, [], "No available video device"),
        ("Shown", {"fails_in": "reset"}, [], "No available video device"),
        ("WithoutWindow", {}, [], "has no window: its render modes are rgb_array"),
        ("WithoutWindow", {}, [], "class; python -m maml_rl.record RUN writes a video"),
        ("WithoutImages", {}, [], "its render modes are none, expected human in metadata"),
    ],
)
def test_what_cannot_be_played_is_refused(
    name: str,
    kwargs: dict[str, Any],
    flags: list[str],
    problem: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    train(name, **kwargs)
    capsys.readouterr()
    assert play(*flags) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert problem in line
    assert ("maml_rl.record" in line) == (name == "WithoutWindow")
    assert shown("step") == []


@pytest.mark.thorough
@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no variable for a display")
@pytest.mark.parametrize("display", [{}, {"DISPLAY": ":4321"}], ids=["none", "wrong"])
def test_without_a_display_the_error_is_one_line(display: dict[str, str], tmp_path: Path) -> None:
    """In a process: without a check, GLFW aborts it."""
    env = {name: value for name, value in os.environ.items() if name not in DISPLAY}
    command = [sys.executable, "-m", "maml_rl", "play", "HalfCheetahVel"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=tmp_path, env={**env, **display}
    )
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: a window needs a display, and there is none (")
    assert "python -m maml_rl.record" in line


@pytest.mark.slow
@pytest.mark.skipif(not DISPLAY & os.environ.keys(), reason="there is no display")
def test_a_built_in_family_in_a_real_window(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "maml_rl", "play", "HalfCheetahVel"]
    flags = ["--task=goal_velocity=1.5", "--num_steps=1", "--num_episodes=2"]
    done = subprocess.run(
        [*command, *flags], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("in 100 control steps") == 2


def test_the_camera_of_a_window_follows_the_robot() -> None:
    """Frames are rendered by a camera of the model, which Gymnasium's window ignores."""
    from maml_envs.engines.rendering import SceneRenderer

    robot = FAMILIES["HalfCheetahVel"].robot
    assert robot.camera_name == "track"
    model = mujoco.MjModel.from_xml_string("<mujoco/>")
    renderer = SceneRenderer(
        model, mujoco.MjData(model), "human", robot.free_camera, {"camera_name": robot.camera_name}
    )
    config = renderer._renderer.default_cam_config
    assert config["type"] == mujoco.mjtCamera.mjCAMERA_TRACKING.value
    assert config["trackbodyid"] == 1
    assert config["distance"] == robot.free_camera.distance
