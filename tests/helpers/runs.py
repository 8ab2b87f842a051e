"""Small training runs, readers of their files, and a custom environment."""

from __future__ import annotations

import csv
import errno
import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

import maml_rl
from maml_rl.runs.checkpoint import latest_checkpoint
from maml_rl.runs.checkpoint_files import Checkpoint, load_checkpoint
from maml_rl.settings.config import Config

NOTHING_AT_THE_END = {"final_evaluation": False, "final_video": False}


def tiny(output: Path, **settings: Any) -> Config:
    """Configuration of a PointNavigation run that takes a fraction of a second."""
    values: dict[str, Any] = {
        "env": {"name": "PointNavigation"},
        "device": "cpu",
        "num_iterations": 6,
        "meta_batch_size": 3,
        "num_episodes": 2,
        "horizon": 5,
        "policy": {"hidden_sizes": [8]},
        "logging": NOTHING_AT_THE_END,
    }
    logging = values["logging"] | settings.pop("logging", {})
    return maml_rl.load_config(**values | settings | {"logging": logging}, output=str(output))


def full_disk(*arguments: object, **options: object) -> None:
    """Raise what writing to a full disk raises."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def last(run: Path) -> Checkpoint:
    """The latest checkpoint of a run."""
    path = latest_checkpoint(run / "checkpoints")
    assert path is not None
    return load_checkpoint(path, torch.device("cpu"))


def assert_same_state(a: Path, b: Path) -> None:
    """Assert that the latest checkpoints are bit-identical."""
    first, second = last(a), last(b)
    assert first.values == second.values
    assert first.tensors.keys() == second.tensors.keys()
    for group, tensors in first.tensors.items():
        assert tensors.keys() == second.tensors[group].keys()
        for name, value in tensors.items():
            assert torch.equal(value, second.tensors[group][name]), f"{group}/{name}"


def same_theta(a: Path, b: Path) -> bool:
    """Whether the latest parameters are bit-identical."""
    first, second = last(a).tensors["theta"], last(b).tensors["theta"]
    return all(torch.equal(first[name], second[name]) for name in first)


def is_clock(name: str) -> bool:
    """Whether a metric is a wall-clock time."""
    return name.startswith("time/") and name.endswith("_s")


def progress(run: Path) -> list[dict[str, str]]:
    """Rows of progress.csv without wall-clock times."""
    with (run / "progress.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if not is_clock(k)} for row in csv.DictReader(file)]


def tensorboard_series(run: Path) -> dict[str, list[tuple[int, np.ndarray]]]:
    """Every TensorBoard series by tag: (step, value) in order of steps."""
    accumulator = EventAccumulator(str(run), size_guidance={"tensors": 0})
    accumulator.Reload()
    return {
        tag: [(event.step, make_ndarray(event.tensor_proto)) for event in accumulator.Tensors(tag)]
        for tag in accumulator.Tags()["tensors"]
    }


def scalars(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Every TensorBoard scalar by tag, without wall-clock times."""
    return {
        tag: [(step, float(value)) for step, value in points]
        for tag, points in tensorboard_series(run).items()
        if not is_clock(tag) and points[0][1].ndim == 0
    }


def animations(run: Path) -> list[tuple[int, bytes]]:
    """Step and content of every image in TensorBoard."""
    return [
        (step, value[2])  # width, height, content
        for tag, points in tensorboard_series(run).items()
        for step, value in points
        if tag.startswith("videos/")
    ]


def assert_equal_runs(a: Path, b: Path) -> None:
    """Assert the same state and metrics, and that each step of a metric is logged once."""
    assert_same_state(a, b)
    assert progress(a) == progress(b)
    assert scalars(a) == scalars(b)
    for tag, points in scalars(a).items():
        steps = [step for step, _ in points]
        assert len(set(steps)) == len(steps), tag


MODULE = """
import gymnasium as gym
import numpy as np


class Line(gym.Env):
    observation_space = gym.spaces.Box(-9.0, 9.0, (1,))
    action_space = gym.spaces.Box(-1.0, 1.0, (1,))
    goal = 0.0

    def sample_tasks(self, num_tasks):
        return [{"goal": float(goal)} for goal in self.np_random.uniform(-1, 1, num_tasks)]

    def set_task(self, task):
        self.goal = task["goal"]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = np.zeros(1, np.float32)
        return self.x.copy(), {}

    def step(self, action):
        self.x = np.clip(self.x + 0.1 * action, -9, 9).astype(np.float32)
        return self.x.copy(), -abs(float(self.x[0]) - self.goal), False, False, {}


gym.register("Line-v0", entry_point=Line)
"""


def reseal(path: Path) -> None:
    """Rewrite SHA256SUMS to match the checkpoint's files."""
    names = ("tensors.safetensors", "values.json")
    sums = [f"{hashlib.sha256((path / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    (path / "SHA256SUMS").write_text("".join(sums))
