"""Time and control steps of training until the return after adaptation reaches a target.

Trains a preset until the mean of the last 3 iterations' return after the learner's adaptation steps
reaches the target. Every few iterations, an iteration's physics is replayed through ``Batch.step``
alone. Prints the wall time of the iterations, control steps, iterations, and the ratio of the wall
time to that of the physics of all iterations, extrapolated by control steps. Start-up and replays
are not part of the wall time. The exit status is 1 if the target is not reached.

    python benchmarks/time_to_return.py --env HalfCheetahDir --target 265 --seed 0

Other flags are settings, as for ``python -m maml_rl.train``. No files are written: ``output``,
``logging`` and ``callbacks`` have no effect, and only ``num_iterations`` limits the training.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import NamedTuple

import numpy as np
from floor import Recorder

from maml_rl.cli import positive
from maml_rl.errors import UserError
from maml_rl.settings.config import Config
from maml_rl.settings.parser import parse_training_arguments
from maml_rl.training.compose import open_training

NUM_AVERAGED = 3
"""Iterations whose mean return must reach the target."""


class Result(NamedTuple):
    """Training until the target was reached, or to its last iteration."""

    is_reached: bool
    last_return: float
    """Mean return after adaptation in the last iterations."""
    num_iterations: int
    num_env_steps: int
    seconds: float
    """Wall time of the iterations."""
    floor_s: float
    """Time of their physics alone, extrapolated from the iterations that were replayed."""


def train_to(target: float, config: Config, replay_every: int) -> Result:
    """Train until the return after adaptation reaches ``target``, or to the last iteration.

    Args:
        target: undiscounted return, mean over tasks and episodes.
        config: settings of the run.
        replay_every: iterations from one replay to the next; the first iteration is replayed.

    Raises:
        UserError: if the environment is not a MuJoCo family.
    """
    returns: list[float] = []
    seconds = 0.0
    num_steps = num_steps_replayed = 0
    replayed_s = 0.0
    with open_training(config) as training:
        engine = getattr(training.collector.env.unwrapped, "engine", None)
        if not hasattr(engine, "batch"):
            raise UserError(
                f"{config.env.name} has no physics to compare with: choose a MuJoCo family, such "
                "as HalfCheetahDir"
            )
        recorder = Recorder(training.collector.env)
        tag = f"train/return_after_{training.agent.learner.num_adaptation_steps}_steps"
        while training.iteration < config.num_iterations:
            # one iteration of training
            recorder.clear()
            start = time.perf_counter()
            state, metrics, _ = training.iterate()
            seconds += time.perf_counter() - start
            training = training.continued(state)
            returns.append(metrics[tag])
            # its physics alone
            num_steps += recorder.num_steps
            if (training.iteration - 1) % replay_every == 0:
                replayed_s += recorder.replay_s()
                num_steps_replayed += recorder.num_steps
            # the target
            print(f"{training.iteration}: return {returns[-1]:.1f}", file=sys.stderr, flush=True)
            last_return = float(np.mean(returns[-NUM_AVERAGED:]))
            is_reached = len(returns) >= NUM_AVERAGED and last_return >= target
            if is_reached:
                break
        return Result(
            is_reached=is_reached,
            last_return=last_return,
            num_iterations=training.iteration,
            num_env_steps=training.agent.state.counters["num_env_steps"],
            seconds=seconds,
            floor_s=replayed_s * num_steps / num_steps_replayed,
        )


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--target", type=float, required=True, help="return to reach")
    parser.add_argument(
        "--replay_every", type=positive, default=5, help="iterations from one replay to the next"
    )
    args, settings = parser.parse_known_args(argv)
    try:
        config = parse_training_arguments(settings)
        result = train_to(args.target, config, args.replay_every)
    except UserError as error:
        parser.error(str(error))
    reached = "reached" if result.is_reached else "NOT reached"
    print(f"{config.env.name}, seed {config.seed}: target {args.target:g} {reached}")
    print(f"return:                 {result.last_return:.1f}")
    print(f"wall time:              {result.seconds:.1f} s")
    print(f"control steps:          {result.num_env_steps / 1e6:.2f} M")
    print(f"iterations:             {result.num_iterations}")
    print(f"floor / wall time:      {result.floor_s / result.seconds:.2f}")
    return int(not result.is_reached)


if __name__ == "__main__":
    sys.exit(main())
