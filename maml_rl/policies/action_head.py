"""From the outputs of a network to a distribution of actions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from maml_rl.errors import UserError
from maml_rl.policies.distributions import (
    NO_CHOICE,
    Categorical,
    Distribution,
    Gaussian,
    MultiCategorical,
)

_MIN_LOG_STD = math.log(1e-6)


@dataclass(frozen=True)
class ActionHead:
    """A Gaussian (Box actions), a categorical (Discrete), or several (MultiDiscrete)."""

    size: int
    """Number of outputs: entries of a Box action, or choices, summed over the actions."""
    discrete: bool = False
    """Whether actions are discrete."""
    num_choices: tuple[int, ...] = ()
    """For MultiDiscrete, the number of choices of each action; otherwise empty."""

    @classmethod
    def of(cls, space: spaces.Space[Any]) -> ActionHead:
        """Return the head for an action space.

        Raises:
            UserError: if the space is neither a Box of floating-point numbers, with at least one
                axis and one entry, nor Discrete, nor MultiDiscrete with one axis.
        """
        if isinstance(space, spaces.Discrete):
            return cls(int(space.n), discrete=True)
        if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1:
            num_choices = tuple(int(number) for number in space.nvec)
            return cls(sum(num_choices), discrete=True, num_choices=num_choices)
        is_float = isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating)
        if is_float and space.shape and math.prod(space.shape) > 0:
            return cls(math.prod(space.shape))
        raise UserError(
            f"action space {space} is not supported: expected a Box of floating-point numbers with "
            "at least one axis and one entry, Discrete, or MultiDiscrete with one axis"
        )

    def distribution(self, outputs: Tensor, log_std: Tensor | None) -> Distribution:
        """Return the distribution of actions.

        Args:
            outputs: (T, N, size): means or logits.
            log_std: log standard deviation, (T, 1, size); ``None`` for discrete actions.
        """
        if self.num_choices:
            return MultiCategorical(self._padded_logits(outputs))
        if self.discrete:
            return Categorical(outputs)
        assert log_std is not None, "a Gaussian needs a standard deviation"
        return Gaussian(outputs, log_std)

    def _padded_logits(self, logits: Tensor) -> Tensor:
        """Split logits (T, N, size) into those of D actions, padded to (T, N, D, C)."""
        most = max(self.num_choices)
        padded = [
            nn.functional.pad(part, (0, most - part.shape[-1]), value=NO_CHOICE)
            for part in logits.split(self.num_choices, dim=-1)
        ]
        return torch.stack(padded, dim=-2)

    def encoded(self, actions: Tensor) -> Tensor:
        """Return outputs as inputs of a network: Box actions as they are, choices as one-hot.

        Args:
            actions: (..., size) float, (...) int64 for Discrete, or (..., D) for MultiDiscrete.

        Returns:
            (..., size) float.
        """
        if self.num_choices:
            parts = [
                nn.functional.one_hot(chosen, number)
                for chosen, number in zip(actions.unbind(-1), self.num_choices, strict=True)
            ]
            return torch.cat(parts, dim=-1).float()
        return nn.functional.one_hot(actions, self.size).float() if self.discrete else actions

    def draw_noise(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """Draw the standard noise that ``sample`` of the distribution takes.

        Args:
            rng: stream of the actions.
            shape: leading axes, one noise vector each.

        Returns:
            Float32: standard normal (*shape, size) for Box actions; Gumbel (*shape, C) for
            Discrete, or (*shape, D, C) for MultiDiscrete with D actions of up to C choices.
        """
        if self.discrete:
            return rng.gumbel(size=(*shape, *self.noise_shape)).astype(np.float32)
        return rng.standard_normal((*shape, *self.noise_shape), dtype=np.float32)

    def draw_noise_on_device(self, rng: torch.Generator, shape: tuple[int, ...]) -> Tensor:
        """Draw the same kind of noise for Box actions on the generator's device."""
        assert not self.discrete, "families that are simulated on a device have Box actions"
        return torch.randn(*shape, *self.noise_shape, generator=rng, device=rng.device)

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Shape of the noise of one action."""
        if self.num_choices:
            return (len(self.num_choices), max(self.num_choices))
        return (self.size,)


def bounded_log_std(log_std: Tensor) -> Tensor:
    """Return log standard deviations (T, size) as (T, 1, size), at least ln 1e-6."""
    return log_std[:, None].clamp(min=_MIN_LOG_STD)
