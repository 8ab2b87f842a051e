"""Learning curves of a baseline that learned single tasks from scratch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from maml_rl.errors import UserError
from maml_rl.system.untrusted_files import LONGEST_TABLE, read_json


@dataclass(frozen=True)
class Scratch:
    """Learning curves from scratch on some tasks of a comparison.

    Args:
        label: name of the method.
        source: the file that the curves were read from.
        tasks: indices of the n tasks in the comparison.
        num_env_steps: control steps at each of P points.
        returns: (n, P).
    """

    label: str
    source: Path
    tasks: tuple[int, ...]
    num_env_steps: np.ndarray
    returns: np.ndarray

    @classmethod
    def read(cls, path: Path, tasks: Sequence[Mapping[str, Any]]) -> Scratch | None:
        """Read the learning curves that ``python -m maml_rl.baselines`` wrote for these tasks.

        Returns ``None`` if it trained on none of them.

        Raises:
            UserError: if the file is damaged.
        """
        try:
            curves, indices = _of_tasks(read_json(path, LONGEST_TABLE)["tasks"], tasks)
            steps = np.array([curve["num_env_steps"] for curve in curves], float)
            returns = np.array([curve["returns"] for curve in curves], float)
            if curves:
                _check_curves(steps, returns)
        except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
            raise UserError(
                f"{path} cannot be read ({error!r}): delete it and train the baseline again"
            ) from error
        if not curves:
            return None
        return cls(
            label="PPO from scratch",
            source=path,
            tasks=tuple(indices),
            num_env_steps=steps[0],
            returns=returns,
        )


def _of_tasks(
    curves: Sequence[Mapping[str, Any]], tasks: Sequence[Mapping[str, Any]]
) -> tuple[list[Mapping[str, Any]], list[int]]:
    """Return the curves of the evaluation's tasks, and the index of each; equal tasks differ."""
    chosen, indices = [], []
    for curve in curves:
        equal = (i for i, task in enumerate(tasks) if task == curve["task"] and i not in indices)
        index = next(equal, None)
        if index is not None:
            chosen.append(curve)
            indices.append(index)
    return chosen, indices


def _check_curves(steps: np.ndarray, returns: np.ndarray) -> None:
    """Check that steps and returns are (n, P) with P > 1, and finite.

    Raises:
        ValueError: if they are not.
    """
    has_points = steps.ndim == 2 and steps.shape[0] > 0 and steps.shape[1] > 1
    if not (has_points and steps.shape == returns.shape and (steps >= 0).all()):
        raise ValueError(
            f"num_env_steps {steps.shape} and returns {returns.shape} are not learning curves"
        )
    if not (np.isfinite(steps).all() and np.isfinite(returns).all()):
        raise ValueError("a learning curve is not finite")
