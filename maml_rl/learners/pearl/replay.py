"""The replay of PEARL: what was collected, and two windows of it from which updates draw.

An entry of the history holds N episodes of one iteration, one after another. An episode of L steps
has L + 1 rows: its observations, the last of them after the last step. So row i + 1 is the next
observation of row i. The last row of an episode does not begin a transition.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from maml_rl.errors import UserError
from maml_rl.learners.base import check_group
from maml_rl.sampling.episodes import Episodes
from maml_rl.system.distributed import Ranks

_MOST_ENTRIES = 5000
"""Bound on the list of entries in a checkpoint."""

HistoryEntry = Mapping[str, Tensor]
"""An entry of the history.

Of R rows ``observations`` (R, O) raw, ``actions`` (R, A) in [−1, 1], ``rewards`` (R,) and
``terminated`` (R,); of N episodes ``tasks`` (N,), ``lengths`` (N,), and ``is_prior`` (N,), whether
z was from the prior.
"""


def history_entry(
    stages: Sequence[Episodes],
    tasks: Sequence[int],
    num_prior_stages: int,
    action_scale: float,
    ranks: Ranks,
) -> dict[str, Tensor]:
    """Return the valid episodes of trials in the tasks of all processes.

    If the observation after the last step of an episode is not finite, the step is left out.

    Args:
        stages: of T tasks of this process, with raw observations (T, E, H, O).
        tasks: their numbers among the training tasks, T of them.
        num_prior_stages: the first stages, in which z was from the prior.
        action_scale: by which outputs are multiplied to be in [−1, 1].
        ranks: the processes. One stage follows another, with the tasks of all processes in their
            order, so that the order does not depend on the number of processes.
    """
    parts = []
    for number, stage in enumerate(stages):
        part = _rows(stage, tasks, number < num_prior_stages, action_scale)
        parts.append({name: ranks.gather(value) for name, value in part.items()})
    return concatenated(parts)


def _rows(
    stage: Episodes, tasks: Sequence[int], is_prior: bool, action_scale: float
) -> dict[str, Tensor]:
    """Return the valid episodes of one stage as an entry."""
    last = stage.last_observations.flatten(2)
    has_last = last.isfinite().all(-1)
    lengths = stage.mask.sum(-1).long() - (~has_last).long()
    is_kept = lengths > 0
    # Row t of an episode of L transitions, t = 0 ... L.
    steps = torch.arange(stage.mask.shape[-1] + 1, device=last.device)
    is_row = is_kept[..., None] & (steps <= lengths[..., None])
    is_last = (steps == lengths[..., None]) & has_last[..., None]
    observations = torch.cat([stage.observations, stage.observations[:, :, -1:]], dim=2)
    observations = torch.where(is_last[..., None], last[:, :, None], observations)
    is_end = (steps == lengths[..., None] - 1) & has_last[..., None]
    terminated = is_end & (stage.terminated > 0)[..., None]
    numbers = torch.as_tensor(tasks, device=last.device)[:, None].expand_as(lengths)
    return {
        "observations": observations[is_row],
        "actions": action_scale * _with_one_more(stage.actions)[is_row],
        "rewards": _with_one_more(stage.rewards)[is_row],
        "terminated": terminated[is_row],
        "tasks": numbers[is_kept],
        "lengths": lengths[is_kept],
        "is_prior": is_kept[is_kept] & is_prior,
    }


def check_entry(
    entry: Mapping[str, Tensor], observation_size: int, action_size: int, source: Path
) -> None:
    """Refuse an entry that is not one.

    Args:
        entry: read from a file.
        observation_size: number of entries of an observation.
        action_size: number of entries of an action.
        source: the file, for the message.

    Raises:
        UserError: if names, shapes or types differ, a value is not finite, or the lengths of the
            episodes do not fit the number of rows.
    """
    num_rows, num_episodes = (len(entry.get(name, ())) for name in ("rewards", "lengths"))
    like = {
        "observations": torch.empty(num_rows, observation_size),
        "actions": torch.empty(num_rows, action_size),
        "rewards": torch.empty(num_rows),
        "terminated": torch.empty(num_rows, dtype=torch.bool),
        "tasks": torch.empty(num_episodes, dtype=torch.int64),
        "lengths": torch.empty(num_episodes, dtype=torch.int64),
        "is_prior": torch.empty(num_episodes, dtype=torch.bool),
    }
    check_group(entry, like, "history", source)
    lengths = entry["lengths"]
    is_valid = bool((lengths > 0).all()) and bool((lengths <= num_rows).all())
    if not is_valid or int((lengths + 1).sum()) != num_rows or bool((entry["tasks"] < 0).any()):
        raise UserError(
            f"{source} cannot be used: its episodes do not have the {num_rows} rows that it holds"
        )


def concatenated(entries: Sequence[HistoryEntry]) -> dict[str, Tensor]:
    """Return the episodes of all entries as one entry."""
    return {name: torch.cat([entry[name] for entry in entries]) for name in entries[0]}


def num_transitions(entry: HistoryEntry) -> int:
    """Return the number of transitions of an entry."""
    return int(entry["lengths"].sum())


def bounded(history: tuple[HistoryEntry, ...], capacity: int) -> tuple[HistoryEntry, ...]:
    """Return the newest entries that have at most ``capacity`` transitions; at least one."""
    history = history[-_MOST_ENTRIES:]
    total = 0
    for number, entry in enumerate(reversed(history)):
        total += num_transitions(entry)
        if total > capacity and number > 0:
            return history[len(history) - number :]
    return history


class ReplayWindow(NamedTuple):
    """Transitions of each of K tasks, grouped by task, in the order of their collection."""

    rows: np.ndarray
    """(S,) int64: rows of the transitions."""
    first: np.ndarray
    """(K,): where each task's transitions begin in ``rows``."""
    counts: np.ndarray
    """(K,): number of transitions of each task."""
    starts: np.ndarray
    """(M,): where each episode begins, among the transitions of its task; grouped by task."""
    first_episode: np.ndarray
    """(K,): where each task's episodes begin in ``starts``."""
    episode_counts: np.ndarray
    """(K,): number of episodes of each task."""


