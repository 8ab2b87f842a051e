"""docs/export.md: its Python examples work, and a NaN of a sensor does not reach the memory."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import maml_envs  # noqa: F401
import numpy as np
import pytest

import maml_rl

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs" / "export.md").read_text()
EXPORT, ACT, MEMORY, ADAPT = re.findall(r"```python\n(.*?)```", DOCUMENT, flags=re.DOTALL)

pytestmark = pytest.mark.thorough


@pytest.fixture(autouse=True)
def in_a_new_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def env() -> gym.Env[Any, Any]:
    env = gym.make("maml_rl/HalfCheetahVel-v0", max_episode_steps=20)
    env.unwrapped.set_task({"goal_velocity": 1.0})  # type: ignore[attr-defined]
    return env


def test_files_act_as_the_agent(env: gym.Env[Any, Any]) -> None:
    agent = maml_rl.load("HalfCheetahVel")
    observation, _ = env.reset(seed=0)
    names: dict[str, Any] = {"agent": agent, "observation": observation}
    exec(EXPORT, names)
    exec(ACT.replace("\nactions = torch", "\nscripted = torch"), names)
    expected, _ = agent.predict(observation, deterministic=True)
    for actions in (names["actions"], names["scripted"]):
        np.testing.assert_allclose(actions[0], expected, atol=1e-5)
    np.testing.assert_allclose(names["mean"].clip(-1, 1)[0].numpy(), expected, atol=1e-5)


def test_a_memory_survives_a_broken_sensor(env: gym.Env[Any, Any]) -> None:
    current = env.reset(seed=0)[0]
    episodes = [0]

    def read_sensors() -> np.ndarray:
        episodes[-1] += 1
        reading = np.array(current)
        if episodes == [5]:
            reading[3] = np.nan
        return reading

    def act(action: np.ndarray) -> tuple[float, bool]:
        nonlocal current
        current, reward, terminated, truncated, _ = env.step(action)
        if truncated:
            current = env.reset()[0]
            episodes.append(0)
        return float(reward), terminated or truncated

    names: dict[str, Any] = {"read_sensors": read_sensors, "act": act}
    exec(MEMORY, names)
    assert episodes == [20] * 10 + [0]
    assert np.isfinite(names["memory"]).all()
    assert not names["is_first_call"]


def test_maml_adapts_to_a_log() -> None:
    rng = np.random.default_rng(0)
    log = {
        "observations": np.zeros((4, 17)),
        "actions": rng.normal(size=(4, 6)) * 0.2,
        "rewards": np.arange(4.0),
        "episode_ends": [False, True, False, True],
    }
    names: dict[str, Any] = {"log": log}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", maml_rl.errors.MamlRLWarning)
        exec(ADAPT, names)
    assert names["adapted"].num_adaptation_steps == 1
    assert names["action"].shape == (6,)
    assert Path("policy.onnx").is_file()
