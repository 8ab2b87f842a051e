"""Collect, adapt, collect again: what training, evaluation and a user's script all do with a batch of tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from maml_rl.advantages import with_advantages
from maml_rl.baseline import BaselineConfig
from maml_rl.collection import Collector
from maml_rl.episodes import Episodes
from maml_rl.errors import UserError
from maml_rl.maml import InnerConfig, adapt, step_sizes, with_context
from maml_rl.normalizer import ObservationNormalizer
from maml_rl.policies import Params, make_stack
from maml_rl.protocols import Task
from maml_rl.random_streams import RandomStreams
from maml_rl.stopwatch import Stopwatch
from maml_rl.surrogates import policy_gradient_loss

TASKS_PER_BLOCK = 4
"""Tasks that the learner handles at once, so that a block's tensors stay in the processor's cache."""


def sample_tasks(collector: Collector, streams: RandomStreams) -> list[Task]:
    """Draw one task for each of the collector's T groups of episodes.

    Raises:
        UserError: what the environment draws are no tasks.
    """
    collector.env.np_random = streams.tasks()
    tasks = list(collector.env.sample_tasks(collector.num_tasks))
    if len(tasks) != collector.num_tasks or not all(isinstance(task, Mapping) for task in tasks):
        raise UserError(
            f"sample_tasks({collector.num_tasks}) of the environment must return as many tasks, each a mapping from "
            f"names to values such as {{'goal': 1.0}}; got {tasks!r:.200}"
        )
    return tasks


def collect_through_adaptation(
    collector: Collector,
    theta: Params,
    tasks: Sequence[Task] | None,
    inner: InnerConfig,
    baseline: BaselineConfig,
    *,
    streams: RandomStreams,
    normalizer: ObservationNormalizer | None,
    watch: Stopwatch | None = None,
    first_step: int = 0,
    final_episodes: bool = True,
) -> tuple[list[Episodes], Params]:
    """Play every task with theta, adapt, play with the adapted parameters, and so on for ``inner.num_steps`` steps.

    Args:
        collector: plays T tasks.
        theta: meta-parameters.
        tasks: T of them, or ``None`` for the tasks that the environments have.
        inner: how to adapt.
        baseline: how to turn rewards into advantages.
        streams: of random numbers.
        normalizer: of observations.
        watch: charged with ``collection``, ``advantages`` and ``adaptation``.
        first_step: inner steps that lie behind ``theta`` already, so that their random numbers are not drawn again.
        final_episodes: play with the last parameters too.

    Returns:
        The episodes after 0, 1, ... inner steps, with advantages, and the last parameters, a stack.
    """
    watch = watch or Stopwatch()
    if tasks is not None:
        collector.set_tasks(tasks)
    stack = with_context(collector.policy, make_stack(theta, collector.num_tasks))
    episodes: list[Episodes] = []
    for k in range(inner.num_steps + final_episodes):
        collected = collector.collect(stack, streams, first_step + k, normalizer)
        watch.lap("collection")
        episodes.append(with_advantages(collected, baseline))
        watch.lap("advantages")
        if k < inner.num_steps:
            stack = inner_step(collector.policy, stack, episodes[-1], inner, first_step + k)
            watch.lap("adaptation")
    return episodes, stack


def inner_step(policy: nn.Module, stack: Params, support: Episodes, inner: InnerConfig, step: int) -> dict[str, Tensor]:
    """The stack after one inner step on episodes with advantages, taken in blocks of tasks; a value.

    Args:
        policy: the architecture.
        stack: parameters, each (T, ...).
        support: episodes of T tasks that the stack played.
        inner: how to adapt.
        step: number of inner steps before.

    Raises:
        FloatingPointError: a parameter is not finite any more.
    """
    loss = policy_gradient_loss(policy, inner.surrogate)
    blocks = []
    for i in range(0, support.num_tasks, TASKS_PER_BLOCK):
        block = {name: value[i : i + TASKS_PER_BLOCK] for name, value in stack.items()}
        size = step_sizes(policy, inner, block, step)
        # First order, since only the value is wanted here.
        blocks.append(adapt(block, [support.tasks(i, i + TASKS_PER_BLOCK)], loss, step_size=size, first_order=True))
    adapted = {name: torch.cat([block[name] for block in blocks]) for name in stack}
    for name, value in adapted.items():
        if not value.isfinite().all():
            raise FloatingPointError(f"{name} is not finite after inner step {step + 1}: lower inner.step_size")
    return adapted
