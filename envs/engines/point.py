"""A point in the plane that moves by its action, without a physics simulator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces
from maml_envs.engines.dynamics import Parameter
from maml_envs.engines.engine import Tasks
from maml_envs.engines.markers import COLOUR, Arrow, Marker

if TYPE_CHECKING:  # imported when an engine of a device is created
    import torch
    from maml_envs.engines.torch_point import TorchPointEngine

_MARKER_COLOUR = tuple(round(255 * part) for part in COLOUR)
_TRAIL_COLOUR = (150, 180, 220)
_POINT_COLOUR = (20, 80, 180)
_START_COLOUR = (120, 120, 120)
_RADIUS = 0.02  # radius of point and start in frames (m)


@dataclass(frozen=True)
class PointRobot:
    """A point; each step adds the action to its position.

    Args:
        max_step: largest displacement per axis and step (m).
        view: half the side of the square that frames show (m).
    """

    max_step: float = 0.1
    view: float = 0.75

    @property
    def dt(self) -> float:
        """Seconds per control step; it only sets the frame rate of videos."""
        return 0.1

    @property
    def parameters(self) -> Mapping[str, Parameter]:
        """Empty: a point has no dynamics."""
        return {}

    @property
    def action_space(self) -> spaces.Box:
        """Displacement per axis (m)."""
        return spaces.Box(-self.max_step, self.max_step, (2,), np.float32)

    def batch_engine(self, num_sims: int, num_threads: int, derived: Sequence[str]) -> PointEngine:
        """Create an engine of many points; ``num_threads`` is ignored."""
        return PointEngine(self, num_sims)

    def single_engine(
        self, derived: Sequence[str], render_mode: str | None, **render_options: Any
    ) -> PointEngine:
        """Create an engine of one point, rendered from above."""
        return PointEngine(self, 1, render_mode, **render_options)

    def device_engine(
        self, num_sims: int, device: torch.device, derived: Sequence[str]
    ) -> TorchPointEngine:
        """Create an engine of many points on a torch device."""
        from maml_envs.engines.torch_point import TorchPointEngine

        return TorchPointEngine(num_sims, device)


class PointEngine:
    """``num_sims`` points: position ← position + action.

    Args:
        robot: says how large a part of the plane a frame shows.
        num_sims: number of points.
        render_mode: ``"rgb_array"``, for one point only, or ``None``.
        width: of a frame in pixels.
        height: of a frame in pixels.
    """

    def __init__(
        self,
        robot: PointRobot,
        num_sims: int,
        render_mode: str | None = None,
        width: int = 480,
        height: int = 480,
    ) -> None:
        self.num_sims = num_sims
        self.state = {"position": np.zeros((num_sims, 2))}
        self._robot = robot
        self._size = (width, height)
        self._render_mode = render_mode
        self._trail: list[tuple[float, float]] = []

    def set_dynamics(self, dynamics: Tasks, ids: np.ndarray | None = None) -> None:
        """Do nothing: a point has no dynamics."""

    def derive(self, ids: np.ndarray) -> None:
        """Do nothing: a point has no derived state fields."""

    def reset(self, ids: np.ndarray, initial: Mapping[str, np.ndarray]) -> None:
        """Move points ``ids`` to ``initial["position"]`` (n, 2)."""
        self.state["position"][ids] = initial["position"]
        self._trail = []

    def step(self, ids: np.ndarray | None, action: np.ndarray) -> np.ndarray:
        """Move points ``ids``; return which positions are non-finite, (num_sims,) bool."""
        position = self.state["position"]
        rows = slice(None) if ids is None else ids
        if self._render_mode is not None:
            self._trail.append(tuple(position[0]))
        position[rows] += action[rows]
        return np.logical_not(np.isfinite(position).all(axis=1))

    def render(self, markers: Sequence[Marker] = ()) -> np.ndarray | None:
        """Render the point, its trail, the start and ``markers``, (height, width, 3) uint8.

        Raises:
            TypeError: if a marker is not a sphere.
        """
        if self._render_mode is None:
            return None
        from PIL import Image, ImageDraw

        image = Image.new("RGB", self._size, "white")
        draw = ImageDraw.Draw(image)
        # zoom out until every marker is in view
        extents = [max(map(abs, marker.centre[:2])) + marker.radius for marker in markers]
        scale = min(self._size) / (2 * max([self._robot.view, *extents]))
        centre = np.array(self._size) / 2

        def pixel(position: Any) -> tuple[float, float]:
            return centre[0] + scale * position[0], centre[1] - scale * position[1]

        def circle(centre: Any, radius: float, colour: tuple[int, ...]) -> None:
            x, y = pixel(centre)
            r = radius * scale
            draw.ellipse([x - r, y - r, x + r, y + r], fill=colour)

        # draw from back to front: markers, start, trail, point
        for marker in markers:
            if isinstance(marker, Arrow):
                raise TypeError(f"frames of a point show spheres only, got {marker}")
            circle(marker.centre, marker.radius, _MARKER_COLOUR)
        circle((0.0, 0.0), _RADIUS, _START_COLOUR)
        path = [pixel(position) for position in [*self._trail, self.state["position"][0]]]
        if len(path) > 1:
            draw.line(path, fill=_TRAIL_COLOUR, width=3)
        circle(self.state["position"][0], _RADIUS, _POINT_COLOUR)
        return np.asarray(image)

    def close(self) -> None:
        """Do nothing: there are no resources to free."""
