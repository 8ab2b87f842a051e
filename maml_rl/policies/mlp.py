"""Multilayer perceptrons that map observations to the parameters of an action distribution.

Parameters are values. ``theta`` is a mapping from names to tensors; a *stack* is the same with a
leading task axis T. :func:`distribution` applies any policy to a stack; for the MLPs here that is
batched matrix products.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.func import functional_call, vmap

from maml_rl.errors import UserError
from maml_rl.policies.distributions import (
    NO_CHOICE,
    Categorical,
    Distribution,
    Gaussian,
    MultiCategorical,
)
from maml_rl.policies.parameters import Params
from maml_rl.settings.policy import Nonlinearity, PolicyConfig
from maml_rl.system.random_streams import Phase, RandomStreams

MOST_OBSERVATION_ENTRIES = 2000
"""Maximum number of entries of a flattened observation.

The linear baseline solves normal equations whose memory grows with the square of the entries and
whose time grows with the cube.
"""

ACTIVATIONS: dict[Nonlinearity, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "elu": nn.ELU,
    "silu": nn.SiLU,
}
"""The module of each nonlinearity."""

_MIN_LOG_STD = math.log(1e-6)
_FUNCTIONAL_CALL_LOCK = threading.Lock()
"""Held during ``functional_call``, which swaps the parameters of a module that threads share."""


class MLPPolicy(nn.Module):
    """A multilayer perceptron with a Gaussian head (Box actions) or categorical ones.

    The Gaussian's log standard deviation does not depend on the state. Initial weights are
    Glorot-uniform, initial biases zero.

    Args:
        observation_size: number of entries of an observation.
        action_size: number of entries of an action; for discrete actions the number of choices,
            summed over the actions of a MultiDiscrete space.
        discrete: whether actions are discrete; for MultiDiscrete, the number of choices of each.
        hidden_sizes: width of each hidden layer.
        nonlinearity: between layers.
        init_std: initial standard deviation of the Gaussian.
        rng: stream of the initial weights.
        context_size: number of entries of the context that adapts instead of the weights (CAVIA:
            Zintgraf et al. 2019). It is an input of the first layer, in addition to the
            observation. Without ``context`` (T, context_size) in the stack it is zero.
        dtype: of the parameters.
    """

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        *,
        discrete: bool | Sequence[int],
        hidden_sizes: Sequence[int],
        nonlinearity: Nonlinearity,
        init_std: float,
        rng: np.random.Generator,
        context_size: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.discrete = bool(discrete)
        self.num_choices = () if isinstance(discrete, bool) else tuple(discrete)
        self.observation_size = observation_size
        self.action_size = action_size
        self.nonlinearity = nonlinearity
        self.activation = ACTIVATIONS[nonlinearity]()
        self.context_size = context_size

        # Draw the initial parameters.
        def glorot_uniform(fan_in: int, fan_out: int) -> nn.Parameter:
            bound = math.sqrt(6 / (fan_in + fan_out))
            values = rng.uniform(-bound, bound, (fan_in, fan_out))
            return nn.Parameter(torch.from_numpy(values).to(dtype))

        sizes = [observation_size, *hidden_sizes, action_size]
        self.num_layers = len(sizes) - 1
        for i, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
            self.register_parameter(f"weight_{i}", glorot_uniform(fan_in, fan_out))
            self.register_parameter(f"bias_{i}", nn.Parameter(torch.zeros(fan_out, dtype=dtype)))
        if context_size > 0:
            self.context_weight = glorot_uniform(context_size, sizes[1])
        if not discrete:
            self.log_std = nn.Parameter(torch.full((action_size,), math.log(init_std), dtype=dtype))

    @property
    def head(self) -> list[str]:
        """Names of the parameters of the last layer and of the standard deviation."""
        last = self.num_layers - 1
        return [f"weight_{last}", f"bias_{last}", *([] if self.discrete else ["log_std"])]

    def forward(self, observations: Tensor) -> Distribution:
        """Return the distribution of this module's parameters at (N, observation_size)."""
        stack = {name: value[None] for name, value in self.named_parameters()}
        batch = self.forward_stack(stack, observations[None])
        return type(batch)(*(value[0] for value in batch))

    def forward_stack(self, stack: Params, observations: Tensor) -> Distribution:
        """Return the action distributions of T policies, each at its own observations.

        Args:
            stack: parameters, each (T, ...).
            observations: (T, N, observation_size).
        """
        # Compute on (T, features, N): actions have few entries, and CPU matrix products are faster
        # with few rows than with few columns. The same holds for the gradients.
        x = observations.mT
        for i, (weight, bias) in enumerate(self.layers(stack)):
            x = torch.baddbmm(bias.mT, weight.mT, self.activation(x) if i > 0 else x)
        x = x.mT.contiguous()
        # The head: one categorical per action, a single categorical, or a Gaussian.
        if self.num_choices:
            return MultiCategorical(self._padded_logits(x))
        if self.discrete:
            return Categorical(x)
        return Gaussian(x, self.log_std_of(stack))

    def _padded_logits(self, logits: Tensor) -> Tensor:
        """Split logits (T, N, action_size) into those of D actions, padded to (T, N, D, C)."""
        most = max(self.num_choices)
        padded = [
            nn.functional.pad(part, (0, most - part.shape[-1]), value=NO_CHOICE)
            for part in logits.split(self.num_choices, dim=-1)
        ]
        return torch.stack(padded, dim=-2)

    def layers(self, stack: Params) -> list[tuple[Tensor, Tensor]]:
        """Return weight (T, fan_in, fan_out) and bias (T, 1, fan_out) of each layer.

        The first bias includes the contribution of the context.
        """
        layers = [
            (stack[f"weight_{i}"], stack[f"bias_{i}"][:, None]) for i in range(self.num_layers)
        ]
        if "context" in stack:
            weight, bias = layers[0]
            bias = torch.baddbmm(bias, stack["context"][:, None], stack["context_weight"])
            layers[0] = (weight, bias)
        return layers

    def log_std_of(self, stack: Params) -> Tensor:
        """Return the log standard deviation of the Gaussian, (T, 1, action_size), at least ln 1e-6.

        Args:
            stack: parameters, of which only ``log_std`` (T, action_size) is used.
        """
        return stack["log_std"][:, None].clamp(min=_MIN_LOG_STD)

    def draw_noise(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """Draw the standard noise that ``sample`` of the distribution takes.

        Args:
            rng: stream of the actions.
            shape: leading axes, one noise vector each.

        Returns:
            Float32: standard normal (*shape, action_size) for Box actions; Gumbel (*shape, C) for
            Discrete, or (*shape, D, C) for MultiDiscrete with D actions of up to C choices.
        """
        if self.num_choices:
            size = (*shape, len(self.num_choices), max(self.num_choices))
            return rng.gumbel(size=size).astype(np.float32)
        if self.discrete:
            return rng.gumbel(size=(*shape, self.action_size)).astype(np.float32)
        return rng.standard_normal((*shape, self.action_size), dtype=np.float32)


def distribution(policy: nn.Module, stack: Params, observations: Tensor) -> Distribution:
    """Return the action distributions of T policies that share one architecture.

    Args:
        policy: the architecture. An :class:`MLPPolicy` is applied by batched matrix products, any
            other module by ``vmap``.
        stack: parameters, each (T, ...).
        observations: (T, N, observation_size).

    Returns:
        A :class:`Distribution` whose parameters have the leading axes (T, N), or (T, 1) if states
        share them.
    """
    if isinstance(policy, MLPPolicy):
        return policy.forward_stack(stack, observations)
    with _FUNCTIONAL_CALL_LOCK:
        return vmap(lambda params, obs: functional_call(policy, dict(params), (obs,)))(
            dict(stack), observations
        )


def initial_context(policy: nn.Module, num_tasks: int) -> dict[str, Tensor]:
    """Return ``context``, zeros (num_tasks, context_size); no entry for policies without one."""
    if not isinstance(policy, MLPPolicy) or policy.context_size == 0:
        return {}
    return {"context": policy.context_weight.new_zeros(num_tasks, policy.context_size)}


def make_policy(
    config: PolicyConfig,
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    seed: int,
) -> MLPPolicy:
    """Make the policy that the settings describe, on the CPU, without gradients.

    Args:
        config: settings.
        observation_space: of one environment; a Box with one axis.
        action_space: of one environment; see :func:`action_size`.
        seed: of the initial weights.

    Raises:
        UserError: if a space is not supported.
    """
    if not (isinstance(observation_space, spaces.Box) and len(observation_space.shape) == 1):
        raise UserError(
            f"observation space {observation_space} is not supported: expected a one-dimensional "
            "Box"
        )
    (num_entries,) = observation_space.shape
    if num_entries > MOST_OBSERVATION_ENTRIES:
        raise UserError(
            f"observations of {num_entries} entries (flattened) are not supported: at most "
            f"{MOST_OBSERVATION_ENTRIES}, since the linear baseline solves a system of 2 x entries "
            "+ 5 unknowns for every task; images are too large"
        )
    size, discrete = action_size(action_space)
    policy = MLPPolicy(
        observation_size=num_entries,
        action_size=size,
        discrete=discrete,
        hidden_sizes=config.hidden_sizes,
        nonlinearity=config.nonlinearity,
        init_std=config.init_std,
        rng=RandomStreams(seed, Phase.INITIALISATION).parameters(),
        context_size=config.context_size,
    )
    return policy.requires_grad_(False)


def action_size(space: spaces.Space[Any]) -> tuple[int, bool | tuple[int, ...]]:
    """Return ``action_size`` and ``discrete`` of an :class:`MLPPolicy` for an action space.

    The size is the number of entries of a Box of any shape, or the total number of choices of a
    Discrete or one-dimensional MultiDiscrete space.

    Raises:
        UserError: if the space is of another kind, or a Box of integers.
    """
    if isinstance(space, spaces.Discrete):
        return int(space.n), True
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1:
        num_choices = tuple(int(number) for number in space.nvec)
        return sum(num_choices), num_choices
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
        return math.prod(space.shape), False
    raise UserError(
        f"action space {space} is not supported: expected a Box of floating-point numbers, "
        "Discrete, or MultiDiscrete with one axis"
    )
