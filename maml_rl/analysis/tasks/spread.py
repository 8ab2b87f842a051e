"""Choose tasks that differ, so that a few of them show the range of a distribution."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from maml_rl.settings.drawn_tasks import Task


def spread_tasks(tasks: Sequence[Task], number: int) -> list[Task]:
    """Return up to ``number`` tasks that differ as much as possible, in ascending order.

    The first two are the pair with the largest distance. Each other one is the task with the
    largest distance to the nearest one chosen. Tasks equal to a chosen one are left out.

    Args:
        tasks: to choose from, at least one.
        number: how many to choose.
    """
    places = _places(tasks)
    distances = np.linalg.norm(places[:, None] - places[None], axis=-1)
    chosen = [int(np.unravel_index(distances.argmax(), distances.shape)[0])]
    while len(chosen) < number:
        nearest = distances[chosen].min(axis=0)
        farthest = int(nearest.argmax())
        if nearest[farthest] == 0:
            break
        chosen.append(farthest)
    return [tasks[i] for i in sorted(chosen, key=lambda i: tuple(places[i]))]


def _places(tasks: Sequence[Task]) -> np.ndarray:
    """Return each task as a point, (N, P), whose coordinates are the ranks of its values.

    Ranks are between 0 and 1, so that values of every unit and distribution count alike.
    """
    names = list(dict.fromkeys(name for task in tasks for name in task))
    columns = [np.zeros((len(tasks), 1))]
    columns += [_ranks([task.get(name) for task in tasks]) for name in names]
    return np.concatenate(columns, axis=1)


def _ranks(values: Sequence[object]) -> np.ndarray:
    """Return the ranks of N numbers, (N, 1), or of N arrays of numbers, (N, size).

    Other values are ranked by their text.
    """
    arrays = [_numbers(value) for value in values]
    if len({array.shape for array in arrays}) > 1 or arrays[0].size == 0:
        arrays = [np.asarray(repr(value)) for value in values]
    columns = np.stack([array.ravel() for array in arrays]).T
    ranks = np.stack([np.unique(column, return_inverse=True)[1] for column in columns], axis=1)
    return ranks / np.maximum(ranks.max(axis=0), 1)


def _numbers(value: object) -> np.ndarray:
    """Return a number or an array of numbers; for other values an empty array."""
    try:
        array = np.asarray(value)
    except ValueError:  # lists of different lengths
        return np.zeros(0)
    return array if array.dtype.kind in "biuf" else np.zeros(0)
