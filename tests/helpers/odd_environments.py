"""Environments with oddities of real ones. Each is a walk on a line with one oddity."""

from __future__ import annotations

import os
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces

LIMIT = 12
"""Horizon of the registered environments."""


class Walk(gym.Env):
    """A point on a line that must reach a goal; has no oddity."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    observation_space: spaces.Space[Any] = spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space: spaces.Space[Any] = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.goal = 0.0
        self.position = 0.0
        self.num_steps = 0

    def sample_tasks(self, n: int) -> list[dict[str, Any]]:
        return [{"goal": float(goal)} for goal in self.np_random.uniform(-1, 1, n)]

    def set_task(self, task: dict[str, Any]) -> None:
        self.goal = task["goal"]

    def reset(
        self, *, seed: int | None = None, options: dict | None = None
    ) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.position, self.num_steps = float(self.np_random.normal()), 0
        return self.observation(), self.info()

    def step(self, action: np.ndarray) -> tuple[np.ndarray, Any, bool, bool, dict]:
        self.position += 0.2 * float(np.clip(action[0], -1, 1))
        self.num_steps += 1
        return self.observation(), -abs(self.position - self.goal), False, False, self.info()

    def observation(self) -> np.ndarray:
        return np.array([self.position], np.float32)

    def info(self) -> dict[str, Any]:
        return {}

    def render(self) -> Any:
        frame = np.full((64, 128, 3), 255, np.uint8)
        frame[:, int(np.clip(64 + 20 * self.position, 0, 127))] = 0
        return frame


class Success(Walk):
    """Succeeds at step 3 if it starts right of 0; ``how`` is the way it reports success."""

    def __init__(self, how: str = "every step", render_mode: str | None = None) -> None:
        super().__init__(render_mode)
        self.how = how

    def reset(
        self, *, seed: int | None = None, options: dict | None = None
    ) -> tuple[np.ndarray, dict]:
        observation, info = super().reset(seed=seed)
        self.starts_right = self.position > 0
        return observation, info

    def step(self, action: np.ndarray) -> tuple[np.ndarray, Any, bool, bool, dict]:
        observation, reward, _, truncated, _ = super().step(action)
        is_success = self.starts_right and self.num_steps == 3
        reports = {
            "every step": {"is_success": self.starts_right and self.num_steps >= 3},
            "only then, and ends": {"is_success": True} if is_success else {},
            "only then": {"is_success": True} if is_success else {},
            "None until then": {"is_success": True if is_success else None},
            "an array of one": {
                "is_success": np.array([self.starts_right and self.num_steps >= 3])
            },
            "NumPy's bool": {"is_success": np.bool_(self.starts_right and self.num_steps >= 3)},
            "a number": {"is_success": float(self.starts_right and self.num_steps >= 3)},
            "never": {},
            "in words": {"is_success": "yes"},
        }
        ends = is_success and self.how == "only then, and ends"
        return observation, reward, ends, truncated, reports[self.how]


class HalfBounded(Walk):
    """Actions with two bounds, no bounds, a lower bound, and ±float32's maximum as bounds."""

    huge = np.finfo(np.float32).max
    action_space = spaces.Box(
        np.array([0.0, -np.inf, 0.5, -huge], np.float32),
        np.array([10.0, np.inf, np.inf, huge], np.float32),
    )


class TorchInside(Walk):
    """Uses torch's threads in every reset."""

    def reset(
        self, *, seed: int | None = None, options: dict | None = None
    ) -> tuple[np.ndarray, dict]:
        matrix = torch.ones(800, 800)
        assert float((matrix @ matrix).exp().sum()) > 0
        return super().reset(seed=seed)


class OldSeeding(Walk):
    """Seeds a RandomState (32-bit seeds) and a simulator that takes a C int."""

    def reset(
        self, *, seed: int | None = None, options: dict | None = None
    ) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        if seed is not None:
            np.int32(seed)  # raises OverflowError beyond 31 bits
            self.old = np.random.RandomState(seed)
        self.position = self.old.normal()
        return self.observation(), {}


class GlobalRandom(Walk):
    """Draws its initial position from NumPy's and torch's global generators."""

    def reset(
        self, *, seed: int | None = None, options: dict | None = None
    ) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.position = np.random.uniform() + float(torch.rand(()))  # noqa: NPY002
        return self.observation(), {}


