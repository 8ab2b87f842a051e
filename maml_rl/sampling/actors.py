"""An actor plays one stage of a trial: it chooses actions, and may remember what happened."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from maml_rl.errors import UserError, name_errors
from maml_rl.policies.action_map import ActionMap
from maml_rl.policies.distributions import Distribution
from maml_rl.policies.latent import action_noise, drawn_latents, with_latents
from maml_rl.policies.normalizer import ObservationNormalizer
from maml_rl.policies.parameters import Params
from maml_rl.policies.policy import Policy, Sampler, TensorSampler
from maml_rl.system.thread_pool import block_ends, map_blocks, tasks_per_block

Memory = tuple[np.ndarray, ...]
"""What an actor remembers of each simulation, each (T·E, ...)."""


class Actor(ABC):
    """Plays episodes of T tasks in rounds, E of each task at once.

    Only :meth:`act` must be defined.
    """

    memory: Memory | None = None
    """What it remembers after the last call; ``None`` if it has no memory."""

    def __init_subclass__(cls, **options: Any) -> None:
        """Have the errors of a user's actor name the method that raised them."""
        super().__init_subclass__(**options)
        acting = ("start", "act", "observe", "act_on_tensors", "observe_tensors")
        name_errors(cls, (*acting, "inputs", "densities"))

    def start(self, episodes: slice) -> None:  # noqa: B027  most actors need nothing
        """Begin a round. A memory starts as it was passed to the constructor, or empty.

        Args:
            episodes: the episodes of every task that are played in this round.
        """

    @abstractmethod
    def act(self, observations: np.ndarray, t: int) -> np.ndarray:
        """Return the outputs (T·E, ...) at step t, which the action map turns into actions.

        Args:
            observations: raw and finite, (T·E, *observation_shape); zero where an episode is over.
            t: number of steps so far in this round.
        """

    def observe(self, rewards: np.ndarray, ended: np.ndarray) -> None:  # noqa: B027
        """See the results of the last step.

        Args:
            rewards: (T·E,); may be not finite where an episode has failed.
            ended: whether the episode is over, (T·E,) bool.
        """

    def act_on_tensors(self, observations: Tensor, t: int) -> Tensor:
        """Do what :meth:`act` does with tensors on the device, without waiting for it.

        Only environments whose simulations are on a device need it.
        """
        raise UserError(
            f"{type(self).__name__} acts on NumPy arrays only, and cannot play simulations on a "
            "device: use the engine mujoco, or define act_on_tensors"
        )

    def observe_tensors(self, rewards: Tensor, ended: Tensor) -> None:  # noqa: B027
        """Do what :meth:`observe` does with tensors on the device, without waiting for it."""

    def inputs(self, observations: Tensor) -> Tensor:
        """Return what the policy sees of raw observations (T, E, H, *observation_shape)."""
        return observations

    def densities(self, inputs: Tensor, outputs: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return log-probabilities of outputs, and the parameters of their distribution.

        An actor without a distribution returns zeros and no parameters.

        Args:
            inputs: from :meth:`inputs`, zero at masked steps.
            outputs: (T, E, H, ...), zero at masked steps.

        Returns:
            (T, E, H), and tensors (T, E·H or 1, ...).
        """
        return inputs.new_zeros(outputs.shape[:3], dtype=torch.float32), ()


def check_actor(actor: Any) -> None:
    """Refuse what a learner returned if it is not an actor.

    Raises:
        UserError: if it is not.
    """
    if not isinstance(actor, Actor):
        raise UserError(
            f"actor of a learner must return a {Actor.__module__}.Actor, got {type(actor).__name__}"
        )


def memory_tensors(memory: Memory, sizes: Sequence[int], like: Tensor) -> list[Tensor]:
    """Return the arrays of a memory as tensors of the type and device of ``like``.

    Args:
        memory: to continue with.
        sizes: of each array, which must be (N, size).
        like: a parameter of the policy.

    Raises:
        UserError: if the arrays have other shapes, or are more or fewer.
    """
    if [part.shape[1:] for part in memory] != [(size,) for size in sizes]:
        expected = " and ".join(f"(N, {size})" for size in sizes)
        shapes = ", ".join(str(part.shape) for part in memory)
        raise UserError(
            f"the state of this agent must have arrays of shape {expected}, got {shapes}"
        )
    return [torch.from_numpy(np.ascontiguousarray(part)).to(like) for part in memory]


def checked_outputs(outputs: Any, num_envs: int, action_map: ActionMap) -> np.ndarray:
    """Return what :meth:`Actor.act` returned.

    Args:
        outputs: of the actor.
        num_envs: T·E.
        action_map: from outputs to actions.

    Raises:
        UserError: if it is not an array of numbers with as many entries as the actions, of integers
            if actions are discrete.
    """
    is_box = isinstance(action_map.space, spaces.Box)
    got = type(outputs).__name__
    if isinstance(outputs, np.ndarray):
        size = num_envs * action_map.num_outputs
        has_shape = outputs.shape[:1] == (num_envs,) and outputs.size == size
        if has_shape and outputs.dtype.kind in ("fiu" if is_box else "iu"):
            return outputs
        got = f"{outputs.shape} {outputs.dtype}"
    raise UserError(
        f"act of an actor must return a NumPy array of ({num_envs}, {action_map.num_outputs}) "
        f"{'numbers' if is_box else 'integers'}, got {got}"
    )


class PolicyActor(Actor):
    """Plays a stack of policies; it remembers the latent variable of each episode, if there is one.

    Args:
        policy: the architecture.
        stack: parameters, each (T, ...).
        noise: standard noise (T, E, H, ...); ``None`` for the most probable actions, and the mean
            of the latent variable.
        normalizer: of observations.
        memory: latent variables to continue with, instead of new ones.
    """

    def __init__(
        self,
        policy: Policy,
        stack: Params,
        noise: Tensor | None,
        normalizer: ObservationNormalizer | None,
        memory: Memory | None = None,
    ) -> None:
        self._policy = policy
        self._stack = stack
        self._noise = noise
        self._normalizer = normalizer
        self._round: tuple[Params, Tensor | None, ObservationNormalizer | None] | None = None
        """Stack, noise and normaliser of this round."""
        self._sampler: Sampler | None = None
        self._tensor_sampler: TensorSampler | None = None
        self._latents: Tensor | None = None
        """(T, E, L), or (T, 1, L) if all episodes have the same."""
        if policy.latent_size > 0:
            self._latents = (
                drawn_latents(stack, noise) if memory is None else self._remembered(memory)
            )

    def _remembered(self, memory: Memory) -> Tensor:
        """Return latent variables (T, E, L) from the memory."""
        like = next(iter(self._stack.values()))
        (latents,) = memory_tensors(memory, [self._policy.latent_size], like)
        return latents.unflatten(0, (len(like), -1))

    @property
    def memory(self) -> Memory | None:  # type: ignore[override]
        """The latent variable of each episode, once a round has begun."""
        if self._latents is None or self._round is None:
            return None
        return (self._round[0]["latent"].flatten(0, 1).cpu().numpy(),)

    def start(self, episodes: slice) -> None:
        """Begin a round."""
        policy, noise, stack = self._policy, self._noise, self._stack
        if noise is not None:  # the sampler reads the noise of one step at a time: (H, T, E, ...)
            noise = action_noise(noise, policy.action_head, policy.latent_size)
            noise = noise[:, episodes].movedim(2, 0).contiguous()
        if self._latents is not None:
            # Repeat the mean, if all episodes have it; otherwise this changes nothing.
            latents = self._latents.expand(-1, max(episodes.stop, self._latents.shape[1]), -1)
            stack = {**stack, "latent": latents[:, episodes]}
        self._round = (stack, noise, self._normalizer)
        self._sampler = self._tensor_sampler = None

    def act(self, observations: np.ndarray, t: int) -> np.ndarray:
        """Return the outputs of the policies."""
        if self._sampler is None:
            assert self._round is not None, "start is called before act"
            self._sampler = self._policy.sampler(*self._round)
        shape = self._policy.observation_shape
        return self._sampler(observations.reshape(len(observations), *shape), t)

    def act_on_tensors(self, observations: Tensor, t: int) -> Tensor:
        """Return the outputs of the policies."""
        if self._tensor_sampler is None:
            assert self._round is not None, "start is called before act"
            self._tensor_sampler = self._policy.tensor_sampler(*self._round)
        shape = self._policy.observation_shape
        return self._tensor_sampler(observations.reshape(len(observations), *shape), t)

    def inputs(self, observations: Tensor) -> Tensor:
        """Return observations of the policy's shape, normalised if the policy normalises.

        The latent variable of the episode is appended.
        """
        observations = observations.reshape(
            *observations.shape[:3], *self._policy.observation_shape
        )
        if self._normalizer is not None:
            observations = self._normalizer.normalize(observations)
        return observations if self._latents is None else with_latents(observations, self._latents)

    def densities(self, inputs: Tensor, outputs: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return log-probabilities and distributions, in blocks of tasks as in the learner."""

        def of_block(start: int, stop: int) -> tuple[Tensor, Distribution]:
            block = {name: value[start:stop] for name, value in self._stack.items()}
            dist = self._policy.distribution(block, inputs[start:stop].flatten(1, 2))
            return dist.log_prob(outputs[start:stop].flatten(1, 2)), dist

        blocks = block_ends(len(inputs), tasks_per_block(inputs.device))
        log_probs, dists = zip(*map_blocks(of_block, blocks), strict=True)
        return (
            torch.cat(log_probs).reshape(outputs.shape[:3]),
            tuple(torch.cat(values) for values in zip(*dists, strict=True)),
        )
