"""Collection against the floor: how much of the time is physics?

Every round collects a batch of episodes as training does, then replays the same controls on the same live simulations
through bare ``Batch.step``; the ratio of the two times is printed. Both use the same number of simulations and threads.

    python benchmarks/sampling.py --env HalfCheetahVel
"""

from __future__ import annotations

import argparse
import time

from floor import Recorder, summary

from maml_rl.adaptation import sample_tasks
from maml_rl.config_files import load_config
from maml_rl.policies import make_stack
from maml_rl.random_streams import Phase, RandomStreams
from maml_rl.training import open_trainer


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="HalfCheetahVel")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--num_tasks", type=int, default=40)
    parser.add_argument("--num_episodes", type=int, default=20)
    parser.add_argument("--horizon", type=int, default=100)
    args = parser.parse_args()
    config = load_config(
        env=args.env, meta_batch_size=args.num_tasks, num_episodes=args.num_episodes, horizon=args.horizon
    )
    with open_trainer(config) as (trainer, state, _):
        collector = trainer.collector
        physics = hasattr(collector.env.unwrapped.engine, "batch")
        recorder = Recorder(collector.env) if physics else None
        stack = make_stack(state.theta, args.num_tasks)
        ratios, speeds = [], []
        for i in range(args.rounds + 1):
            streams = RandomStreams(0, Phase.TRAINING, i)
            collector.set_tasks(sample_tasks(collector, streams))
            if recorder:
                recorder.clear()
            start = time.perf_counter()
            episodes = collector.collect(stack, streams, 0, None)
            seconds = time.perf_counter() - start
            if i > 0:  # the first round warms up
                speeds.append(float(episodes.mask.sum()) / seconds)
                if recorder:
                    ratios.append(recorder.replay_s() / seconds)
    print(f"{args.env}, {args.num_tasks} x {args.num_episodes} simulations, horizon {args.horizon}")
    print(f"control steps/s:        {summary(speeds)}")
    if ratios:
        print(f"floor / collection:     {summary(ratios)}")


if __name__ == "__main__":
    main()
