"""Action distributions of T stacked policies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Self

import torch
from torch import Tensor


class Gaussian(NamedTuple):
    """Diagonal Gaussian at N states of each of T tasks: ``mean`` (T, N, A) and ``log_std``, broadcastable to it."""

    mean: Tensor
    log_std: Tensor

    def log_prob(self, actions: Tensor) -> Tensor:
        """Σ_a [−(a − μ)² / 2σ² − log σ − ½ log 2π], (T, N)."""
        z = (actions - self.mean) * torch.exp(-self.log_std)
        constant = (self.log_std + 0.5 * math.log(2 * math.pi)).sum(-1)
        return -0.5 * (z * z).sum(-1) - constant

    def kl(self, other: Self) -> Tensor:
        """Σ_a [log σ'/σ + (σ² + (μ − μ')²) / 2σ'² − ½], (T, N)."""
        precision = torch.exp(-2 * other.log_std)
        terms = (torch.exp(2 * self.log_std) + (self.mean - other.mean) ** 2) * precision - 1
        return (0.5 * terms + other.log_std - self.log_std).sum(-1)

    def sample(self, noise: Tensor) -> Tensor:
        """μ + σ·noise, with standard normal noise (T, N, A)."""
        return self.mean + torch.exp(self.log_std) * noise

    def mode(self) -> Tensor:
        """The mean."""
        return self.mean

    def fisher_product(self, tangents: Sequence[Tensor], weights: Tensor) -> tuple[Tensor, ...]:
        """The Fisher matrix of (μ, log σ) is diag(1/σ², 2) per dimension. Weights (T, N)."""
        d_mean, d_log_std = tangents
        w = weights[..., None]
        # A log_std shared by all states of a task carries all their weights.
        w_log_std = w.sum(1, keepdim=True) if d_log_std.shape[1] == 1 else w
        return w * d_mean * torch.exp(-2 * self.log_std), w_log_std * 2 * d_log_std


class Categorical(NamedTuple):
    """Categorical over C actions at N states of each of T tasks: unnormalised ``logits`` (T, N, C)."""

    logits: Tensor

    def log_prob(self, actions: Tensor) -> Tensor:
        """Log-softmax at the action, (T, N); actions are int64 (T, N)."""
        return self.logits.log_softmax(-1).gather(-1, actions[..., None])[..., 0]

    def kl(self, other: Self) -> Tensor:
        """Σ_c p log(p / q), (T, N)."""
        log_p, log_q = self.logits.log_softmax(-1), other.logits.log_softmax(-1)
        return (log_p.exp() * (log_p - log_q)).sum(-1)

    def sample(self, noise: Tensor) -> Tensor:
        """argmax(logits + noise), with standard Gumbel noise (T, N, C)."""
        return (self.logits + noise).argmax(-1)

    def mode(self) -> Tensor:
        """The most probable action, (T, N)."""
        return self.logits.argmax(-1)

    def fisher_product(self, tangents: Sequence[Tensor], weights: Tensor) -> tuple[Tensor, ...]:
        """The Fisher matrix of the logits is diag(p) − p pᵀ. Weights (T, N)."""
        (d_logits,) = tangents
        p = self.logits.softmax(-1)
        return (weights[..., None] * p * (d_logits - (p * d_logits).sum(-1, keepdim=True)),)


class MultiCategorical(NamedTuple):
    """D independent categoricals (MultiDiscrete actions) at N states of each of T tasks: ``logits`` (T, N, D, C).

    C is the largest number of choices; logits of choices that an action does not have are
    :data:`NO_CHOICE`.
    """

    logits: Tensor

    def log_prob(self, actions: Tensor) -> Tensor:
        """Σ_d log-softmax at action d, (T, N); actions are int64 (T, N, D)."""
        return Categorical(self.logits).log_prob(actions).sum(-1)

    def kl(self, other: Self) -> Tensor:
        """Σ_d Σ_c p log(p / q), (T, N)."""
        return Categorical(self.logits).kl(Categorical(other.logits)).sum(-1)

    def sample(self, noise: Tensor) -> Tensor:
        """argmax(logits + noise) of each action, (T, N, D), with standard Gumbel noise (T, N, D, C)."""
        return Categorical(self.logits).sample(noise)

    def mode(self) -> Tensor:
        """The most probable actions, (T, N, D)."""
        return Categorical(self.logits).mode()

    def fisher_product(self, tangents: Sequence[Tensor], weights: Tensor) -> tuple[Tensor, ...]:
        """The Fisher matrix is block-diagonal, one categorical's for each action. Weights (T, N)."""
        return Categorical(self.logits).fisher_product(tangents, weights[..., None])


NO_CHOICE = -1e9
"""A logit of probability zero. Finite, because zero times infinity is no number in a KL or a gradient."""


Distribution = Gaussian | Categorical | MultiCategorical
"""An action distribution: a tuple of its parameters, with the same methods for each kind."""
