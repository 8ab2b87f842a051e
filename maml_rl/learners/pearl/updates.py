"""The updates of an iteration: SAC, each time on what it draws from the replay."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from maml_rl.learners.pearl.context import encoder_inputs
from maml_rl.learners.pearl.context_encoder import ContextEncoder
from maml_rl.learners.pearl.networks import Networks
from maml_rl.learners.pearl.replay import (
    HistoryEntry,
    Replay,
    consecutive_rows,
    drawn_rows,
    drawn_tasks,
    make_replay,
    transitions,
)
from maml_rl.learners.pearl.sac import Batch, Learned, sac_update
from maml_rl.policies.normalizer import ObservationNormalizer
from maml_rl.settings.learners.pearl import PEARLConfig
from maml_rl.system.distributed import Ranks
from maml_rl.system.torch_runtime import torch_threads


class Updates(NamedTuple):
    """The result of an iteration's updates; if one fails, nothing has changed."""

    learned: Learned
    metrics: dict[str, float]
    detail: str = ""
    """Why it failed; empty if it succeeded."""


def take_updates(
    before: Learned,
    history: Sequence[HistoryEntry],
    normalizer: ObservationNormalizer | None,
    num_updates: int,
    *,
    networks: Networks,
    encoder: ContextEncoder,
    config: PEARLConfig,
    reads_next: bool,
    block_size: int,
    rng: np.random.Generator,
    ranks: Ranks,
    progress: Callable[[str], None],
) -> Updates:
    """Take the updates of an iteration; if one fails, keep what was learned before them.

    Args:
        before: what was learned before.
        history: what was collected.
        normalizer: of observations.
        num_updates: number of updates.
        networks: the architecture of actor and critics.
        encoder: the architecture of the encoder.
        config: settings.
        reads_next: whether the encoder reads s'.
        block_size: tasks whose gradient is computed at once.
        rng: stream of the draws, the same in all processes.
        ranks: the processes.
        progress: called before each update.
    """
    replay = make_replay(history, config.context_window)
    if replay.num_tasks == 0:
        return Updates(before, {}, "the replay has no episode with z from the prior")
    if num_updates == 0:
        return Updates(before, {}, "the iteration has no transition to learn from")
    learned = before
    num_threads = torch.get_num_threads()
    steps: list[dict[str, float]] = []
    try:
        with torch_threads(1):  # what is outside of blocks is too small to be split
            for number in range(num_updates):
                progress(f"update {number + 1} of {num_updates}")
                batch = drawn_batch(replay, normalizer, networks, config, reads_next, rng)
                learned, metrics = sac_update(
                    networks, encoder, learned, batch, config, ranks, block_size, num_threads
                )
                steps.append(metrics)
    except FloatingPointError as error:
        return Updates(before, {}, str(error))
    means = {name: float(np.mean([step[name] for step in steps])) for name in steps[0]}
    return Updates(learned, means)


def drawn_batch(
    replay: Replay,
    normalizer: ObservationNormalizer | None,
    networks: Networks,
    config: PEARLConfig,
    reads_next: bool,
    rng: np.random.Generator,
) -> Batch:
    """Draw what one update learns from; see :func:`take_updates`."""
    tasks = drawn_tasks(rng, replay.num_tasks, config.tasks_per_update)
    rows = drawn_rows(rng, replay.everything, tasks, config.batch_size)
    draw = consecutive_rows if config.encoder == "gru" else drawn_rows
    context = transitions(replay.entry, draw(rng, replay.prior, tasks, config.context_size))
    batch = transitions(replay.entry, rows)

    def noise(*shape: int) -> Tensor:
        values = rng.standard_normal((len(tasks), *shape), dtype=np.float32)
        return torch.from_numpy(values).to(batch.rewards.device)

    if normalizer is not None:
        batch = batch._replace(
            observations=normalizer.normalize(batch.observations),
            next_observations=normalizer.normalize(batch.next_observations),
        )
    return Batch(
        transitions=batch,
        context=encoder_inputs(context, normalizer, reads_next),
        latent_noise=noise(networks.latent_size),
        next_action_noise=noise(config.batch_size, networks.action_size),
        action_noise=noise(config.batch_size, networks.action_size),
    )
