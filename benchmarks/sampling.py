"""Share of physics in the time of a collection (floor / collection).

Every round collects a batch of episodes as training does, then replays the same controls on the
same unfinished simulations through ``Batch.step`` alone. Prints the ratio of the two times; both
use the same number of simulations and threads. Simulations whose episode has ended are not stepped;
"steps taken / all" is the share of the steps that were.

    python benchmarks/sampling.py --env HalfCheetahVel
    python benchmarks/sampling.py --all
"""

from __future__ import annotations

import argparse
import time
from typing import Any, NamedTuple

import maml_envs
import numpy as np
from floor import Recorder, run, summary

from maml_rl.cli import positive
from maml_rl.learners.trials import sample_tasks
from maml_rl.settings.parser import load_config
from maml_rl.system.random_streams import Phase, RandomStreams
from maml_rl.training.compose import open_training

_CONTACT_FORCES = {"observe_contact_forces": True, "contact_cost_weight": 5e-4}


class Rounds(NamedTuple):
    """Measurements, one entry per round."""

    speeds: list[float]
    """Control steps per second."""
    ratios: list[float]
    """Floor over collection; empty for a family without MuJoCo physics."""
    milliseconds: list[tuple[float, float, float]]
    """Per control step of all simulations: total, inside ``Batch.step``, and in the replay."""
    shares: list[float]
    """Control steps taken / (tasks x episodes x horizon)."""


def measure(env: dict[str, Any], args: argparse.Namespace) -> Rounds:
    """Alternate collection and replay."""
    sizes = {
        "meta_batch_size": args.num_tasks,
        "num_episodes": args.num_episodes,
        "horizon": args.horizon,
    }
    rounds = Rounds([], [], [], [])
    with open_training(load_config(env=env, **sizes)) as training:
        agent, collector, _ = training
        has_physics = hasattr(collector.env.unwrapped.engine, "batch")
        recorder = Recorder(collector.env) if has_physics else None
        belief = agent.learner.prior(agent.state, args.num_tasks)
        for i in range(args.rounds + 1):
            # collect
            streams = RandomStreams(0, Phase.TRAINING, i)
            collector.set_tasks(sample_tasks(collector, streams))
            if recorder:
                recorder.clear()
            start = time.perf_counter()
            noise = collector.noise(agent.learner.draw_noise, streams, 0)
            actor = agent.learner.actor(agent.state, belief, noise)
            episodes = collector.collect(actor, streams, 0)
            seconds = time.perf_counter() - start
            if i == 0:  # warm-up
                continue
            # speed
            num_steps = int(episodes.mask.sum())
            rounds.speeds.append(num_steps / seconds)
            rounds.shares.append(num_steps / episodes.mask.numel())
            # replay
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
    parser.add_argument("--rounds", type=positive, default=7)
    parser.add_argument("--num_tasks", type=positive, default=40)
    parser.add_argument("--num_episodes", type=positive, default=20)
    parser.add_argument("--horizon", type=positive, default=100)
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
            parts = f"in Batch.step {inside:.2f}, in the replay {replay:.2f}"
            print(f"ms per step of all:     {whole:.2f}, {parts}")
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
    print("| family | floor / collection | control steps/s | steps taken / all |")
    print("| --- | --- | --- | --- |")
    for name, env in cases.items():
        rounds = measure(env, args)
        ratio = "no physics"
        if rounds.ratios:
            low, high = min(rounds.ratios), max(rounds.ratios)
            ratio = f"{np.median(rounds.ratios):.2f} ({low:.2f} to {high:.2f})"
        speed, share = np.median(rounds.speeds), np.median(rounds.shares)
        print(f"| {name} | {ratio} | {speed:,.0f} | {share:.2f} |", flush=True)


if __name__ == "__main__":
    run(main)
