"""Settings of the policy."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from maml_rl.settings.ranges import Each, Integer, Positive, Range, check_ranges

Nonlinearity = Literal["tanh", "relu", "elu", "silu"]

# Limit on the weights between hidden layers. A policy is built before its checkpoint is checked, so
# a damaged configuration must not exhaust memory.
_MOST_WEIGHTS = 1 << 26


@dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """A multilayer perceptron, or a network of your own."""

    network: str | None = None
    """module:Class of a torch module to use as the network, for maml and joint; hidden_sizes and
    nonlinearity then do not apply (docs/custom_networks.md)."""
    hidden_sizes: tuple[int, ...] = (64, 64)
    """Width of each hidden layer."""
    nonlinearity: Nonlinearity = "tanh"
    """Activation function between layers."""
    init_std: float = 1.0
    """Initial standard deviation of a Gaussian policy, in units of the network's output."""
    action_scale: float = 0.1
    """A network output of 1 moves a Box action by this fraction of half the action's range."""
    context_size: int = 0
    """Size of the context (CAVIA), an extra network input; needs inner.adapts context."""
    latent_size: int = 0
    """Size of a latent variable, an extra network input that is drawn once per episode (MAESN, for
    maml and joint)."""
    normalize_observations: bool = False
    """Normalise observations by running mean and standard deviation, fixed within an iteration."""

    RANGES: ClassVar[Mapping[str, Range]] = {
        "hidden_sizes": Each(Integer(1, 1 << 16), most=64),
        "init_std": Positive(),
        "action_scale": Positive(),
        "context_size": Integer(0, 1 << 16),
        "latent_size": Integer(0, 1 << 16),
    }

    def __post_init__(self) -> None:
        check_ranges(self, "policy.")
        inputs = {
            "context_size": (self.context_size, "context (CAVIA)"),
            "latent_size": (self.latent_size, "latent variable (MAESN)"),
        }
        for name, (size, what) in inputs.items():
            if self.network is not None and size > 0:
                raise ValueError(
                    f"policy.{name} must be 0 if policy.network is set, got {size}: a {what} is an "
                    "input of the built-in network"
                )
        sizes = [self.context_size + self.latent_size, *self.hidden_sizes]
        if sum(before * after for before, after in itertools.pairwise(sizes)) > _MOST_WEIGHTS:
            raise ValueError(
                f"policy.hidden_sizes {list(self.hidden_sizes)} with policy.context_size "
                f"{self.context_size} and policy.latent_size {self.latent_size} make more than "
                f"{_MOST_WEIGHTS} weights"
            )