class RaisingClose(Walk):
    """Raises in ``close`` and in step ``raises_at``."""

    def __init__(self, raises_at: int = 1000, render_mode: str | None = None) -> None:
        super().__init__(render_mode)
        self.raises_at = raises_at

    def step(self, action: np.ndarray) -> tuple[np.ndarray, Any, bool, bool, dict]:
        if self.num_steps == self.raises_at:
            raise RuntimeError("the arm hit the table")
        return super().step(action)

    def close(self) -> None:
        raise RuntimeError("the window is gone")


class ChangingInfos(Walk):
    """Infos whose array lengths, entry types and keys change from step to step."""

    def info(self) -> dict[str, Any]:
        contacts = np.zeros(int(self.np_random.integers(4)))
        odd = [None, "text", 3, np.float32(2), {"nested": contacts}, [1, 2]][self.num_steps % 6]
        return {"contacts": contacts, "odd": odd, f"only at {self.num_steps}": 1}


class OddRewards(Walk):
    """Rewards as NumPy scalars, arrays of one entry, integers and tensors; flags as NumPy bools."""

    def step(self, action: np.ndarray) -> tuple[np.ndarray, Any, bool, bool, dict]:
        observation, reward, _, _, info = super().step(action)
        kinds = [
            np.float64(reward),
            np.array([reward], np.float32),
            round(reward),
            torch.tensor(reward),
        ]
        return observation, kinds[self.num_steps % 4], np.bool_(False), np.bool_(False), info


class OddFrames(Walk):
    """Frames as a list, in gray, with an alpha channel, as int64, as floats in [0, 1], or None."""

    def __init__(self, kind: str = "list", render_mode: str | None = None) -> None:
        super().__init__(render_mode)
        self.kind = kind

    def render(self) -> Any:
        frame = super().render()
        kinds = {
            "list": [frame],
            "gray": frame[..., :1],
            "flat": frame[..., 0],
            "opacity": np.concatenate([frame, frame[..., :1]], axis=-1),
            "int64": frame.astype(np.int64),
            "float": frame / 255,
            "None": None,
        }
        return kinds[self.kind]


class OddNames(Walk):
    """Its arguments have the same names as settings of the package."""

    def __init__(
        self,
        name: str = "one",
        kwargs: dict[str, float] | None = None,
        task_list: list[str] | None = None,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(render_mode)
        assert name == "on"
        assert kwargs == {"off": 2}
        assert task_list == ["12:30", "null", "2"]


class OddTasks(Walk):
    """Tasks with strings, NumPy scalars and nested lists."""

    def sample_tasks(self, n: int) -> list[dict[str, Any]]:
        goals = self.np_random.uniform(-1, 1, n)
        names = ["left", "on"]
        return [
            {"goal": np.float32(g), "gait": names[i % 2], "legs": np.int64(4), "path": [[1, 2], ()]}
            for i, g in enumerate(goals)
        ]

    def set_task(self, task: dict[str, Any]) -> None:
        self.goal = float(task["goal"])
        assert task["gait"] in ("left", "on")
        assert task["legs"] == 4
        assert not isinstance(task["legs"], float)


class ChangesTasks(Walk):
    """Modifies the task dictionary passed to ``set_task``, and a list in it."""

    def sample_tasks(self, n: int) -> list[dict[str, Any]]:
        return [{**task, "path": []} for task in super().sample_tasks(n)]

    def set_task(self, task: dict[str, Any]) -> None:
        task["path"].append(1)
        self.goal = task.pop("goal") + len(task["path"])


class Differentiates(Walk):
    """Computes a gradient with torch in every step."""

    def step(self, action: np.ndarray) -> tuple[np.ndarray, Any, bool, bool, dict]:
        x = torch.tensor(self.position, requires_grad=True)
        (x**2).backward()
        return super().step(action)


class NeedsTask(Walk):
    """Receives its task only in the options of ``reset``."""

    set_task = None  # type: ignore[assignment]

    def reset(
        self, *, seed: int | None = None, options: dict | None = None
    ) -> tuple[np.ndarray, dict]:
        self.goal = (options or {})["task"]["goal"]
        return super().reset(seed=seed)


class EndsEarly(Walk):
    """Ends where it starts to the right, and needs the number of updates before an episode."""

    takes_episode = True

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        self.episode = (options or {})["episode"]
        return super().reset(seed=seed)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, Any, bool, bool, dict]:
        observation, reward, *_ = super().step(action)
        return observation, reward, self.position > 0, False, {}


