"""Collect, adapt, collect again: what training, evaluation and a user's script all do with a batch of tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from maml_rl.errors import UserError
from maml_rl.learners.advantages import with_advantages
from maml_rl.learners.maml.adapt import adapt
from maml_rl.learners.maml.inner_step import step_sizes, with_context
from maml_rl.learners.maml.losses import policy_gradient_loss
from maml_rl.policies.normalizer import ObservationNormalizer
from maml_rl.policies.parameters import Params, make_stack
from maml_rl.sampling.collector import Collector
from maml_rl.sampling.episodes import Episodes
from maml_rl.sampling.failures import BASELINE, INNER_STEP, NO_EPISODE, Failures
from maml_rl.settings.drawn_tasks import Task
from maml_rl.settings.maml import BaselineConfig, InnerConfig
from maml_rl.system.random_streams import RandomStreams
from maml_rl.system.stopwatch import Stopwatch
from maml_rl.system.thread_pool import block_ends, map_blocks, tasks_per_block


class Adaptation(NamedTuple):
    """What came of adapting to T tasks.

    A task without a valid episode, whose baseline cannot be fitted or whose inner step is not
    finite has failed: it keeps the parameters that it had, and its episodes are void from there on.
    """

    episodes: list[Episodes]
    """Those after 0, 1, ... inner steps, with advantages."""
    stacks: list[Params]
    """The parameters after 0, 1, ... inner steps, each (T, ...)."""
    failures: Failures
    """What went wrong, and which tasks failed."""


def sample_tasks(collector: Collector, streams: RandomStreams) -> list[Task]:
    """Draw a task for each of the T groups of episodes of the collectors of all processes, which draw the same.

    Raises:
        UserError: what the environment draws are no tasks.
    """
    collector.env.np_random = streams.tasks()
    num_tasks = collector.num_tasks_of_all or collector.num_tasks
    tasks = list(collector.env.sample_tasks(num_tasks))
    if len(tasks) != num_tasks or not all(isinstance(task, Mapping) for task in tasks):
        raise UserError(
            f"sample_tasks({num_tasks}) of the environment must return as many tasks, each a "
            f"mapping from "
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
) -> Adaptation:
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
        first_step: inner steps that lie behind ``theta`` already, so that their random numbers are
            not drawn again.
        final_episodes: play with the last parameters too.
    """
    watch = watch or Stopwatch()
    num_collections = inner.num_steps + final_episodes
    failures = Failures(
        [{}] * collector.num_tasks if tasks is None else tasks,
        num_collections * collector.num_tasks * collector.num_episodes,
    )
    if tasks is not None:
        collector.set_tasks(tasks)
    stacks: list[Params] = [with_context(collector.policy, make_stack(theta, collector.num_tasks))]
    episodes: list[Episodes] = []
    for step in range(first_step, first_step + num_collections):
        collected = collector.collect(stacks[-1], streams, step, normalizer, failures)
        watch.lap("collection")
        episodes.append(usable(collected, baseline, step, failures))
        watch.lap("advantages")
        if len(episodes) <= inner.num_steps:
            stacks.append(
                contained_step(collector.policy, stacks[-1], episodes[-1], inner, step, failures)
            )
            watch.lap("adaptation")
    return Adaptation(episodes, stacks, failures)


def usable(
    collected: Episodes, baseline: BaselineConfig, step: int, failures: Failures
) -> Episodes:
    """The episodes with advantages; tasks that have none to learn from are set aside, and their episodes void."""
    failures.set_aside(step, NO_EPISODE, (collected.num_steps == 0).cpu().numpy())
    episodes = with_advantages(collected, baseline)
    failures.set_aside(
        step, BASELINE, ~episodes.advantages.isfinite().all(-1).all(-1).cpu().numpy()
    )
    if not failures.failed.any():
        return episodes
    return episodes.without(_failed(failures, collected.mask))


def contained_step(
    policy: nn.Module,
    stack: Params,
    support: Episodes,
    inner: InnerConfig,
    step: int,
    failures: Failures,
) -> Params:
    """:func:`inner_step`, in which tasks that it cannot take stay where they are and are set aside."""
    adapted = inner_step(policy, stack, support, inner, step)
    finite = torch.stack([value.isfinite().flatten(1).all(1) for value in adapted.values()]).all(0)
    failures.set_aside(step, INNER_STEP, ~finite.cpu().numpy())
    if not failures.failed.any():
        return adapted
    failed = _failed(failures, support.mask)
    return {
        name: torch.where(failed.reshape(-1, *[1] * (value.dim() - 1)), stack[name], value)
        for name, value in adapted.items()
    }


def _failed(failures: Failures, like: Tensor) -> Tensor:
    """The tasks that failed, (T,) bool, where ``like`` is."""
    return torch.from_numpy(failures.failed.copy()).to(like.device)


def inner_step(
    policy: nn.Module, stack: Params, support: Episodes, inner: InnerConfig, step: int
) -> dict[str, Tensor]:
    """The stack after one inner step on episodes with advantages, taken in blocks of tasks; a value.

    :meth:`maml_rl.learners.maml.objective.MetaObjective.inner_step` is the same as a function of
    theta.

    Args:
        policy: the architecture.
        stack: parameters, each (T, ...).
        support: episodes of T tasks that the stack played.
        inner: how to adapt.
        step: number of inner steps before.
    """
    loss = policy_gradient_loss(policy, inner.surrogate)

    def of_block(start: int, stop: int) -> dict[str, Tensor]:
        block = {name: value[start:stop] for name, value in stack.items()}
        size = step_sizes(policy, inner, block, step)
        # First order, since only the value is wanted here.
        return adapt(block, [support.tasks(start, stop)], loss, step_size=size, first_order=True)

    blocks = map_blocks(
        of_block, block_ends(support.num_tasks, tasks_per_block(support.mask.device))
    )
    return {name: torch.cat([block[name] for block in blocks]) for name in stack}
