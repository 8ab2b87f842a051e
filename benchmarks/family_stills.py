"""Render a still of every family into docs/images/families/, with the renderer of videos.

python benchmarks/family_stills.py
python benchmarks/family_stills.py --env AntGoal
"""

from __future__ import annotations

import argparse
from pathlib import Path

import maml_envs
import numpy as np
from PIL import Image

from maml_rl.analysis.video.rendering import make_rendering_env
from maml_rl.settings.env import EnvConfig

_SIZE = {"width": 240, "height": 240}


def main() -> None:
    """Render the state after a few random control steps."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--env", nargs="+", default=list(maml_envs.FAMILIES), help="families (default: all)"
    )
    parser.add_argument("--output", type=Path, default=Path("docs/images/families"))
    parser.add_argument("--num_steps", type=int, default=12)
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    for name in args.env:
        env = make_rendering_env(EnvConfig(name=name, kwargs=_SIZE))
        env.reset(seed=1)
        rng = np.random.default_rng(1)
        for _ in range(args.num_steps):
            env.step(rng.uniform(0.0, 0.5, env.action_space.shape) * env.action_space.high)
        palette = Image.fromarray(env.render()).quantize(128)
        palette.save(args.output / f"{name}.png", optimize=True)
        env.close()


if __name__ == "__main__":
    main()
