"""Distributions that several families draw their tasks from."""

from __future__ import annotations

from typing import Literal

import numpy as np

Split = Literal["train", "held_out"]
"""Which tasks of a family that keeps some back: those for training, or the others."""


def alternating_directions(rng: np.random.Generator, num_tasks: int) -> np.ndarray:
    """Directions (num_tasks,): (−1)^i for task i of several, either one for a single task."""
    first = int(rng.integers(2)) if num_tasks == 1 else 0
    return np.where((np.arange(num_tasks) + first) % 2 == 0, 1.0, -1.0)


def uniform_in_disc(rng: np.random.Generator, num_tasks: int, radius: float) -> np.ndarray:
    """Points (num_tasks, 2), uniform over the area: the distance is ``radius`` √U (m)."""
    angle = rng.uniform(0, 2 * np.pi, num_tasks)
    distance = radius * np.sqrt(rng.uniform(size=num_tasks))
    return distance[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def random_parameters() -> dict[str, dict[str, float | bool]]:
    """Factors on each body's mass and inertia, each geom's friction and each joint's damping (Rothfuss et al. 2019)."""
    wide = {"low": 1.5**-3, "high": 1.5**3, "log": True, "each": True}
    narrow = {**wide, "low": 1.3**-3, "high": 1.3**3}
    return {
        "body_mass": dict(wide),
        "body_inertia": dict(wide),
        "geom_friction": dict(wide),
        "dof_damping": narrow,
    }
