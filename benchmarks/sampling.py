"""Collection against the floor: how much of the time is physics?

Every round collects a batch of episodes as training does, then replays the same controls on the
same live simulations through bare ``Batch.step``; the ratio of the two times is printed. Both use
the same number of simulations and threads.
Simulations whose episode ended are not stepped: the share of steps that were taken tells how many.

    python benchmarks/sampling.py --env HalfCheetahVel
    python benchmarks/sampling.py --all
"""

from __future__ import annotations

import argparse
import time
from typing import Any, NamedTuple

import maml_envs
import numpy as np
from floor import Recorder, summary

from maml_rl.learners.trials import sample_tasks
from maml_rl.policies.parameters import make_stack
from maml_rl.settings.parser import load_config
from maml_rl.system.random_streams import Phase, RandomStreams
from maml_rl.training.compose import open_trainer

_CONTACT_FORCES = {"observe_contact_forces": True, "contact_cost_weight": 5e-4}


class Rounds(NamedTuple):
    """What was measured, one entry per round."""

    speeds: list[float]
    """Control steps per second."""
    ratios: list[float]
    """Floor over collection; empty for a body without physics."""
    milliseconds: list[tuple[float, float, float]]
    """Of a control step of all simulations: the whole, inside ``Batch.step``, and in the replay."""
    shares: list[float]
    """Control steps that were taken, of tasks x episodes x horizon."""


def measure(env: dict[str, Any], args: argparse.Namespace) -> Rounds:
    """Collect and replay in turn."""
    sizes = {
        "meta_batch_size": args.num_tasks,
        "num_episodes": args.num_episodes,
        "horizon": args.horizon,
    }
    rounds = Rounds([], [], [], [])
    with open_trainer(load_config(env=env, **sizes)) as (trainer, state, _):
        collector = trainer.collector
        recorder = (
            Recorder(collector.env) if hasattr(collector.env.unwrapped.engine, "batch") else None
        )
        stack = make_stack(state.theta, args.num_tasks)
        for i in range(args.rounds + 1):
            streams = RandomStreams(0, Phase.TRAINING, i)
            collector.set_tasks(sample_tasks(collector, streams))
            if recorder:
                recorder.clear()
            start = time.perf_counter()
            episodes = collector.collect(stack, streams, 0, None)
            seconds = time.perf_counter() - start
            if i == 0:  # warms up
                continue
            num_steps = int(episodes.mask.sum())
            rounds.speeds.append(num_steps / seconds)
            rounds.shares.append(num_steps / episodes.mask.numel())
            if recorder:
                assert recorder.num_steps == num_steps or episodes.discarded.any(), (
                    "finished simulations were stepped"
                )
                inside_s, replay_s = recorder.inside_s, recorder.replay_s()
                rounds.ratios.append(replay_s / seconds)
                rounds.milliseconds.append(
                    tuple(1e3 * s / args.horizon for s in (seconds, inside_s, replay_s))
                )
    return rounds


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--env", default="HalfCheetahVel")
    parser.add_argument("--all", action="store_true", help="every family, as a table")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--num_tasks", type=int, default=40)
    parser.add_argument("--num_episodes", type=int, default=20)
    parser.add_argument("--horizon", type=int, default=100)
    args = parser.parse_args()
    if not args.all:
        rounds = measure({"name": args.env}, args)
        print(
            f"{args.env}, {args.num_tasks} x {args.num_episodes} simulations, horizon "
            f"{args.horizon}"
        )
        print(f"control steps/s:        {summary(rounds.speeds)}")
        print(f"steps taken / all:      {summary(rounds.shares)}")
        if rounds.ratios:
            print(f"floor / collection:     {summary(rounds.ratios)}")
            whole, inside, replay = np.median(rounds.milliseconds, axis=0)
            print(
                f"ms per step of all:     {whole:.2f}, in Batch.step {inside:.2f}, in the replay "
                f"{replay:.2f}"
            )
        return
    cases: dict[str, dict[str, Any]] = {name: {"name": name} for name in maml_envs.FAMILIES}
    cases["AntVel, contact forces"] = {"name": "AntVel", **_CONTACT_FORCES}
    cases["HumanoidDir, contact forces"] = {
        "name": "HumanoidDir",
        **_CONTACT_FORCES,
        "contact_cost_weight": 5e-7,
    }
    cases["HalfCheetahVel, dynamics"] = {
        "name": "HalfCheetahVel",
        "dynamics": {"body_mass": [0.5, 2.0]},
    }
    print(
        "| family | floor / collection | control steps/s | steps taken / all |\n| --- | --- | --- "
        "| --- |"
    )
    for name, env in cases.items():
        rounds = measure(env, args)
        shown = "no physics"
        if rounds.ratios:
            shown = f"{np.median(rounds.ratios):.2f} ({min(rounds.ratios):.2f} to {max(rounds.ratios):.2f})"
        print(
            f"| {name} | {shown} | {np.median(rounds.speeds):,.0f} | "
            f"{np.median(rounds.shares):.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
