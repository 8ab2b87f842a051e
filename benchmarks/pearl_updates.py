"""Updates of PEARL per second, against the matrix products of an update alone.

Every round takes updates as training does, then computes the matrix products of as many updates:
those of the forward passes and of the gradients, of the same sizes, in the same blocks of tasks on
the same threads. Prints the time of both, and their ratio.

    python benchmarks/pearl_updates.py --env HalfCheetahVel
    python benchmarks/pearl_updates.py --env HalfCheetahVel --hidden_sizes 128 128
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Iterator, Sequence

import torch
from floor import run, summary

from maml_rl.cli import positive
from maml_rl.learners.pearl.learner import PEARL, _learned
from maml_rl.learners.pearl.networks import NUM_CRITICS
from maml_rl.learners.pearl.replay import make_replay
from maml_rl.learners.pearl.sac import sac_update
from maml_rl.learners.pearl.updates import drawn_batch
from maml_rl.settings.learners import PEARLConfig
from maml_rl.settings.parser import load_config
from maml_rl.system.distributed import Ranks
from maml_rl.system.random_streams import Phase, RandomStreams
from maml_rl.system.thread_pool import TASKS_PER_BLOCK, block_ends, map_blocks
from maml_rl.system.torch_runtime import torch_threads
from maml_rl.training.compose import open_training

Shape = tuple[int, int, int]
"""(M, K, N) of a product of (M, K) and (K, N)."""


def products(
    num_rows: int, sizes: Sequence[int], *, weights: bool, first_input: bool
) -> Iterator[Shape]:
    """The products of a network's forward pass and gradients.

    Args:
        num_rows: of its input.
        sizes: of its layers.
        weights: whether the gradient of the weights is computed.
        first_input: whether that of the network's input is.
    """
    for i, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
        yield num_rows, fan_in, fan_out
        if weights:
            yield fan_in, num_rows, fan_out
        if first_input or (weights and i > 0):
            yield num_rows, fan_out, fan_in


def products_of_update(learner: PEARL, config: PEARLConfig, num_tasks: int) -> list[Shape]:
    """All products of an update of some tasks; the GRU's are not counted."""
    networks = learner.networks
    rows, context = num_tasks * config.batch_size, num_tasks * config.context_size
    encoder = (
        learner.encoder.transition_size,
        *config.encoder_hidden_sizes,
        2 * networks.latent_size,
    )
    state = networks.observation_size + networks.latent_size
    actor = (state, *config.hidden_sizes, 2 * networks.action_size)
    critic = (state + networks.action_size, *config.hidden_sizes, 1)
    shapes = [
        *products(context, encoder, weights=True, first_input=False),
        # Targets.
        *products(rows, actor, weights=False, first_input=False),
        # The actor's step.
        *products(rows, actor, weights=True, first_input=False),
    ]
    for _ in range(NUM_CRITICS):
        shapes += products(rows, critic, weights=False, first_input=False)  # targets
        shapes += products(rows, critic, weights=True, first_input=True)
        shapes += products(rows, critic, weights=False, first_input=True)  # the actor's step
    return shapes


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--env", default="HalfCheetahVel")
    parser.add_argument("--rounds", type=positive, default=5)
    parser.add_argument("--updates", type=positive, default=40, help="of a round")
    parser.add_argument("--threads", type=positive, help="default: all cores")
    parser.add_argument("--hidden_sizes", type=positive, nargs="*", default=[256, 256])
    parser.add_argument("--tasks_per_update", type=positive, default=8)
    parser.add_argument("--batch_size", type=positive, default=128)
    parser.add_argument("--context_size", type=positive, default=64)
    args = parser.parse_args()
    names = ("hidden_sizes", "tasks_per_update", "batch_size", "context_size")
    settings = {name: getattr(args, name) for name in names}
    config = load_config(
        env=args.env,
        meta_batch_size=8,
        num_episodes=1,
        device="cpu",
        torch_threads=args.threads,
        learner={"name": "pearl", "num_training_tasks": 16, "num_updates": 5, **settings},
    )
    assert isinstance(config.learner, PEARLConfig)
    with open_training(config) as training:
        state = training.iterate().state
        learner = training.agent.learner
        assert isinstance(learner, PEARL)
        replay = make_replay(state.history, config.learner.context_window)
        rng = RandomStreams(0, Phase.TRAINING).minibatches()
        num_threads = torch.get_num_threads()
        learned = _learned(state)
        blocks = block_ends(args.tasks_per_update, TASKS_PER_BLOCK)
        factors = [
            [
                (torch.randn(m, k), torch.randn(k, n), torch.empty(m, n))
                for m, k, n in products_of_update(learner, config.learner, stop - start)
            ]
            for start, stop in blocks
        ]

        def multiply(i: int) -> None:
            for a, b, out in factors[i]:
                torch.mm(a, b, out=out)

        seconds, floors = [], []
        for _ in range(args.rounds + 1):
            start = time.perf_counter()
            with torch_threads(1):
                for _ in range(args.updates):
                    batch = drawn_batch(
                        replay,
                        state.normalizer,
                        learner.networks,
                        config.learner,
                        learner.reads_next_observation,
                        rng,
                    )
                    learned, _ = sac_update(
                        learner.networks,
                        learner.encoder,
                        learned,
                        batch,
                        config.learner,
                        Ranks(),
                        TASKS_PER_BLOCK,
                        num_threads,
                    )
            middle = time.perf_counter()
            for _ in range(args.updates):
                map_blocks(multiply, [(i,) for i in range(len(factors))])
            seconds.append((middle - start) / args.updates)
            floors.append((time.perf_counter() - middle) / args.updates)
    # The first round is a warm-up.
    seconds, floors = seconds[1:], floors[1:]
    print(
        f"{args.env}, {args.tasks_per_update} tasks x {args.batch_size} transitions, "
        f"hidden sizes {args.hidden_sizes}, {num_threads} threads"
    )
    print(f"products / update:  {summary([a / b for a, b in zip(floors, seconds, strict=True)])}")
    print(f"updates per second: {summary([1 / value for value in seconds])}")
    print(f"products alone:     {summary([1 / value for value in floors])} per second")


if __name__ == "__main__":
    run(main)
