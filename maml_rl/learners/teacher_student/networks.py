"""Teacher and student, as functions of parameters.

The teacher acts by π(a | o, z), where z is an encoding of the task (Kumar et al. 2021) or the task
itself (Yu et al. 2017). The student acts by the same π, with its own estimate of z. The axes are
(trial, time, feature). N is the number of trials, L their length.

Deviation: the student also reads rewards, because nothing else shows a goal. RMA's student is a
GRU and not a convolution, because its memory is kept over the episodes of a trial. The teacher
does not read the last action, which that of Kumar et al. does; it is trained by PPO, that of Yu et
al. by TRPO.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from maml_rl.policies.action_head import ActionHead
from maml_rl.policies.distributions import Distribution
from maml_rl.policies.parameters import Params
from maml_rl.policies.recurrent.layers import add_perceptron, perceptron
from maml_rl.policies.recurrent.memory import (
    TrialMemory,
    action_distribution,
    outputs_along_trials,
)
from maml_rl.settings.policy import Nonlinearity


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """The policy that knows z, its value network, and the encoder from the task to z.

    As a :class:`~maml_rl.policies.recurrent.memory.MemoryPolicy` its memory is z, which no step
    changes.
    """

    observation_size: int
    """Number of entries of an observation."""
    action_head: ActionHead
    """From the outputs of ``policy`` to the distribution of actions."""
    task_size: int
    """Number of entries of a task."""
    latent_size: int
    """Number of entries of z."""
    encoder_hidden_sizes: tuple[int, ...] | None
    """Width of each hidden layer of the encoder; ``None`` if z is the task itself."""
    hidden_sizes: tuple[int, ...]
    """Width of each hidden layer of ``policy`` and ``value``."""
    nonlinearity: Nonlinearity
    """Between the layers of all networks."""
    init_std: float
    """Initial standard deviation of the Gaussian."""
    horizon: int
    """Control steps of an episode."""

    @property
    def memory_size(self) -> int:
        """Number of entries of z."""
        return self.latent_size

    @property
    def previous_size(self) -> int:
        """Size of what came before a step: the action, the reward, the end of an episode."""
        return self.action_head.size + 2

    def initial_parameters(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """Draw initial parameters, float32: Glorot-uniform weights, and biases of zeros."""
        theta: dict[str, Tensor] = {}
        if self.encoder_hidden_sizes is not None:
            sizes = (self.task_size, *self.encoder_hidden_sizes, self.latent_size)
            add_perceptron(theta, "task_encoder", sizes, rng)
        num_inputs = self.latent_size + self.observation_size
        add_perceptron(
            theta, "policy", (num_inputs, *self.hidden_sizes, self.action_head.size), rng
        )
        add_perceptron(theta, "value", (num_inputs + 1, *self.hidden_sizes, 1), rng)
        if not self.action_head.discrete:
            theta["log_std"] = torch.full((self.action_head.size,), math.log(self.init_std))
        return theta

    def latents(self, theta: Params, tasks: Tensor) -> Tensor:
        """Return z = μ(task), (N, latent_size).

        Args:
            theta: parameters.
            tasks: normalised, (N, task_size).
        """
        if self.encoder_hidden_sizes is None:
            return tasks
        num_layers = len(self.encoder_hidden_sizes) + 1
        return perceptron(theta, "task_encoder", num_layers, self.nonlinearity, tasks)

    def encode(self, theta: Params, observations: Tensor, previous: Tensor) -> Tensor:
        """Return what came before, of which the memory reads nothing."""
        return previous

    def step(self, theta: Params, memory: Tensor, inputs: Tensor) -> Tensor:
        """Return the memory, which is z."""
        return memory

    def outputs_of(self, memory: Tensor) -> Tensor:
        """Return the memory, which is z."""
        return memory

    def along_trials(
        self,
        theta: Params,
        observations: Tensor,
        previous: Tensor,
        tasks: Tensor | None,
        truncation: int | None,
    ) -> tuple[Distribution, Tensor]:
        """Return the action distributions (N, L) and values (N, L) of whole trials.

        The value also depends on the time in the episode, since it is 0 at the horizon.

        Args:
            theta: parameters.
            observations: normalised, (N, L, observation_size).
            previous: what came before each step, of which the teacher reads the ends of episodes.
            tasks: normalised, (N, task_size).
            truncation: has no effect: the teacher has no backpropagation through time.
        """
        assert tasks is not None, "the teacher observes the tasks"
        latents = self.latents(theta, tasks)[:, None].expand(-1, observations.shape[1], -1)
        times = (_steps_in_episode(previous) / self.horizon).to(observations.dtype)[..., None]
        values = self._network(theta, "value", latents, observations, times)[..., 0]
        return action_distribution(self, theta, latents, observations), values

    def means_or_logits(self, theta: Params, outputs: Tensor, observations: Tensor) -> Tensor:
        """Return the parameters of action distributions that depend on the state, (..., size).

        Args:
            theta: parameters.
            outputs: z, (..., latent_size).
            observations: normalised, (..., observation_size).
        """
        return self._network(theta, "policy", outputs, observations)

    def _network(self, theta: Params, name: str, *inputs: Tensor) -> Tensor:
        """Apply ``policy`` or ``value``."""
        x = torch.cat(inputs, dim=-1)
        return perceptron(theta, name, len(self.hidden_sizes) + 1, self.nonlinearity, x)


def _steps_in_episode(previous: Tensor) -> Tensor:
    """Return the index of each step in its episode, (N, L).

    Args:
        previous: what came before each step; the last entry is 1 after the end of an episode,
            (N, L, previous_size).
    """
    steps = torch.arange(previous.shape[1], device=previous.device).expand(previous.shape[:2])
    starts = torch.where(previous[..., -1] > 0, steps, 0).cummax(dim=1).values
    return steps - starts


@dataclass(frozen=True, kw_only=True)
class Student:
    """The teacher's policy with an estimate of z, which a memory makes from the trial so far."""

    teacher: Teacher
    """Whose policy acts."""
    memory: TrialMemory
    """What the estimate reads."""
    output_size: int
    """Number of outputs of the memory."""
    hidden_sizes: tuple[int, ...]
    """Width of each hidden layer from these outputs to the estimate of z."""

    @property
    def observation_size(self) -> int:
        """Number of entries of an observation."""
        return self.teacher.observation_size

    @property
    def action_head(self) -> ActionHead:
        """The teacher's."""
        return self.teacher.action_head

    @property
    def memory_size(self) -> int:
        """Number of entries of the memory."""
        return self.memory.memory_size

    @property
    def previous_size(self) -> int:
        """Size of what came before a step: the action, the reward, the end of an episode."""
        return self.memory.previous_size

    def initial_parameters(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """Draw initial parameters of memory and estimate, float32."""
        parameters = self.memory.initial_parameters(rng)
        sizes = (self.output_size, *self.hidden_sizes, self.teacher.latent_size)
        add_perceptron(parameters, "estimate", sizes, rng)
        return parameters

    def encode(self, theta: Params, observations: Tensor, previous: Tensor) -> Tensor:
        """Return what the memory reads, (..., I)."""
        return self.memory.encode(theta, observations, previous)

    def step(self, theta: Params, memory: Tensor, inputs: Tensor) -> Tensor:
        """Return the memory after one step, (N, memory_size)."""
        return self.memory.step(theta, memory, inputs)

    def outputs_of(self, memory: Tensor) -> Tensor:
        """Return the outputs of a memory (..., memory_size)."""
        return self.memory.outputs_of(memory)

    def estimates(self, theta: Params, outputs: Tensor) -> Tensor:
        """Return estimates of z, (..., latent_size).

        Args:
            theta: parameters.
            outputs: of the memory, (..., output_size).
        """
        num_layers = len(self.hidden_sizes) + 1
        return perceptron(theta, "estimate", num_layers, self.teacher.nonlinearity, outputs)

    def estimates_along_trials(
        self, theta: Params, observations: Tensor, previous: Tensor, truncation: int | None
    ) -> Tensor:
        """Return the estimates of z at each step of whole trials, (N, L, latent_size).

        Args:
            theta: parameters.
            observations: normalised, (N, L, observation_size).
            previous: what came before each step, (N, L, previous_size).
            truncation: steps after which backpropagation through time is cut; ``None`` for never.
        """
        outputs = outputs_along_trials(self.memory, theta, observations, previous, truncation)
        return self.estimates(theta, outputs)

    def means_or_logits(self, theta: Params, outputs: Tensor, observations: Tensor) -> Tensor:
        """Return the parameters of action distributions that depend on the state, (..., size).

        Args:
            theta: parameters of teacher and student.
            outputs: of the memory, (..., output_size).
            observations: normalised, (..., observation_size).
        """
        return self.teacher.means_or_logits(theta, self.estimates(theta, outputs), observations)
