"""Action distributions of a stack of T policies, at N states each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Self

import torch
from torch import Tensor


class Gaussian(NamedTuple):
    """Diagonal Gaussian over actions of A dimensions."""

    mean: Tensor
    """(T, N, A)."""
    log_std: Tensor
    """(T, N, A), or (T, 1, A) if states share it."""

    def log_prob(self, actions: Tensor) -> Tensor:
        """Return log-probabilities (T, N): Σ_a [−(a − μ)² / 2σ² − log σ − ½ log 2π].

        Args:
            actions: (T, N, A).
        """
        z = (actions - self.mean) * torch.exp(-self.log_std)
        constant = (self.log_std + 0.5 * math.log(2 * math.pi)).sum(-1)
        return -0.5 * (z * z).sum(-1) - constant

    def kl(self, other: Self) -> Tensor:
        """Return KL(self ‖ other), (T, N): Σ_a [log σ'/σ + (σ² + (μ − μ')²) / 2σ'² − ½]."""
        precision = torch.exp(-2 * other.log_std)
        terms = (torch.exp(2 * self.log_std) + (self.mean - other.mean) ** 2) * precision - 1
        return (0.5 * terms + other.log_std - self.log_std).sum(-1)

    def sample(self, noise: Tensor) -> Tensor:
        """Return actions μ + σ · noise, (T, N, A), for standard normal noise (T, N, A)."""
        return self.mean + torch.exp(self.log_std) * noise

    def mode(self) -> Tensor:
        """Return the mean, (T, N, A)."""
        return self.mean

    def fisher_product(self, tangents: Sequence[Tensor], weights: Tensor) -> tuple[Tensor, ...]:
        """Multiply tangents of (μ, log σ) by weighted Fisher matrices, diag(1/σ², 2) per dimension.

        Args:
            tangents: of ``mean`` and ``log_std``, with their shapes.
            weights: factor of each state, (T, N).
        """
        d_mean, d_log_std = tangents
        w = weights[..., None]
        # If the states of a task share log_std, their weights add up.
        w_log_std = w.sum(1, keepdim=True) if d_log_std.shape[1] == 1 else w
        return w * d_mean * torch.exp(-2 * self.log_std), w_log_std * 2 * d_log_std


class Categorical(NamedTuple):
    """Categorical over C discrete actions."""

    logits: Tensor
    """Unnormalised, (T, N, C)."""

    def log_prob(self, actions: Tensor) -> Tensor:
        """Return log-probabilities (T, N) of actions (T, N) int64."""
        return self.logits.log_softmax(-1).gather(-1, actions[..., None])[..., 0]

    def kl(self, other: Self) -> Tensor:
        """Return KL(self ‖ other), (T, N): Σ_c p log(p / q)."""
        log_p = self.logits.log_softmax(-1)
        log_q = other.logits.log_softmax(-1)
        return (log_p.exp() * (log_p - log_q)).sum(-1)

    def sample(self, noise: Tensor) -> Tensor:
        """Return actions argmax(logits + noise), (T, N), for standard Gumbel noise (T, N, C)."""
        return (self.logits + noise).argmax(-1)

    def mode(self) -> Tensor:
        """Return the most probable actions, (T, N)."""
        return self.logits.argmax(-1)

    def fisher_product(self, tangents: Sequence[Tensor], weights: Tensor) -> tuple[Tensor, ...]:
        """Multiply a tangent of the logits by weighted Fisher matrices, diag(p) − p pᵀ.

        Args:
            tangents: one, of ``logits``, with their shape.
            weights: factor of each state, (T, N).
        """
        (d_logits,) = tangents
        p = self.logits.softmax(-1)
        return (weights[..., None] * p * (d_logits - (p * d_logits).sum(-1, keepdim=True)),)


class MultiCategorical(NamedTuple):
    """D independent categoricals, for MultiDiscrete actions.

    C is the largest number of choices. An action with fewer has logits :data:`NO_CHOICE` for the
    rest.
    """

    logits: Tensor
    """Unnormalised, (T, N, D, C)."""

    def log_prob(self, actions: Tensor) -> Tensor:
        """Return log-probabilities (T, N), summed over d, of actions (T, N, D) int64."""
        return Categorical(self.logits).log_prob(actions).sum(-1)

    def kl(self, other: Self) -> Tensor:
        """Return KL(self ‖ other), (T, N): Σ_d Σ_c p log(p / q)."""
        return Categorical(self.logits).kl(Categorical(other.logits)).sum(-1)

    def sample(self, noise: Tensor) -> Tensor:
        """Return actions argmax(logits + noise), (T, N, D), for Gumbel noise (T, N, D, C)."""
        return Categorical(self.logits).sample(noise)

    def mode(self) -> Tensor:
        """Return the most probable actions, (T, N, D)."""
        return Categorical(self.logits).mode()

    def fisher_product(self, tangents: Sequence[Tensor], weights: Tensor) -> tuple[Tensor, ...]:
        """Multiply a tangent by weighted Fisher matrices, with one categorical block per action.

        Args:
            tangents: one, of ``logits``, with their shape.
            weights: factor of each state, (T, N).
        """
        return Categorical(self.logits).fisher_product(tangents, weights[..., None])


NO_CHOICE = -1e9
"""A logit of probability zero. It is finite, since 0 · ∞ would be NaN in a KL or a gradient."""


Distribution = Gaussian | Categorical | MultiCategorical
"""An action distribution: a tuple of parameter tensors; every kind has the same methods."""
