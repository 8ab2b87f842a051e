"""MAML's inner loop in an environment: play, take an inner step, play again."""

from __future__ import annotations

from collections.abc import Sequence

from maml_rl.learners.maml.inner_step import inner_step, with_context
from maml_rl.learners.trials import Trial, play_stages
from maml_rl.policies.normalizer import ObservationNormalizer
from maml_rl.policies.parameters import Params, make_stack
from maml_rl.sampling.collector import Collector
from maml_rl.sampling.episodes import Episodes
from maml_rl.settings.drawn_tasks import Task
from maml_rl.settings.learners import BaselineConfig, InnerConfig
from maml_rl.system.random_streams import RandomStreams
from maml_rl.system.stopwatch import Stopwatch


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
) -> Trial:
    """Play every task with theta, adapt, play again, and so on for ``inner.num_steps`` steps.

    Args:
        collector: plays T tasks.
        theta: meta-parameters.
        tasks: T of them, or ``None`` to keep the environments' tasks.
        inner: how to adapt.
        baseline: how to turn rewards into advantages.
        streams: of random numbers.
        normalizer: of observations.
        watch: records the times ``collection``, ``advantages`` and ``adaptation``.
        first_step: number of inner steps that led to ``theta``; random streams continue from there.
        final_episodes: whether to play once more after the last step.
    """

    def update(stack: Params, support: Episodes, step: int) -> Params:
        return inner_step(collector.policy, stack, support, inner, step)

    return play_stages(
        collector,
        with_context(collector.policy, make_stack(theta, collector.num_tasks)),
        tasks,
        update,
        baseline,
        num_updates=inner.num_steps,
        streams=streams,
        normalizer=normalizer,
        watch=watch,
        first_step=first_step,
        final_episodes=final_episodes,
    )
