"""Settings of the policy."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from maml_rl.settings.ranges import Each, Positive, Range, Whole, check_ranges

_MOST_WEIGHTS = (
    1 << 26
)  # between hidden layers; a policy is made before a checkpoint is compared with it


@dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """The policy: a multilayer perceptron."""

    hidden_sizes: tuple[int, ...] = (64, 64)
    """Width of each hidden layer."""
    nonlinearity: Nonlinearity = "tanh"
    """Between layers."""
    init_std: float = 1.0
    """Initial standard deviation of a Gaussian policy, in units of its output."""
    action_scale: float = 0.1
    """Share of the half action range that an output of ±1 spans (Box actions)."""
    context_size: int = 0
    """Length of the context that is fed to the first layer and adapts where inner.adapts is context (CAVIA)."""
    normalize_observations: bool = False
    """Normalise observations by their running mean and standard deviation, fixed within an iteration."""

    RANGES: ClassVar[Mapping[str, Range]] = {
        "hidden_sizes": Each(Whole(1, 1 << 16), most=64),
        "init_std": Positive(),
        "action_scale": Positive(),
        "context_size": Whole(0, 1 << 16),
    }

    def __post_init__(self) -> None:
        check_ranges(self, "policy.")
        sizes = [self.context_size, *self.hidden_sizes]
        if sum(before * after for before, after in itertools.pairwise(sizes)) > _MOST_WEIGHTS:
            raise ValueError(
                f"policy.hidden_sizes {list(self.hidden_sizes)} with policy.context_size "
                f"{self.context_size} make more "
                f"than {_MOST_WEIGHTS} weights"
            )


Nonlinearity = Literal["tanh", "relu", "elu", "silu"]
