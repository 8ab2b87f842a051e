"""CPU time of a rendered frame, with MuJoCo's default shadow map and with the one that fits it.

Prints a row for each size of the image.

    python benchmarks/rendering.py --env AntDir
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import gymnasium
import maml_envs
from gymnasium.envs.mujoco.mujoco_rendering import MujocoRenderer

DEFAULT_SHADOW_SIZE = 4096
NUM_FRAMES = 10


def frame_times_s(name: str, side: int) -> list[float]:
    """Return the mean CPU time of a frame of ``side`` × ``side`` pixels with either size, in s."""
    env: Any = gymnasium.make(
        f"maml_rl/{name}-v0", render_mode="rgb_array", width=side, height=side
    ).unwrapped
    env.reset(seed=0)
    env.render()  # reduces the size in the model
    quality = env.model.vis.quality
    times = []
    for shadow_size in (DEFAULT_SHADOW_SIZE, quality.shadowsize):
        quality.shadowsize = shadow_size
        renderer = MujocoRenderer(env.model, env.engine.data, width=side, height=side)
        renderer.render("rgb_array")  # creates the context
        started = time.process_time()
        for _ in range(NUM_FRAMES):
            renderer.render("rgb_array")
        times.append((time.process_time() - started) / NUM_FRAMES)
        renderer.close()
    env.close()
    return times


def main() -> None:
    """Print a row for each size."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    robots = [name for name, family in maml_envs.FAMILIES.items() if family.robot.parameters]
    parser.add_argument("--env", default="HalfCheetahDir", choices=robots, metavar="FAMILY")
    name = parser.parse_args().env
    for side in (480, 128):
        default, fitting = frame_times_s(name, side)
        print(f"{side} x {side}: {default:.3f} s -> {fitting:.3f} s, ratio {default / fitting:.1f}")


if __name__ == "__main__":
    main()