class Replay(NamedTuple):
    """The transitions of a history, of K tasks that have episodes with z from the prior."""

    entry: HistoryEntry
    """All episodes."""
    everything: ReplayWindow
    """All transitions: for actor and critics."""
    prior: ReplayWindow
    """Transitions of the newest episodes with z from the prior: for the context."""

    @property
    def num_tasks(self) -> int:
        """K."""
        return len(self.everything.first)


def make_replay(history: Sequence[HistoryEntry], context_window: int) -> Replay:
    """Return the two windows of a history.

    Args:
        history: entries, oldest first.
        context_window: number of newest episodes of a task, with z from the prior, that the context
            is drawn from.
    """
    entry = concatenated(history)
    tasks, lengths, is_prior = (
        entry[name].cpu().numpy() for name in ("tasks", "lengths", "is_prior")
    )
    known = np.unique(tasks[is_prior])
    # Episodes of known tasks, grouped by task, in the order of their collection.
    order = np.argsort(tasks, kind="stable")
    of_known = order[np.isin(tasks[order], known)]
    prior = of_known[is_prior[of_known]]
    # Those with at most context_window − 1 newer ones of the same task.
    group = np.searchsorted(known, tasks[prior])
    ends = np.cumsum(np.bincount(group, minlength=len(known)))
    newer = ends[group] - 1 - np.arange(len(prior))
    newest = prior[newer < context_window]
    first_rows = np.cumsum(lengths + 1) - (lengths + 1)
    return Replay(
        entry,
        _window(of_known, tasks, lengths, first_rows, known),
        _window(newest, tasks, lengths, first_rows, known),
    )


