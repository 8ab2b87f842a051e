"""Episodes as tensors. The axis order is (task, episode, time, feature), everywhere."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from maml_rl.sampling.failures import TASK_EXCLUDED


@dataclass(frozen=True, kw_only=True)
class Episodes:
    """Episodes of T tasks, E per task, padded to H steps.

    ``mask`` is 1 for real steps: after its end an episode is padded with zeros. An episode that
    failed (``cause``), or whose task failed, is discarded: its mask is 0 everywhere.
    """

    observations: Tensor
    """(T, E, H, *observation_shape), as :meth:`Actor.inputs` returned them: normalised if the
    policy normalises, raw for PEARL.

    With a latent variable they end with it and with the mark of first steps."""
    actions: Tensor
    """(T, E, H, action_size) float, or (T, E, H[, D]) int64: outputs, not scaled or clipped."""
    rewards: Tensor
    """(T, E, H), raw."""
    mask: Tensor
    """(T, E, H): 1 for a real step; 0 after the episode's end, and in discarded episodes.

    :meth:`every` can make it a weight."""
    distribution: tuple[Tensor, ...]
    """Parameters of the distribution that actions were sampled from, each (T, E·H or 1, ...).

    Empty if the actor does not define :meth:`Actor.densities`, as those of RL² and PEARL."""
    log_probs: Tensor
    """(T, E, H): log-probability of each action when it was sampled; zero without
    :meth:`Actor.densities`."""
    cause: Tensor
    """(T, E) int8: code of the failure (:data:`maml_rl.sampling.failures.CODES`); 0 if valid."""
    success: Tensor
    """(T, E): last report of each episode, 1 or 0; NaN if discarded or without a report."""
    terminated: Tensor
    """(T, E): 1 if the episode ended in a terminal state, 0 if it was cut off, discarded or logged
    (logs say only where episodes end)."""
    last_observations: Tensor
    """(T, E, *observation_shape): raw observation after the last real step; not finite where
    it is not known, as in a log."""
    advantages: Tensor
    """(T, E, H), of the objective; zero until
    :func:`maml_rl.learners.advantages.with_advantages` sets them."""
    inner_advantages: Tensor
    """(T, E, H), from which an inner step of MAML learns; zero until then, too."""

    @property
    def num_tasks(self) -> int:
        """T."""
        return self.observations.shape[0]

    @property
    def discarded(self) -> Tensor:
        """(T, E) bool: episodes that failed, or whose task failed."""
        return self.cause != 0

    @property
    def num_steps(self) -> Tensor:
        """Real steps of each task, (T,)."""
        return self.mask.sum((1, 2))

    @property
    def is_last(self) -> Tensor:
        """(T, E, H): 1 for the last real step of each episode, else 0."""
        following = torch.cat([self.mask[..., 1:], torch.zeros_like(self.mask[..., :1])], dim=-1)
        return self.mask - following

    @property
    def mean_length(self) -> Tensor:
        """Mean number of real steps of each task's valid episodes, (T,)."""
        return self.num_steps / (~self.discarded).sum(1).clamp(min=1)

    @property
    def real_observations(self) -> Tensor:
        """Observations of the real steps, (N, ...), with latent variables if there are any."""
        return self.observations[self.mask > 0]

    @property
    def returns(self) -> Tensor:
        """Undiscounted return of each episode, (T, E); NaN if discarded."""
        return (self.rewards * self.mask).sum(-1).masked_fill(self.discarded, torch.nan)

    @property
    def step_weights(self) -> Tensor:
        """(T, E·H) weights that average over a task's real steps."""
        return (self.mask / self.num_steps.clamp(min=1)[:, None, None]).flatten(1)

    def flat(self, values: Tensor) -> Tensor:
        """Merge the episode and time axes: (T, E, H, ...) to (T, E·H, ...)."""
        return values.flatten(1, 2)

    def chosen(self, tasks: slice | Tensor) -> Episodes:
        """The episodes of some tasks: a slice, as views, indices, or a mask (T,) bool."""

        def part(value: Any) -> Any:
            return tuple(v[tasks] for v in value) if isinstance(value, tuple) else value[tasks]

        return Episodes(**{f.name: part(getattr(self, f.name)) for f in dataclasses.fields(self)})

    def without(self, tasks: Tensor) -> Episodes:
        """Discard all episodes of the tasks in ``tasks`` (T,) bool, and set them to zero."""

        def zeroed(values: Tensor) -> Tensor:
            return values.masked_fill(tasks.reshape(-1, *[1] * (values.dim() - 1)), 0)

        return dataclasses.replace(
            self,
            observations=zeroed(self.observations),
            actions=zeroed(self.actions),
            rewards=zeroed(self.rewards),
            mask=zeroed(self.mask),
            log_probs=zeroed(self.log_probs),
            advantages=zeroed(self.advantages),
            inner_advantages=zeroed(self.inner_advantages),
            cause=self.cause.masked_fill(tasks[:, None] & ~self.discarded, TASK_EXCLUDED),
            success=self.success.masked_fill(tasks[:, None], torch.nan),
            terminated=zeroed(self.terminated),
            last_observations=zeroed(self.last_observations),
        )

    def every(self, stride: int, with_first: bool = False) -> Episodes:
        """Every ``stride``-th step: episode j keeps the steps t with t ≡ j modulo ``stride``.

        The offset differs between episodes, so that together they cover all time steps if there
        are at least ``stride`` of them.

        Args:
            stride: 1 keeps all steps.
            with_first: keep the first step of every episode, too. The mask is then a weight: 1 for
                first steps, and ``stride`` for the others, which stand for those left out.
        """
        if stride == 1:
            return self
        # Steps that each episode keeps, (E, H / stride); those beyond the horizon are masked.
        _, num_episodes, horizon = self.mask.shape
        episode = torch.arange(num_episodes, device=self.mask.device)[:, None]
        steps = torch.arange(0, horizon, stride, device=self.mask.device) + episode % stride
        inside = (steps < horizon).to(self.mask.dtype)
        steps = steps.clamp(max=horizon - 1)
        if with_first:
            inside = stride * inside * (steps > 0)
            inside = torch.cat([torch.ones_like(inside[:, :1]), inside], dim=1)
            steps = torch.cat([torch.zeros_like(steps[:, :1]), steps], dim=1)

        def thin(value: Tensor) -> Tensor:
            return value[:, episode, steps]

        def thin_flat(value: Tensor) -> Tensor:
            if value.shape[1] == 1:  # shared by all states
                return value
            return thin(value.unflatten(1, (num_episodes, horizon))).flatten(1, 2)

        return Episodes(
            observations=thin(self.observations),
            actions=thin(self.actions),
            rewards=thin(self.rewards),
            mask=thin(self.mask) * inside,
            distribution=tuple(thin_flat(value) for value in self.distribution),
            log_probs=thin(self.log_probs),
            cause=self.cause,
            success=self.success,
            terminated=self.terminated,
            last_observations=self.last_observations,
            advantages=thin(self.advantages),
            inner_advantages=thin(self.inner_advantages),
        )


def zero_masked(values: Tensor, mask: Tensor) -> None:
    """Set masked steps to zero, in place.

    Args:
        values: (T, E, H, ...).
        mask: (T, E, H), 1 for real steps.
    """
    is_masked = mask.reshape(*mask.shape, *[1] * (values.dim() - mask.dim())) == 0
    values.masked_fill_(is_masked, 0)


def success_of_all(success: Tensor, returns: Tensor) -> Tensor:
    """Success of every valid episode, counting those without a report as failures.

    Args:
        success: as in :class:`Episodes`, for all episodes to be averaged.
        returns: of the same episodes and shape; NaN for discarded ones.

    Returns:
        1, 0, or NaN for discarded episodes; all NaN if no episode reports success.
    """
    if success.isnan().all():
        return success
    return success.nan_to_num(0.0).masked_fill(returns.isnan(), torch.nan)
