"""Meta-train on dm_control's cartpole-balance: the strength and sign of the motor are unknown.

Needs the extra ``suites``. The module registers Motor-v0, also for commands.
"""

from __future__ import annotations

import argparse
import tempfile
from typing import Any

import gymnasium as gym
import mujoco
import shimmy
from dm_control.mujoco.wrapper.mjbindings import sizes

import maml_rl
from maml_rl.analysis.evaluation import evaluate

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


def main() -> None:
    """Train, then print the return before and after adaptation."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--num_iterations", type=int, default=15)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        config = maml_rl.load_config(
            env="Motor-v0",
            num_iterations=args.num_iterations,
            meta_batch_size=6,
            num_episodes=10,
            policy={"action_scale": 1.0},
            logging={"final_evaluation": False, "final_video": False},
            output=f"{folder}/run",
        )
        agent = maml_rl.load(maml_rl.train(config))
    print(evaluate(agent, num_tasks=10, num_episodes=10).table())


if __name__ == "__main__":
    main()
