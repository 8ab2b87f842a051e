"""Share of physics and of every other part in the time of an iteration of RL².

Every round plays trials and updates policy and value as training does, then replays its controls
through ``Batch.step`` alone. Prints the ratio of the two times, and the share of each part.

    python benchmarks/rl2_iteration.py --env HalfCheetahVel
    python benchmarks/rl2_iteration.py --env HalfCheetahVel --cell lstm --hypernetwork
"""

from __future__ import annotations

import argparse
from typing import get_args

from floor import run
from meta_iteration import report

from maml_rl.cli import positive
from maml_rl.settings.learners.rl2 import Cell
from maml_rl.settings.parser import load_config


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--env", default="HalfCheetahVel")
    parser.add_argument("--rounds", type=positive, default=3)
    parser.add_argument("--num_tasks", type=positive, default=200)
    parser.add_argument("--num_episodes", type=positive, default=2, help="of a trial")
    parser.add_argument("--horizon", type=positive, default=100)
    parser.add_argument("--hidden_size", type=positive, default=128)
    parser.add_argument("--num_epochs", type=positive, default=4)
    parser.add_argument("--cell", choices=get_args(Cell), default="gru")
    parser.add_argument("--hypernetwork", action="store_true")
    args = parser.parse_args()
    names = ("num_episodes", "hidden_size", "num_epochs", "cell", "hypernetwork")
    config = load_config(
        env=args.env,
        meta_batch_size=args.num_tasks,
        num_episodes=1,
        horizon=args.horizon,
        # All epochs, however far the policy moves.
        learner={"name": "rl2", "target_kl": 1e6, **{name: getattr(args, name) for name in names}},
    )
    sizes = f"{args.num_tasks} trials of {args.num_episodes} x {args.horizon} steps"
    network = f"{args.cell} {args.hidden_size}, hypernetwork {'yes' if args.hypernetwork else 'no'}"
    report(config, args.rounds, f"{args.env}, {sizes}, {network}, {args.num_epochs} epochs")


if __name__ == "__main__":
    run(main)
