"""Episodes as tensors. The axis order is (task, episode, time, feature), everywhere."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Episodes:
    """Episodes of T tasks, E per task, padded to H steps.

    ``mask`` says which steps are real: after its end an episode goes on as zeros. An episode whose
    simulation broke down, or that showed a number that is none, is void, all its steps masked; so
    are those of a task that is set aside.
    """

    observations: Tensor
    """(T, E, H, observation_size), as the policy saw them (normalised, if it normalises)."""
    actions: Tensor
    """(T, E, H, action_size) float, or (T, E, H[, D]) int64: the policy's own, before scaling and clipping."""
    rewards: Tensor
    """(T, E, H), raw."""
    mask: Tensor
    """(T, E, H): 1 for a real step, 0 after the episode's end."""
    distribution: tuple[Tensor, ...]
    """Parameters of the distribution that the actions were drawn from, each (T, E·H or 1, ...)."""
    log_probs: Tensor
    """(T, E, H): log-probability of each action when it was drawn."""
    void: Tensor
    """(T, E) bool: episodes that mean nothing."""
    success: Tensor
    """(T, E): an episode's last report, 1 for success and 0 for failure; NaN for void ones, and without a report."""
    advantages: Tensor
    """(T, E, H); zero until :func:`maml_rl.learners.advantages.with_advantages` fills them."""

    @property
    def num_tasks(self) -> int:
        """T."""
        return self.observations.shape[0]

    @property
    def num_steps(self) -> Tensor:
        """Real steps of each task, (T,)."""
        return self.mask.sum((1, 2))

    @property
    def real_observations(self) -> Tensor:
        """Observations of the real steps, (N, observation_size)."""
        return self.observations[self.mask > 0]

    @property
    def returns(self) -> Tensor:
        """Undiscounted return of each episode, (T, E); NaN for void ones."""
        return (self.rewards * self.mask).sum(-1).masked_fill(self.void, torch.nan)

    @property
    def step_weights(self) -> Tensor:
        """(T, E·H) weights that average over a task's real steps."""
        return (self.mask / self.num_steps.clamp(min=1)[:, None, None]).flatten(1)

    def flat(self, values: Tensor) -> Tensor:
        """Merge the episode and time axes: (T, E, H, ...) to (T, E·H, ...)."""
        return values.flatten(1, 2)

    def tasks(self, start: int, stop: int) -> Episodes:
        """The episodes of tasks start..stop−1, as views."""
        return self.chosen(slice(start, stop))

    def chosen(self, tasks: slice | Tensor) -> Episodes:
        """The episodes of some tasks: a slice, or those that ``tasks`` (T,) bool marks."""

        def part(value: Any) -> Any:
            return tuple(v[tasks] for v in value) if isinstance(value, tuple) else value[tasks]

        return Episodes(**{f.name: part(getattr(self, f.name)) for f in dataclasses.fields(self)})

    def without(self, tasks: Tensor) -> Episodes:
        """The same with every episode of the marked tasks (T,) bool void, and zeros in place of what they showed."""

        def emptied(values: Tensor) -> Tensor:
            return values.masked_fill(tasks.reshape(-1, *[1] * (values.dim() - 1)), 0)

        return dataclasses.replace(
            self,
            observations=emptied(self.observations),
            actions=emptied(self.actions),
            rewards=emptied(self.rewards),
            mask=emptied(self.mask),
            log_probs=emptied(self.log_probs),
            advantages=emptied(self.advantages),
            void=self.void | tasks[:, None],
            success=self.success.masked_fill(tasks[:, None], torch.nan),
        )

    def every(self, stride: int) -> Episodes:
        """A ``stride``-th of the steps: episode j keeps steps t with t ≡ j modulo ``stride``.

        So every time step is kept in some episode, and short episodes keep some steps too.
        """
        if stride == 1:
            return self
        _, num_episodes, horizon = self.mask.shape
        episode = torch.arange(num_episodes, device=self.mask.device)[:, None]
        steps = torch.arange(0, horizon, stride, device=self.mask.device) + episode % stride
        inside = (steps < horizon).to(self.mask.dtype)
        steps = steps.clamp(max=horizon - 1)

        def thin(value: Tensor) -> Tensor:
            return value[:, episode, steps]

        def thin_flat(value: Tensor) -> Tensor:
            return (
                value
                if value.shape[1] == 1
                else thin(value.unflatten(1, (num_episodes, horizon))).flatten(1, 2)
            )

        return Episodes(
            observations=thin(self.observations),
            actions=thin(self.actions),
            rewards=thin(self.rewards),
            mask=thin(self.mask) * inside,
            distribution=tuple(thin_flat(value) for value in self.distribution),
            log_probs=thin(self.log_probs),
            void=self.void,
            success=self.success,
            advantages=thin(self.advantages),
        )


def success_of_all(success: Tensor, returns: Tensor) -> Tensor:
    """Success where every episode counts: in an environment that reports it, an episode without a report has failed.

    Args:
        success: as in :class:`Episodes`, of all episodes that are to be averaged.
        returns: of the same episodes and shape; NaN for those that are left out.

    Returns:
        1, 0, or NaN for those that are left out; NaN everywhere where no episode reports anything.
    """
    if success.isnan().all():
        return success
    return success.nan_to_num(0.0).masked_fill(returns.isnan(), torch.nan)


class MetaBatch(NamedTuple):
    """The episodes of one meta-iteration: one support set per inner step, and the query set after the last."""

    supports: tuple[Episodes, ...]
    query: Episodes
    stacks: tuple[Mapping[str, Tensor], ...]
    """The parameters that each of them was sampled with, (T, ...), those of the query last."""

    def tasks(self, start: int, stop: int) -> MetaBatch:
        """The part of tasks start..stop−1, as views."""
        return self.chosen(slice(start, stop))

    def chosen(self, tasks: slice | Tensor) -> MetaBatch:
        """The part of some tasks: a slice, or those that ``tasks`` (T,) bool marks."""
        *supports, query = (episodes.chosen(tasks) for episodes in (*self.supports, self.query))
        stacks = tuple(
            {name: value[tasks] for name, value in stack.items()} for stack in self.stacks
        )
        return MetaBatch(tuple(supports), query, stacks)
