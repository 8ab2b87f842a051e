"""Cost of each meta-learner relative to first-order MAML.

Every round runs one iteration of each learner, all in one process. First-order MAML has one inner
step and the outer step adam. Prints the ratios of the time of a meta-iteration, and of the learner
alone (all but collection).

    python benchmarks/learners.py --env HalfCheetahDir
"""

from __future__ import annotations

import argparse
import contextlib
import time

import numpy as np
from floor import run

from maml_rl.cli import positive
from maml_rl.settings.parser import load_config
from maml_rl.training.compose import open_training

REFERENCE = "first-order MAML (adam)"
LEARNERS: dict[str, dict] = {
    REFERENCE: {"outer": {"name": "adam"}, "inner": {"first_order": True}},
    "adam": {"outer": {"name": "adam"}},
    "ppo, 5 epochs": {"outer": {"name": "ppo"}},
    "promp, 5 epochs": {"outer": {"name": "promp"}},
    "promp, first order": {"outer": {"name": "promp"}, "inner": {"first_order": True}},
    "trpo": {"outer": {"name": "trpo"}},
    "trpo, first order": {"outer": {"name": "trpo"}, "inner": {"first_order": True}},
    "reptile": {"outer": {"name": "reptile"}},
    "trpo, surrogate dice": {"outer": {"name": "trpo"}, "inner": {"surrogate": "dice"}},
    "trpo, surrogate likelihood_ratio": {
        "outer": {"name": "trpo"},
        "inner": {"surrogate": "likelihood_ratio"},
    },
    "trpo, Meta-SGD": {"outer": {"name": "trpo"}, "inner": {"learned_step_size": "per_parameter"}},
    "trpo, ANIL": {"outer": {"name": "trpo"}, "inner": {"adapts": "head"}},
    "trpo, CAVIA": {
        "outer": {"name": "trpo"},
        "inner": {"adapts": "context"},
        "policy": {"context_size": 8},
    },
    "trpo, E-MAML": {"outer": {"name": "trpo"}, "inner": {"exploration_credit": 1.0}},
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--env", default="HalfCheetahDir")
    parser.add_argument("--rounds", type=positive, default=5)
    parser.add_argument("--num_tasks", type=positive, default=40)
    args = parser.parse_args()
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in LEARNERS}
    with contextlib.ExitStack() as stack:
        opened = {}
        for name, settings in LEARNERS.items():
            config = load_config(env=args.env, meta_batch_size=args.num_tasks, **settings)
            opened[name] = stack.enter_context(open_training(config))
        for i in range(args.rounds + 1):
            for name, training in opened.items():
                start = time.perf_counter()
                state, metrics, _ = training.iterate()
                total = time.perf_counter() - start
                opened[name] = training.continued(state)
                if i > 0:  # the first round is a warm-up
                    seconds[name].append((total, total - metrics["time/collection_s"]))
    reference = np.array(seconds[REFERENCE])
    print(
        f"{args.env}, {args.num_tasks} tasks: ratio to {REFERENCE}, median (range) of "
        f"{args.rounds} rounds"
    )
    print(f"{'':<34} {'iteration':<20} learner alone")
    for name, values in seconds.items():
        ratios = np.array(values) / reference
        cells = [f"{np.median(r):.2f} ({r.min():.2f} to {r.max():.2f})" for r in ratios.T]
        print(f"{name:<34} {cells[0]:<20} {cells[1]}")


if __name__ == "__main__":
    run(main)
