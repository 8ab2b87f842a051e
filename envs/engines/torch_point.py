"""A point in the plane on any torch device, without a physics simulator."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from maml_envs.engines.engine import Tasks
from torch import Tensor

_UNSTABLE = 1  # as in DeviceEngine.failure


class TorchPointEngine:
    """``num_sims`` points: position ← position + action, in float64 as on the CPU.

    Args:
        num_sims: number of points.
        device: of the positions.
    """

    def __init__(self, num_sims: int, device: torch.device) -> None:
        self.num_sims = num_sims
        self.device = device
        position = torch.zeros(num_sims, 2, dtype=torch.float64, device=device)
        self.state: Mapping[str, Tensor] = {"position": position}
        self.failure = torch.zeros(num_sims, dtype=torch.int8, device=device)

    def set_dynamics(self, dynamics: Tasks) -> None:
        """Do nothing: a point has no dynamics."""

    def reset(self, is_reset: Tensor, initial: Mapping[str, Tensor]) -> None:
        """Move the points of ``is_reset`` (num_sims,) to ``initial["position"]`` (num_sims, 2)."""
        position = self.state["position"]
        position.copy_(torch.where(is_reset[:, None], initial["position"], position))
        self.failure.masked_fill_(is_reset, 0)

    def step(self, action: Tensor) -> None:
        """Move every point; one at a non-finite position has failed."""
        position = self.state["position"].add_(action)
        self.failure.masked_fill_(~position.isfinite().all(dim=1), _UNSTABLE)

    def close(self) -> None:
        """Do nothing: there are no resources to free."""
