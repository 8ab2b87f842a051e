"""Step sizes of inner steps 1, 2, ... outside training, chosen on training tasks.

A step size that is best for one step may be too large for further ones. So after training a few
schedules are tried on fresh training tasks, and the state keeps the best one.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from maml_rl.learners.base import Learner, LearnerState
from maml_rl.learners.trials import Trial, contained_update, play_trials, sample_tasks
from maml_rl.sampling.collector import Collector
from maml_rl.settings.learners import InnerConfig
from maml_rl.system.distributed import Ranks
from maml_rl.system.random_streams import RandomStreams
from maml_rl.system.text import counted

NUM_TEST_FACTORS = 10
"""Number of multiples of the step sizes outside training; further steps use the last one."""

_FEWEST_LISTED = 3
"""The note names as many step sizes as training has inner steps, but at least this number."""


def schedules(num_steps: int) -> list[list[float]]:
    """Return the multiples to choose from, of several sizes. The first schedule is 1.

    Each is constant, or halved from step to step, or halved after the inner steps of training.

    Args:
        num_steps: inner steps of training.
    """
    steps = range(NUM_TEST_FACTORS)
    shapes = [[1.0] * NUM_TEST_FACTORS, [0.5**step for step in steps]]
    if num_steps > 1:
        shapes.append([0.5 ** max(0, step + 1 - num_steps) for step in steps])
    return [[size * factor for factor in shape] for size in (1.0, 0.5, 0.25) for shape in shapes]


def initial_schedule(device: torch.device) -> dict[str, Tensor]:
    """Return multiples of 1, which were not chosen on any task."""
    return {
        "test_factors": torch.ones(NUM_TEST_FACTORS, device=device),
        "num_choice_tasks": torch.zeros(1, dtype=torch.int64, device=device),
    }


def with_test_factors(
    state: LearnerState, factors: Sequence[float], num_tasks: int = 0
) -> LearnerState:
    """Return a state with other multiples of the step sizes outside training.

    Args:
        state: a state of MAML.
        factors: of inner steps 1, 2, ...; the last one is repeated.
        num_tasks: number of training tasks on which they were chosen.
    """
    group = state.tensors["adaptation"]
    last = [factors[-1]] * (NUM_TEST_FACTORS - len(factors))
    adaptation = {
        **group,
        "test_factors": torch.tensor([*factors, *last]).to(group["test_factors"]),
        "num_choice_tasks": torch.full_like(group["num_choice_tasks"], num_tasks),
    }
    return state._replace(tensors={**state.tensors, "adaptation": adaptation})


def with_chosen_factors(
    learner: Learner,
    state: LearnerState,
    collector: Collector,
    streams: RandomStreams,
    ranks: Ranks,
) -> LearnerState:
    """Return the state with the schedule whose return after steps 1, 2, ... is highest on average.

    All schedules are played on the same tasks with the same random streams. One with which a task
    fails is not chosen. Of equal ones the first is chosen, and of none the constant 1.

    Args:
        learner: an MAML learner.
        state: what it has learned.
        collector: plays the tasks of this process.
        streams: of random numbers, for the choice.
        ranks: the processes that share the tasks.
    """
    tasks = sample_tasks(collector, streams)
    choosing = f"choosing step sizes on {counted(len(tasks), 'training task')}"
    # Play the stage before adaptation, which the schedules share.
    before = play_trials(
        learner,
        state,
        _showing(collector, choosing),
        collector.of_this_process(tasks),
        num_adaptation_steps=0,
        streams=streams,
    )
    # Play the stages after it with each schedule; average over the tasks of all processes.
    candidates = schedules(learner.num_adaptation_steps)
    returns = []
    for number, factors in enumerate(candidates, 1):
        playing = _showing(collector, f"{choosing}, {number} of {len(candidates)}")
        tried = with_test_factors(state, factors)
        returns.append(_returns(learner, tried, playing, before, streams))
    valid = ~before.failed_tasks.mask
    means = ranks.mean(torch.stack(returns, dim=1)[valid]).tolist()
    scores = [mean if math.isfinite(mean) else -math.inf for mean in means]
    return with_test_factors(state, candidates[scores.index(max(scores))], len(tasks))


def _showing(collector: Collector, what: str) -> Collector:
    """Return the collector with ``what`` before the texts of its progress."""
    show = collector.progress
    return dataclasses.replace(collector, progress=lambda text: show(f"{what}, {text}"))


def _returns(
    learner: Learner,
    state: LearnerState,
    collector: Collector,
    before: Trial,
    streams: RandomStreams,
) -> Tensor:
    """Mean return after steps 1, 2, ..., (T,); NaN for a task that fails.

    Args:
        learner: see :func:`with_chosen_factors`.
        state: with the schedule to play.
        collector: still has the tasks of ``before``.
        before: the stage before adaptation.
        streams: see :func:`with_chosen_factors`.
    """
    [belief], [episodes] = before.beliefs, before.episodes
    updated = learner.update(state, belief, episodes, 0)
    updated, failed = contained_update(belief, updated, 0, before.failed_tasks)
    after = play_trials(
        learner,
        state,
        collector,
        None,
        num_adaptation_steps=learner.num_adaptation_steps + 1,  # two steps more than in training
        streams=streams,
        belief=updated,
        first_stage=1,
    )
    returns = torch.stack([stage.returns.nanmean(1) for stage in after.episodes]).mean(0)
    return returns.masked_fill(failed.mask, torch.nan)


def describe_schedule(inner: InnerConfig, state: LearnerState) -> dict[str, Any]:
    """Return the step sizes outside training as plain values, and a line that names them.

    Args:
        inner: settings of adaptation.
        state: a state of MAML.
    """
    group = state.tensors["adaptation"]
    factors = group["test_factors"].tolist()
    num_tasks = int(group["num_choice_tasks"])
    if inner.learned_step_size != "none" and not inner.test_step_sizes:
        key, setting, values = "step_size_factors", "inner.learned_step_size", factors
        # A chosen multiple is named even if it is 1.
        has_multiples = num_tasks > 0 or set(factors) != {1}
        text = f"learned × {_listed(factors, inner)}" if has_multiples else "learned"
    else:
        key, setting = "step_sizes", "inner.step_size"
        sizes = [inner.step_size]
        if inner.test_step_sizes:
            setting, sizes = "inner.test_step_sizes", list(inner.test_step_sizes)
        sizes += sizes[-1:] * (NUM_TEST_FACTORS - len(sizes))
        factors += factors[-1:] * (len(sizes) - NUM_TEST_FACTORS)
        values = [size * factor for size, factor in zip(sizes, factors, strict=True)]
        text = _listed(values, inner)
    source = f"chosen on {counted(num_tasks, 'training task')}" if num_tasks else setting
    return {key: values, "note": f"adaptation step sizes after training: {text} ({source})"}


def _listed(values: Sequence[float], inner: InnerConfig) -> str:
    """Return ``"0.1"``, or ``"0.2, 0.1, 0.05, ..."`` with at least as many as training has."""
    if len(set(values)) == 1:
        return f"{values[0]:.4g}"
    first = values[: max(_FEWEST_LISTED, inner.num_steps)]
    return ", ".join([*(f"{value:.4g}" for value in first), "..."])
