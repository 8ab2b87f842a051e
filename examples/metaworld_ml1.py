"""Meta-World's ML1, one manipulation task whose goal is unknown, as ML1-v0.

Needs the extra ``suites``. In this folder:

    python -m maml_rl.train --env metaworld_ml1:ML1-v0 --policy.action_scale 1 --output ../runs/ml1
    python -m maml_rl.evaluate ../runs/ml1 --env.split test
"""

from __future__ import annotations

import functools
from typing import Any

import gymnasium as gym
import metaworld
import mujoco
import numpy as np
from metaworld.sawyer_xyz_env import SawyerMocapBase


def reset_mocap_welds(self: SawyerMocapBase) -> None:
    """Weld the hand to its mocap body: Meta-World's values, in the columns that they are for.

    Meta-World 3.0.0 assigns 11 values to a row of ``eq_data``, which has 12 in MuJoCo 3.17 and 4.
    """
    welds = self.model.eq_type == mujoco.mjtEq.mjEQ_WELD
    self.model.eq_data[welds, :11] = [0, 0, 0, 0, 0, 0, -1, 0, 0, 0, 5]


SawyerMocapBase.reset_mocap_welds = reset_mocap_welds


@functools.cache
def benchmark(task: str) -> metaworld.ML1:
    """Return ML1 of a task, which takes seconds to make."""
    return metaworld.ML1(task, seed=0)


class ML1(gym.Wrapper):
    """A task of Meta-World with 50 goals; ``split`` is train or test, each with its own goals."""

    def __init__(
        self, task: str = "reach-v3", split: str = "train", render_mode: str | None = None
    ) -> None:
        ml1 = benchmark(task)
        self.tasks = {"train": ml1.train_tasks, "test": ml1.test_tasks}[split]
        super().__init__(ml1.train_classes[task](render_mode=render_mode))
        self.set_task({"goal_index": 0})

    def sample_tasks(self, num_tasks: int) -> list[dict[str, int]]:
        """Draw goals, as indices into the tasks of the split."""
        indices = self.np_random.integers(len(self.tasks), size=num_tasks)
        return [{"goal_index": int(index)} for index in indices]

    def set_task(self, task: dict[str, int]) -> None:
        """Set the goal, which the policy does not observe."""
        self.env.set_task(self.tasks[task["goal_index"]])

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Reset; Meta-World ignores the seed of ``reset``."""
        if seed is not None:
            self.env.seed(seed)
        return self.env.reset()

    def step(self, action: np.ndarray) -> Any:
        """Step, and report success under the name that maml_rl reads."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, reward, terminated, truncated, info | {"is_success": info["success"]}


gym.register(id="ML1-v0", entry_point=ML1, max_episode_steps=50)
