"""Action distributions of a stack of T policies, at N states each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple, Self

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

    def entropy(self) -> Tensor:
        """Return entropies (T, N), or (T, 1) if states share log_std: Σ_a [log σ + ½ log 2πe]."""
        return (self.log_std + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)

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

    def entropy(self) -> Tensor:
        """Return entropies (T, N): −Σ_c p log p."""
        log_p = self.logits.log_softmax(-1)
        return -(log_p.exp() * log_p).sum(-1)

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

    def entropy(self) -> Tensor:
        """Return entropies (T, N), summed over d."""
        return Categorical(self.logits).entropy().sum(-1)

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


class WithLatent(tuple[Tensor, ...]):
    """Actions and the latent variable z of their episode, as one distribution.

    z is part of the first action of an episode: p(z) π(a | s, z) there, π(a | s, z) afterwards. The
    items are mean and log standard deviation of z, (T, 1, L) each; z itself, (T, N, L); 1 for an
    episode's first step and 0 for the others, (T, N); and the parameters of π(a | s, z).
    """

    ACTIONS: ClassVar[Any]
    """Class of π(a | s, z)."""

    def __new__(cls, *values: Tensor) -> Self:
        """Make the distribution from its items, as a named tuple is made."""
        return super().__new__(cls, values)

    @property
    def latent(self) -> Gaussian:
        """Distribution of z, for each task."""
        return Gaussian(*self[:2])

    @property
    def actions(self) -> Any:
        """π(a | s, z)."""
        return self.ACTIONS(*self[4:])

    def log_prob(self, actions: Tensor) -> Tensor:
        """Return log π(a | s, z), and at first steps log p(z) in addition, (T, N)."""
        latents, is_first = self[2:4]
        of_actions: Tensor = self.actions.log_prob(actions)
        return of_actions + is_first * self.latent.log_prob(latents)

    def kl(self, other: Self) -> Tensor:
        """Return KL(self ‖ other) of the actions, and at first steps of z in addition, (T, N)."""
        of_actions: Tensor = self.actions.kl(other.actions)
        return of_actions + self[3] * self.latent.kl(other.latent)

    def entropy(self) -> Tensor:
        """Return entropies of the actions, and at first steps of z in addition, (T, N)."""
        of_actions: Tensor = self.actions.entropy()
        return of_actions + self[3] * self.latent.entropy()

    def sample(self, noise: Tensor) -> Tensor:
        """Return actions that π(a | s, z) samples."""
        sampled: Tensor = self.actions.sample(noise)
        return sampled

    def mode(self) -> Tensor:
        """Return the most probable actions of π(a | s, z)."""
        most_probable: Tensor = self.actions.mode()
        return most_probable

    def fisher_product(self, tangents: Sequence[Tensor], weights: Tensor) -> tuple[Tensor, ...]:
        """Multiply tangents by weighted Fisher matrices; those of z count at first steps.

        Args:
            tangents: of mean and log standard deviation of z, and of the parameters of the actions.
            weights: factor of each state, (T, N).
        """
        of_latent = (weights * self[3]).sum(1, keepdim=True)
        return (
            *self.latent.fisher_product(tangents[:2], of_latent),
            *self.actions.fisher_product(tangents[2:], weights),
        )


class LatentGaussian(WithLatent):
    """:class:`WithLatent` with Gaussian actions."""

    ACTIONS = Gaussian


class LatentCategorical(WithLatent):
    """:class:`WithLatent` with categorical actions."""

    ACTIONS = Categorical


class LatentMultiCategorical(WithLatent):
    """:class:`WithLatent` with several categorical actions."""

    ACTIONS = MultiCategorical


WITH_LATENT: dict[type, type[WithLatent]] = {
    kind.ACTIONS: kind for kind in (LatentGaussian, LatentCategorical, LatentMultiCategorical)
}
"""The distribution of actions and z, by the class of the actions' distribution."""


Distribution = Gaussian | Categorical | MultiCategorical | WithLatent
"""An action distribution: a tuple of parameter tensors; every kind has the same methods."""
