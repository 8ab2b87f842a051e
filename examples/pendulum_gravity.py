"""Meta-train on Gymnasium's Pendulum-v1, with gravity g (m/s²) as the unknown task."""

from __future__ import annotations

import argparse
import tempfile

import maml_rl
from maml_rl.analysis.evaluation import evaluate


def main(argv: list[str] | None = None) -> None:
    """Train, then print the return after 0, 1 and 2 adaptation steps on fresh tasks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num_iterations", type=int, default=20)
    parser.add_argument("--meta_batch_size", type=int, default=10)
    parser.add_argument("--num_episodes", type=int, default=10)
    parser.add_argument("--horizon", type=int, default=100)
    parser.add_argument(
        "--gravity", type=float, nargs=2, default=(5.0, 15.0), metavar=("LOW", "HIGH")
    )
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        config = maml_rl.load_config(
            env={"name": "Pendulum-v1", "kwarg_ranges": {"g": list(args.gravity)}},
            policy={"action_scale": 1.0},
            logging={"final_evaluation": False, "final_video": False},
            num_iterations=args.num_iterations,
            meta_batch_size=args.meta_batch_size,
            num_episodes=args.num_episodes,
            horizon=args.horizon,
            output=f"{folder}/run",
        )
        agent = maml_rl.load(maml_rl.train(config))
    result = evaluate(
        agent, num_tasks=args.meta_batch_size, num_episodes=args.num_episodes, num_steps=2
    )
    gravities = [task["g"] for task in result.tasks]
    print(f"gravities from {min(gravities):.1f} to {max(gravities):.1f} m/s²")
    print(result.table())


if __name__ == "__main__":
    main()
