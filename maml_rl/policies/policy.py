"""What every policy can do: distributions, noise and actions for a stack of parameters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from maml_rl.errors import UserError
from maml_rl.policies.action_head import ActionHead
from maml_rl.policies.action_map import ActionMap
from maml_rl.policies.distributions import Distribution
from maml_rl.policies.latent import draw_noise, draw_noise_on_device
from maml_rl.policies.normalizer import ObservationNormalizer
from maml_rl.policies.parameters import Params
from maml_rl.policies.plain_network import PlainModule, PlainNetwork

Sampler = Callable[[np.ndarray, int], np.ndarray]
"""(observations (T·E, *observation_shape), step t) -> outputs (T·E, ...)."""
TensorSampler = Callable[[Tensor, int], Tensor]
"""The same with tensors on the policy's device."""


class Policy(nn.Module, ABC):
    """An architecture. Its parameters are values that are passed in, as a stack for T tasks.

    Args:
        observation_shape: of one observation, as the policy sees it. A policy of vectors flattens
            observations of several axes.
        action_head: from the network's outputs to the distribution of actions.
    """

    latent_size: int = 0
    """Number of entries of the latent variable of an episode (:mod:`maml_rl.policies.latent`)."""

    def __init__(self, observation_shape: tuple[int, ...], action_head: ActionHead) -> None:
        super().__init__()
        self.observation_shape = observation_shape
        self.action_head = action_head

    @abstractmethod
    def distribution(self, stack: Params, observations: Tensor) -> Distribution:
        """Return the action distributions of T policies, each at its own observations.

        Args:
            stack: parameters, each (T, ...).
            observations: (T, N, *observation_shape); with a latent variable z, recorded ones,
                (T, N, observation size + L + 1), or ``latent`` (T, N, L) in the stack is z.

        Returns:
            A :data:`Distribution` whose parameters have the leading axes (T, N), or (T, 1) if
            states share them.
        """

    @property
    @abstractmethod
    def head_names(self) -> list[str]:
        """Names of the parameters of the last layer and of the standard deviation (for ANIL)."""

    @abstractmethod
    def plain_module(
        self, theta: Params, normalizer: ObservationNormalizer | None, action_map: ActionMap
    ) -> PlainModule:
        """Return a module from raw observations to actions that needs only torch, on the CPU.

        Args:
            theta: parameters of one task.
            normalizer: of observations, or ``None``.
            action_map: from the policy's outputs to the environment's actions.

        Raises:
            UserError: if a dimension of the actions has the range 0.
        """

    def plain_network(
        self, theta: Params, normalizer: ObservationNormalizer | None, action_map: ActionMap
    ) -> PlainNetwork:
        """Return a multilayer perceptron from raw observations to actions, on the CPU.

        Args:
            theta: parameters of one task.
            normalizer: of observations, or ``None``.
            action_map: from the policy's outputs to the environment's actions.

        Raises:
            UserError: if the policy is not one, or a dimension of the actions has the range 0.
        """
        raise UserError(
            "the policy is not a multilayer perceptron of maml_rl (policy.network is set): "
            "it cannot be converted to Stable-Baselines3"
        )

    def initial_context(self, num_tasks: int) -> dict[str, Tensor]:
        """Return ``context`` (T, context_size), zeros; empty for a policy without one (CAVIA)."""
        return {}

    def draw_noise(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """Draw noise of the actions and of the latent variable."""
        return draw_noise(self.action_head, self.latent_size, rng, shape)

    def draw_noise_on_device(self, rng: torch.Generator, shape: tuple[int, ...]) -> Tensor:
        """Draw the same kind of noise on the generator's device."""
        return draw_noise_on_device(self.action_head, self.latent_size, rng, shape)

    def sampler(
        self, stack: Params, noise: Tensor | None, normalizer: ObservationNormalizer | None
    ) -> Sampler:
        """Return a function that samples the outputs of one round of episodes.

        On a GPU, observations and outputs are copied once per step.

        Args:
            stack: parameters, each (T, ...), and z of every episode, if there is a latent variable.
            noise: standard noise of the actions, (H, T, E, ...); ``None`` for the most probable
                outputs.
            normalizer: of observations.
        """
        sample_tensors = self.tensor_sampler(stack, noise, normalizer)
        device = next(iter(stack.values())).device

        def sample(observations: np.ndarray, t: int) -> np.ndarray:
            x = torch.from_numpy(observations).to(device, non_blocking=True)
            return sample_tensors(x, t).cpu().numpy()

        return sample

    def tensor_sampler(
        self, stack: Params, noise: Tensor | None, normalizer: ObservationNormalizer | None
    ) -> TensorSampler:
        """Return a function that does the same with tensors, and never waits for the device."""
        num_tasks = next(iter(stack.values())).shape[0]

        def sample(observations: Tensor, t: int) -> Tensor:
            x = observations.unflatten(0, (num_tasks, -1))
            x = x if normalizer is None else normalizer.normalize(x)
            dist = self.distribution(stack, x)
            outputs = dist.mode() if noise is None else dist.sample(noise[t])
            return outputs.flatten(0, 1)

        return sample
