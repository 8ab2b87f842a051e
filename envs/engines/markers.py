"""Markers that show a task in rendered frames. They do not take part in the simulation."""

from __future__ import annotations

import math
from dataclasses import dataclass

Vector = tuple[float, float, float]
"""x, y and z in the world (m)."""

COLOUR = (0.1, 1.0, 0.3)
"""Colour of markers: red, green and blue in [0, 1]. No robot has this colour."""


@dataclass(frozen=True)
class Sphere:
    """A goal position.

    Args:
        centre: of the sphere.
        radius: of the sphere (m).
    """

    centre: Vector
    radius: float


@dataclass(frozen=True)
class Arrow:
    """A direction.

    Args:
        centre: midpoint between tail and tip.
        vector: from tail to tip.
        radius: of the shaft (m).
    """

    centre: Vector
    vector: Vector
    radius: float = 0.04

    @property
    def length(self) -> float:
        """From tail to tip (m)."""
        return math.hypot(*self.vector)

    @property
    def tail(self) -> Vector:
        """Start of the arrow."""
        x, y, z = self.centre
        dx, dy, dz = self.vector
        return x - dx / 2, y - dy / 2, z - dz / 2


Marker = Sphere | Arrow


def heading(angle: float) -> Vector:
    """Vector of 1 m in the plane at ``angle`` (rad) to the x-axis."""
    return math.cos(angle), math.sin(angle), 0.0
