"""Marks that show a task in pictures: a place to reach, a direction to move in. Physics does not know them."""

from __future__ import annotations

import math
from dataclasses import dataclass

Vector = tuple[float, float, float]
"""Along x, y and z of the world (m)."""

COLOUR = (0.1, 1.0, 0.3)
"""Of every mark: red, green and blue in [0, 1]; no body has it."""


@dataclass(frozen=True)
class Sphere:
    """A place.

    Args:
        centre: of the sphere.
        radius: its radius (m).
    """

    centre: Vector
    radius: float


@dataclass(frozen=True)
class Arrow:
    """A direction.

    Args:
        centre: the middle of the arrow.
        vector: from its tail to its tip.
        radius: of its shaft (m).
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
        """Where it begins."""
        (x, y, z), (dx, dy, dz) = self.centre, self.vector
        return x - dx / 2, y - dy / 2, z - dz / 2


Marker = Sphere | Arrow


def heading(angle: float, length: float = 1.0) -> Vector:
    """The vector of ``length`` (m) in the plane at ``angle`` (rad) to the x-axis."""
    return length * math.cos(angle), length * math.sin(angle), 0.0
