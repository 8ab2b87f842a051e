"""The replay of PEARL: entries, the two windows, and what updates draw from them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from maml_rl.errors import UserError
from maml_rl.learners.pearl.replay import (
    bounded,
    check_entry,
    consecutive_rows,
    drawn_rows,
    drawn_tasks,
    history_entry,
    make_replay,
    num_transitions,
    transitions,
)
from maml_rl.sampling.episodes import Episodes
from maml_rl.sampling.failures import CODES, REWARD
from maml_rl.system.distributed import Ranks

HORIZON = 3


def stage(
    lengths: list[int],
    first: float,
    terminated: list[int] | None = None,
    last: list[float] | None = None,
) -> Episodes:
    """One episode of each task; step t of task i observes first + 10 i + t, and earns −that.

    Args:
        lengths: real steps of each; 0 for a discarded episode.
        first: see above.
        terminated: 1 for an episode that ended in a terminal state.
        last: observation after the last step; default is the next in the series.
    """
    num_tasks = len(lengths)
    number = torch.tensor(lengths)
    steps = torch.arange(HORIZON)
    values = first + 10.0 * torch.arange(num_tasks)[:, None] + steps
    mask = (steps < number[:, None]).float()
    after = first + 10.0 * torch.arange(num_tasks) + number
    if last is not None:
        after = torch.tensor(last)
    observations = (values * mask)[:, None, :, None]
    zeros = torch.zeros(num_tasks, 1, HORIZON)
    return Episodes(
        observations=observations.expand(-1, -1, -1, 2),
        actions=(2 * values * mask)[:, None, :, None],
        rewards=(-values * mask)[:, None],
        mask=mask[:, None],
        distribution=(),
        log_probs=zeros,
        cause=torch.where(number > 0, 0, CODES[REWARD]).to(torch.int8)[:, None],
        success=zeros[..., 0],
        terminated=torch.tensor(terminated or [0] * num_tasks).float()[:, None],
        last_observations=after[:, None, None].expand(-1, -1, 2),
        advantages=zeros,
        inner_advantages=zeros,
    )


def entry_of(
    stages: list[Episodes], tasks: list[int], num_prior_stages: int = 1
) -> dict[str, Tensor]:
    return history_entry(stages, tasks, num_prior_stages, action_scale=0.5, ranks=Ranks())


def test_an_entry_has_rows_of_valid_episodes_and_their_last_observations() -> None:
    """Whole, early and terminal ends; a discarded episode; prior, then posterior."""
    entry = entry_of([stage([3, 1, 0], 100), stage([2, 0, 3], 200, [1, 0, 0])], [7, 4, 9])
    assert entry["tasks"].tolist() == [7, 4, 7, 9]
    assert entry["lengths"].tolist() == [3, 1, 2, 3]
    assert entry["is_prior"].tolist() == [True, True, False, False]
    observed = [100, 101, 102, 103, 110, 111, 200, 201, 202, 220, 221, 222, 223]
    assert entry["observations"].tolist() == [[value, value] for value in observed]
    at_end = (3, 5, 8, 12)
    for i, value in enumerate(observed):
        expected = 0 if i in at_end else value
        assert entry["actions"][i].tolist() == [expected]  # outputs are 2 · value, the scale is ½
        assert float(entry["rewards"][i]) == -expected
    assert entry["terminated"].nonzero().flatten().tolist() == [7]
    assert num_transitions(entry) == 9
    check_entry(entry, 2, 1, Path("entry"))


def test_a_step_whose_next_observation_is_not_finite_is_left_out() -> None:
    """Its own observation becomes the last one; an episode of this step alone is left out."""
    ends = [math.nan, math.inf, 122.5]
    entry = entry_of([stage([3, 1, 2], 100, [1, 1, 0], last=ends)], [0, 1, 2])
    assert entry["tasks"].tolist() == [0, 2]
    assert entry["lengths"].tolist() == [2, 2]
    assert entry["observations"][:, 0].tolist() == [100, 101, 102, 120, 121, 122.5]
    assert not entry["terminated"].any()


def test_transitions_are_read_from_consecutive_rows() -> None:
    entry = entry_of([stage([3, 2], 100, [0, 1])], [0, 1])
    read = transitions(entry, np.array([[0, 2], [4, 5]]))
    assert read.observations[..., 0].tolist() == [[100, 102], [110, 111]]
    assert read.next_observations[..., 0].tolist() == [[101, 103], [111, 112]]
    assert read.actions[..., 0].tolist() == [[100, 102], [110, 111]]
    assert read.rewards.tolist() == [[-100, -102], [-110, -111]]
    assert read.terminated.tolist() == [[0, 0], [0, 1]]


def history() -> tuple[dict[str, Tensor], ...]:
    """Three iterations. Task 5 is in all, 3 in two, and 8 has no episode of the prior."""
    return (
        entry_of([stage([3, 2], 100), stage([1, 1], 200)], [5, 3]),
        entry_of([stage([2, 0], 300), stage([0, 2], 400)], [5, 8]),
        entry_of([stage([1, 3], 500), stage([3, 3], 600)], [3, 5]),
    )


def observed(entry: dict[str, Tensor], rows: np.ndarray) -> list[float]:
    return entry["observations"][torch.from_numpy(rows), 0].tolist()


def windows(context_window: int) -> dict[str, list[list[float]]]:
    """What each known task observes in each window."""
    replay = make_replay(history(), context_window)
    found = {}
    for name in ("everything", "prior"):
        window = getattr(replay, name)
        found[name] = [
            observed(replay.entry, window.rows[first : first + count])
            for first, count in zip(window.first, window.counts, strict=True)
        ]
    return found


def test_all_transitions_and_recent_ones_of_the_prior() -> None:
    """Tasks in the order of their numbers: 3, then 5; task 8 cannot be inferred."""
    everything = [[110, 111, 210, 500, 600, 601, 602]]
    everything += [[100, 101, 102, 200, 300, 301, 510, 511, 512, 610, 611, 612]]
    assert windows(1) == {"everything": everything, "prior": [[500], [510, 511, 512]]}
    assert windows(2) == {
        "everything": everything,
        "prior": [[110, 111, 500], [300, 301, 510, 511, 512]],
    }
    assert windows(99)["prior"] == [[110, 111, 500], [100, 101, 102, 300, 301, 510, 511, 512]]


def test_rows_are_drawn_from_the_window_of_each_task() -> None:
    replay = make_replay(history(), 2)
    rng = np.random.default_rng(0)
    tasks = np.array([1, 0, 1])
    for window, name in ((replay.everything, "everything"), (replay.prior, "prior")):
        rows = drawn_rows(rng, window, tasks, 400)
        assert rows.shape == (3, 400)
        for task, drawn in zip(tasks, rows, strict=True):
            expected = windows(2)[name][task]
            values, counts = np.unique(observed(replay.entry, drawn), return_counts=True)
            assert values.tolist() == sorted(expected)  # every transition, and no other
            assert counts.min() > 400 / len(expected) / 2


def test_consecutive_rows_begin_with_an_episode_and_wrap_around() -> None:
    replay = make_replay(history(), 2)
    rng = np.random.default_rng(0)
    found = {
        tuple(observed(replay.entry, consecutive_rows(rng, replay.prior, np.array([1]), 7)[0]))
        for _ in range(50)
    }
    assert found == {
        (300, 301, 510, 511, 512, 300, 301),
        (510, 511, 512, 300, 301, 510, 511),
    }
    both = consecutive_rows(rng, replay.prior, np.array([0, 1]), 2)
    assert observed(replay.entry, both[0]) in ([110, 111], [500, 110])


def test_every_task_is_drawn_before_one_is_drawn_again() -> None:
    rng = np.random.default_rng(0)
    drawn = drawn_tasks(rng, 3, 7)
    assert sorted(drawn[:3]) == sorted(drawn[3:6]) == [0, 1, 2]
    assert len(drawn) == 7
    assert len({tuple(drawn_tasks(rng, 5, 2)) for _ in range(100)}) == 20


def test_the_oldest_entries_are_dropped() -> None:
    entries = history()  # of 7, 4 and 10 transitions
    assert [num_transitions(entry) for entry in entries] == [7, 4, 10]
    for capacity, number in ((21, 3), (20, 2), (14, 2), (13, 1), (10, 1), (1, 1)):
        kept = bounded(entries, capacity)
        assert len(kept) == number
        assert all(a is b for a, b in zip(kept, entries[-number:], strict=True))
    assert len(bounded(entries[1:2] * 6000, 10**9)) == 5000


def test_an_entry_without_episodes() -> None:
    empty = entry_of([stage([0, 0], 100)], [0, 1])
    check_entry(empty, 2, 1, Path("entry"))
    assert num_transitions(empty) == make_replay([empty], 1).num_tasks == 0
    assert make_replay([*history(), empty], 1).num_tasks == 2


def damaged() -> dict[str, dict[str, Tensor]]:
    entry = entry_of([stage([3, 2], 100)], [0, 1])
    return {
        "missing": {name: value for name, value in entry.items() if name != "lengths"},
        "unknown": {**entry, "other": entry["lengths"]},
        "dtype": {**entry, "rewards": entry["rewards"].double()},
        "shape": {**entry, "actions": entry["actions"][:, [0, 0]]},
        "nan": {**entry, "observations": entry["observations"] * math.nan},
        "negative_length": {**entry, "lengths": torch.tensor([8, -3])},
        "zero_length": {**entry, "lengths": torch.tensor([5, 0])},
        "too_long": {**entry, "lengths": torch.tensor([3, 3])},
        "overflow": {**entry, "lengths": torch.tensor([2**62, 2**62])},
        "negative_task": {**entry, "tasks": torch.tensor([0, -1])},
    }


@pytest.mark.parametrize("name", damaged())
def test_damaged_entries_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=r"some/file"):
        check_entry(damaged()[name], 2, 1, Path("some/file"))
