"""What a memory of a trial is, and a policy that acts by one.

At every step the memory reads the observation, and the action, the reward and the end of an episode
that came before it. The axes are (trial, time, feature). N is the number of trials, L their length.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from maml_rl.policies.action_head import ActionHead, bounded_log_std
from maml_rl.policies.distributions import Distribution
from maml_rl.policies.parameters import Params


class StepMemory(Protocol):
    """A memory that reads one step at a time; its parameters are values that are passed in."""

    @property
    def memory_size(self) -> int:
        """Number of entries of the memory of a trial."""

    @property
    def previous_size(self) -> int:
        """Size of what came before a step: the action, the reward, the end of an episode."""

    def encode(self, theta: Params, observations: Tensor, previous: Tensor) -> Tensor:
        """Return what the memory reads, (..., I).

        Args:
            theta: parameters.
            observations: normalised, (..., observation_size).
            previous: the action before, as a vector, the reward, and 1 if it ended an episode,
                (..., previous_size); zeros at the start of a trial.
        """

    def step(self, theta: Params, memory: Tensor, inputs: Tensor) -> Tensor:
        """Return the memory after one step, (N, memory_size).

        Args:
            theta: parameters.
            memory: before it, (N, memory_size); zeros at the start of a trial.
            inputs: of :meth:`encode`, (N, I).
        """

    def outputs_of(self, memory: Tensor) -> Tensor:
        """Return the outputs of a memory (..., memory_size)."""


class TrialMemory(StepMemory, Protocol):
    """A memory that also reads whole trials at once."""

    def initial_parameters(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """Draw initial parameters, float32."""

    def unroll(self, theta: Params, memory: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Read whole trials.

        Args:
            theta: parameters.
            memory: before the first step, (N, memory_size).
            inputs: of :meth:`encode`, (N, L, I).

        Returns:
            The outputs, (N, L, output size), and the memory after the last step, (N, memory_size).
        """


class MemoryPolicy(StepMemory, Protocol):
    """A policy that acts by the observation and the outputs of its memory."""

    @property
    def observation_size(self) -> int:
        """Number of entries of an observation."""

    @property
    def action_head(self) -> ActionHead:
        """From the policy's outputs to the distribution of actions."""

    def means_or_logits(self, theta: Params, outputs: Tensor, observations: Tensor) -> Tensor:
        """Return the parameters of action distributions that depend on the state, (..., size).

        Args:
            theta: parameters.
            outputs: of the memory, (..., output size).
            observations: normalised, (..., observation_size).
        """


def action_distribution(
    policy: MemoryPolicy, theta: Params, outputs: Tensor, observations: Tensor
) -> Distribution:
    """Return action distributions, with the leading axes (N, L).

    The log standard deviation of a Gaussian does not depend on the state.

    Args:
        policy: the architecture.
        theta: parameters, with ``log_std`` (action_size,) for a Gaussian.
        outputs: of the memory, (N, L, output size).
        observations: normalised, (N, L, observation_size).
    """
    values = policy.means_or_logits(theta, outputs, observations)
    if policy.action_head.discrete:
        return policy.action_head.distribution(values, None)
    log_std = bounded_log_std(theta["log_std"][None]).expand(len(values), -1, -1)
    return policy.action_head.distribution(values, log_std)


def outputs_along_trials(
    memory: TrialMemory,
    theta: Params,
    observations: Tensor,
    previous: Tensor,
    truncation: int | None,
) -> Tensor:
    """Return the outputs of a memory along trials that begin with an empty one.

    Args:
        memory: the architecture.
        theta: parameters.
        observations: normalised, (N, L, observation_size).
        previous: what came before each step, (N, L, previous_size).
        truncation: steps after which backpropagation through time is cut; ``None`` for never.

    Returns:
        (N, L, output size).
    """
    inputs = memory.encode(theta, observations, previous)
    state = inputs.new_zeros(len(inputs), memory.memory_size)
    outputs = []
    for part in inputs.split(truncation or inputs.shape[1], dim=1):
        # Detached: truncated, no gradient flows to the steps before.
        output, state = memory.unroll(theta, state.detach(), part)
        outputs.append(output)
    return torch.cat(outputs, dim=1)