class Integers(Walk):
    """Declares bytes, and returns numbers of another type; ``scale`` 1 leaves int64."""

    observation_space = spaces.Box(0, 255, (2,), np.uint8)

    def __init__(
        self, scale: float = 1.0, dtype: str = "float64", render_mode: str | None = None
    ) -> None:
        super().__init__(render_mode)
        self.scale = scale
        self.dtype = dtype

    def observation(self) -> np.ndarray:
        integers = np.array([7, min(int(10 * abs(self.position)), 255)])
        return integers if self.scale == 1 else (integers * self.scale).astype(self.dtype)


class Breaks(Walk):
    """Reports that it is unstable at step 3 if it starts to the right; then it must be reset."""

    is_broken = False

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        self.is_broken = False
        return super().reset(seed=seed)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, Any, bool, bool, dict]:
        assert not self.is_broken, "stepped after it broke"
        observation, reward, *_ = super().step(action)
        self.is_broken = self.num_steps == 3 and self.position > 0
        return observation, reward, False, False, {"unstable": self.is_broken}


class Exits(Walk):
    """Ends the program, as games do whose window is closed."""

    def step(self, action: np.ndarray) -> tuple[np.ndarray, Any, bool, bool, dict]:
        raise SystemExit


class MovesFolder(Walk):
    """Changes the working directory, as simulators do that load their assets."""

    def __init__(self, folder: str = "/", render_mode: str | None = None) -> None:
        super().__init__(render_mode)
        os.chdir(folder)


class NeedsMass(gym.Env):
    """Has an argument without a default, and no tasks of its own."""

    observation_space: spaces.Space[Any] = spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space: spaces.Space[Any] = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, mass: float, render_mode: str | None = None) -> None:
        self.mass = mass

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        return np.array([self.mass], np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, Any, bool, bool, dict]:
        return np.array([self.mass], np.float32), 0.0, False, False, {}


class GoalOnly(NeedsMass):
    """Takes a goal, and draws none."""

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(0.0)

    def set_task(self, task: dict[str, Any]) -> None:
        self.mass = task["goal"]


def make_goal_only(render_mode: str | None = None) -> gym.Env:
    return GoalOnly()


class Layout(Walk):
    """Its observation has other parts in some tasks, of the same total size."""

    observation_space = spaces.Tuple((spaces.Discrete(2), spaces.Discrete(3)))

    def set_task(self, task: dict[str, Any]) -> None:
        super().set_task(task)
        sizes = (2, 3) if self.goal > 0 else (3, 2)
        self.observation_space = spaces.Tuple([spaces.Discrete(n) for n in sizes])

    def observation(self) -> Any:
        return (0, 0)


class BareAssertion(Walk):
    """Raises an AssertionError without a message."""

    def step(self, action: np.ndarray) -> tuple[np.ndarray, Any, bool, bool, dict]:
        assert self.num_steps < 3
        return super().step(action)


class ConstantReward(Walk):
    """The reward is always 1."""

    def step(self, action: np.ndarray) -> tuple[np.ndarray, Any, bool, bool, dict]:
        observation, _, terminated, truncated, info = super().step(action)
        return observation, 1.0, terminated, truncated, info


ODD = (
    Walk,
    Success,
    HalfBounded,
    TorchInside,
    OldSeeding,
    GlobalRandom,
    RaisingClose,
    ChangingInfos,
    OddRewards,
    OddFrames,
    OddNames,
    OddTasks,
    ChangesTasks,
    Differentiates,
    NeedsTask,
    BareAssertion,
    EndsEarly,
    Integers,
    Breaks,
    Exits,
    MovesFolder,
    NeedsMass,
    Layout,
    ConstantReward,
)

for _environment in ODD:
    gym.register(
        id=f"odd/{_environment.__name__}-v0", entry_point=_environment, max_episode_steps=LIMIT
    )
gym.register(id="odd/GoalOnly-v0", entry_point=make_goal_only, max_episode_steps=LIMIT)