def _window(
    episodes: np.ndarray,
    tasks: np.ndarray,
    lengths: np.ndarray,
    first_rows: np.ndarray,
    known: np.ndarray,
) -> ReplayWindow:
    """Return the window of some episodes, which are grouped by task."""
    lengths, first_rows = lengths[episodes], first_rows[episodes]
    group = np.searchsorted(known, tasks[episodes])
    # The rows of one episode after another.
    begins = np.cumsum(lengths) - lengths
    rows = np.repeat(first_rows - begins, lengths) + np.arange(lengths.sum())
    counts = np.bincount(group, weights=lengths, minlength=len(known)).astype(np.int64)
    first = np.cumsum(counts) - counts
    episode_counts = np.bincount(group, minlength=len(known))
    return ReplayWindow(
        rows=rows,
        first=first,
        counts=counts,
        starts=begins - first[group],
        first_episode=np.cumsum(episode_counts) - episode_counts,
        episode_counts=episode_counts,
    )


def drawn_tasks(rng: np.random.Generator, num_tasks: int, number: int) -> np.ndarray:
    """Draw ``number`` of K tasks; one is drawn again only after all others.

    Args:
        rng: stream of random numbers.
        num_tasks: K.
        number: how many.
    """
    num_rounds = -(-number // num_tasks)
    return np.concatenate([rng.permutation(num_tasks) for _ in range(num_rounds)])[:number]


def drawn_rows(
    rng: np.random.Generator, window: ReplayWindow, tasks: np.ndarray, number: int
) -> np.ndarray:
    """Draw transitions of each task, with replacement; return their rows (T, number).

    Args:
        rng: stream of random numbers.
        window: where to draw.
        tasks: T of the K tasks.
        number: how many of each.
    """
    chosen = rng.random((len(tasks), number)) * window.counts[tasks][:, None]
    return window.rows[window.first[tasks][:, None] + chosen.astype(np.int64)]


def consecutive_rows(
    rng: np.random.Generator, window: ReplayWindow, tasks: np.ndarray, number: int
) -> np.ndarray:
    """Draw consecutive transitions of each task; return their rows (T, number).

    They begin with an episode that is drawn, and continue with the next ones of the window, after
    the newest with the oldest.

    Args:
        rng: stream of random numbers.
        window: where to draw.
        tasks: T of the K tasks.
        number: how many of each.
    """
    chosen = (rng.random(len(tasks)) * window.episode_counts[tasks]).astype(np.int64)
    start = window.starts[window.first_episode[tasks] + chosen][:, None]
    places = (start + np.arange(number)) % window.counts[tasks][:, None]
    return window.rows[window.first[tasks][:, None] + places]


class Transitions(NamedTuple):
    """B transitions of each of T tasks."""

    observations: Tensor
    """(T, B, observation_size): raw, but normalised for an update."""
    actions: Tensor
    """(T, B, action_size), in [−1, 1]."""
    rewards: Tensor
    """(T, B)."""
    terminated: Tensor
    """(T, B): 1 if the next state is terminal."""
    next_observations: Tensor
    """(T, B, observation_size): raw, but normalised for an update."""

    def chosen(self, tasks: slice) -> Transitions:
        """Those of some tasks."""
        return Transitions(*(value[tasks] for value in self))


def transitions(entry: HistoryEntry, rows: np.ndarray) -> Transitions:
    """Return transitions by their rows (T, B)."""
    index = torch.from_numpy(rows).to(entry["rewards"].device)
    return Transitions(
        observations=entry["observations"][index],
        actions=entry["actions"][index],
        rewards=entry["rewards"][index],
        terminated=entry["terminated"][index].to(entry["rewards"].dtype),
        next_observations=entry["observations"][index + 1],
    )


def _with_one_more(values: Tensor) -> Tensor:
    """Append a zero along the axis of time: (T, E, H, ...) to (T, E, H + 1, ...)."""
    return torch.cat([values, torch.zeros_like(values[:, :, :1])], dim=2)
