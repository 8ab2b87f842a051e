"""Share of physics and of every other part in the time of a meta-iteration.

Every round runs one second-order meta-iteration as training does, then replays its controls through
``Batch.step`` alone. Prints the ratio of the two times, and the share of each part.

    python benchmarks/meta_iteration.py --env HalfCheetahVel
    python benchmarks/meta_iteration.py --env HalfCheetahVel --outer promp
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np
from floor import Recorder, peak_memory_gib, run, summary

from maml_rl.cli import positive
from maml_rl.settings.config import Config
from maml_rl.settings.parser import load_config
from maml_rl.training.compose import open_training


def report(config: Config, num_rounds: int, title: str) -> None:
    """Measure iterations of training, and print the shares of their parts.

    Args:
        config: settings of the run.
        num_rounds: measured iterations.
        title: first line to print.

    Raises:
        SystemExit: if the environment has no physics.
    """
    ratios, seconds, shares = [], [], []
    parts: list[str] = []
    with open_training(config) as training:
        engine = training.collector.env.unwrapped.engine
        if not hasattr(engine, "batch"):
            sys.exit(f"{config.env.name} has no physics to compare with")
        recorder = Recorder(training.collector.env)
        for i in range(num_rounds + 1):
            recorder.clear()
            start = time.perf_counter()
            state, metrics, _ = training.iterate()
            total = time.perf_counter() - start
            training = training.continued(state)
            if i > 0:  # the first round is a warm-up
                seconds.append(total)
                ratios.append(recorder.replay_s() / total)
                timed = [name for name in metrics if name.startswith("time/")]
                parts = [name for name in timed if name.endswith("_s")]
                shares.append([metrics[name] / total for name in parts])
    print(title)
    print(f"floor / iteration: {summary(ratios)}")
    print(f"seconds:           {summary(seconds)}")
    for name, share in zip(parts, np.median(shares, axis=0), strict=True):
        print(f"  {name.removeprefix('time/').removesuffix('_s'):<20} {100 * share:5.1f} %")
    print(f"peak memory:       {peak_memory_gib():.2f} GiB")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--env", default="HalfCheetahVel")
    parser.add_argument("--rounds", type=positive, default=5)
    parser.add_argument("--num_tasks", type=positive, default=40)
    parser.add_argument("--num_episodes", type=positive, default=20)
    parser.add_argument("--horizon", type=positive, default=100)
    parser.add_argument("--hidden_sizes", type=positive, nargs="*", default=[64, 64])
    parser.add_argument(
        "--outer", default="trpo", help="outer step; trpo has the preset's settings"
    )
    parser.add_argument(
        "--fisher_state_stride", type=int, help="setting of trpo (default: the preset's)"
    )
    args = parser.parse_args()
    outer: dict[str, object] = {"name": args.outer}
    if args.fisher_state_stride is not None:
        outer["fisher_state_stride"] = args.fisher_state_stride
    config = load_config(
        env=args.env,
        meta_batch_size=args.num_tasks,
        num_episodes=args.num_episodes,
        horizon=args.horizon,
        policy={"hidden_sizes": args.hidden_sizes},
        outer=outer,
    )
    sizes = f"{args.num_tasks} tasks x {args.num_episodes} episodes x {args.horizon} steps"
    title = f"{args.env}, {args.outer}, {sizes}, hidden sizes {args.hidden_sizes}"
    report(config, args.rounds, title)


if __name__ == "__main__":
    run(main)
