"""Play and record a round of episodes on a device, without waiting for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from maml_rl.errors import UserError
from maml_rl.policies.action_map import ActionMap
from maml_rl.sampling.actors import Actor
from maml_rl.sampling.failures import ACTION, CODES, OBSERVATION, REWARD, SIMULATION
from maml_rl.sampling.recording import Recorded


class DeviceRollout:
    """One round: an episode in each of N simulations of an environment that is on a device.

    The axes are (step, simulation, ...). All tensors are allocated at once, and all N simulations
    step until the horizon: whether an episode has ended is known on the device only. Episodes fail
    for the same causes, in the same order, as those of an environment on the CPU.

    Args:
        env: with an attribute ``device``; its results are tensors there.
        horizon: H.
        dtype: of the episodes.
        action_map: from outputs to actions.
    """

    def __init__(self, env: Any, horizon: int, dtype: torch.dtype, action_map: ActionMap) -> None:
        self._env = env
        self._to_actions = action_map.for_tensors(env.device)
        num_envs, horizon_and_envs = env.num_envs, (horizon, env.num_envs)
        shape = env.single_observation_space.shape

        def zeros(*sizes: int, dtype: torch.dtype = dtype) -> Tensor:
            return torch.zeros(sizes, dtype=dtype, device=env.device)

        self._recorded = Recorded(
            observations=zeros(*horizon_and_envs, *shape),
            actions=zeros(*horizon_and_envs, action_map.num_outputs),
            rewards=zeros(*horizon_and_envs),
            mask=zeros(*horizon_and_envs, dtype=torch.bool),
            cause=zeros(num_envs, dtype=torch.int8),
            success=zeros(num_envs).fill_(torch.nan),
            terminated=zeros(num_envs, dtype=torch.bool),
            last_observations=zeros(num_envs, *shape).fill_(torch.nan),
        )
        self._live = ~self._recorded.terminated

    def play(self, observation: Tensor, actor: Actor, progress: Callable[[int], None]) -> Recorded:
        """Play until the horizon.

        Args:
            observation: after the reset, (N, *observation_shape).
            actor: chooses the actions.
            progress: called with the control step before each one.
        """
        rewards = self._recorded.rewards
        for t in range(len(rewards)):
            progress(t)
            outputs = self._act(t, observation, actor)
            observation, *results = self._env.step(self._to_actions(outputs))
            self._record(t, observation, *results)
            actor.observe_tensors(rewards[t], ~self._live)
        return self._recorded

    def _act(self, t: int, observation: Tensor, actor: Actor) -> Tensor:
        """Compute the actor's outputs (N, action_size) at step t; record them and the observation.

        Those of episodes that are over are set to zero.
        """
        recorded = self._recorded
        row = recorded.observations[t].copy_(observation)
        self._discard(~row.isfinite().flatten(1).all(1), OBSERVATION)
        row.masked_fill_(_like(~self._live, row), 0.0)
        acted = actor.act_on_tensors(row, t)
        outputs = recorded.actions[t]
        if acted.shape != outputs.shape:
            raise UserError(
                f"act_on_tensors of an actor must return {tuple(outputs.shape)} numbers, got "
                f"{tuple(acted.shape)}"
            )
        outputs.copy_(acted)
        self._discard(~outputs.isfinite().all(1), ACTION)
        outputs.masked_fill_(_like(~self._live, outputs), 0.0)
        recorded.mask[t].copy_(self._live)
        return outputs

    def _record(
        self,
        t: int,
        observation: Tensor,
        reward: Tensor,
        terminated: Tensor,
        truncated: Tensor,
        info: dict[str, Any],
    ) -> None:
        """Record what the environment returned for step t, each (N, ...)."""
        recorded = self._recorded
        recorded.rewards[t].copy_(reward)
        # Discard episodes that failed in this step.
        if "unstable" in info:
            self._discard(info["unstable"], SIMULATION)
        self._discard(~recorded.rewards[t].isfinite(), REWARD)
        # Keep the last report of success of each episode.
        if "is_success" in info:
            reported = info["is_success"].to(recorded.success)
            is_reported = self._live & info.get("_is_success", self._live) & ~reported.isnan()
            recorded.success.copy_(torch.where(is_reported, reported, recorded.success))
        # Keep the last observation of each episode.
        is_over = terminated | truncated
        ends = self._live if t == len(recorded.rewards) - 1 else self._live & is_over
        recorded.terminated.logical_or_(ends & terminated)
        last = recorded.last_observations
        last.copy_(torch.where(_like(ends, last), observation.to(last), last))
        self._live = self._live & ~is_over

    def _discard(self, failed: Tensor, what: str) -> None:
        """End the live episodes in ``failed`` (N,) bool, and record their cause."""
        self._recorded.cause.masked_fill_(self._live & failed, CODES[what])
        self._live = self._live & ~failed


def _like(mask: Tensor, values: Tensor) -> Tensor:
    """Return a mask (N,) with as many axes as ``values``."""
    return mask.reshape(-1, *[1] * (values.dim() - 1))
