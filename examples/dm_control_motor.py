"""dm_control's cartpole-balance, as Motor-v0: strength and sign of the motor are unknown.

Needs the extra ``suites``. In this folder:

    python -m maml_rl.train --env dm_control_motor:Motor-v0 --policy.action_scale 1
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import mujoco
import shimmy
from dm_control.mujoco.wrapper.mjbindings import sizes

# dm_control 1.0.50 reads every array in this table, and MuJoCo 4 no longer has some of them.
for struct, cls in (("mjmodel", mujoco.MjModel), ("mjdata", mujoco.MjData)):
    for name in set(sizes.array_sizes[struct]) - set(dir(cls)):
        del sizes.array_sizes[struct][name]

gym.register_envs(shimmy)


class Motor(gym.Wrapper):
    """Balance a pole on a cart whose motor has an unknown gear, N per unit of the action."""

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(gym.make("dm_control/cartpole-balance-v0", render_mode=render_mode))
        self.gear = 10.0  # dm_control's own

    def sample_tasks(self, num_tasks: int) -> list[dict[str, float]]:
        """Draw gears from 5 to 15 N of either sign."""
        signs = self.np_random.choice([-1.0, 1.0], num_tasks)
        return [
            {"gear": float(gear)} for gear in signs * self.np_random.uniform(5.0, 15.0, num_tasks)
        ]

    def set_task(self, task: dict[str, float]) -> None:
        """Set the gear, N."""
        self.gear = task["gear"]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Reset, and set the gear in the model."""
        self.env.unwrapped.physics.model.actuator_gear[0, 0] = self.gear
        return self.env.reset(seed=seed)


gym.register(id="Motor-v0", entry_point=Motor, max_episode_steps=100)
