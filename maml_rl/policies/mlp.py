"""What a policy is: a module that maps observations to the parameters of an action distribution.

Parameters are values. ``theta`` is a mapping from names to tensors; a *stack* is the same with a
leading task axis T. :func:`distribution` applies any policy to a stack; the MLPs here do it as
batched matrix products.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable, Sequence
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
from maml_rl.settings.policy import Nonlinearity
from maml_rl.system.cpu_operations import tanh_

_MIN_LOG_STD = math.log(1e-6)
_ONE_AT_A_TIME = threading.Lock()
"""Threads that work on blocks share a module, and ``functional_call`` exchanges its parameters while it runs."""


_NONLINEARITIES: dict[Nonlinearity, Callable[[Tensor], Tensor]] = {
    "tanh": tanh_,
    "relu": torch.relu,
    "elu": nn.functional.elu,
    "silu": nn.functional.silu,
}


class MLPPolicy(nn.Module):
    """A multilayer perceptron with a Gaussian head (Box actions) or categorical ones (Discrete, MultiDiscrete).

    The Gaussian's log standard deviation does not depend on the state. Weights start
    Glorot-uniform, biases at zero.

    Args:
        observation_size: length of an observation.
        action_size: length of an action, or number of discrete choices, over all actions where
            there are several.
        discrete: whether actions are discrete; the number of choices of each of several
            (MultiDiscrete).
        hidden_sizes: width of each hidden layer.
        nonlinearity: between layers.
        init_std: initial standard deviation of the Gaussian.
        rng: stream of the initial weights.
        context_size: length of the context that adapts in place of the weights (CAVIA: Zintgraf et
            al. 2019); it is fed to the first layer beside the observation, and is zero unless a
            stack holds ``context``, (T, context_size).
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
        sizes = [observation_size, *hidden_sizes, action_size]
        self.num_layers = len(sizes) - 1
        for i, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
            bound = math.sqrt(6 / (fan_in + fan_out))
            weight = torch.from_numpy(rng.uniform(-bound, bound, (fan_in, fan_out))).to(dtype)
            self.register_parameter(f"weight_{i}", nn.Parameter(weight))
            self.register_parameter(f"bias_{i}", nn.Parameter(torch.zeros(fan_out, dtype=dtype)))
        self.context_size = context_size
        if context_size > 0:
            bound = math.sqrt(6 / (context_size + sizes[1]))
            weight = torch.from_numpy(rng.uniform(-bound, bound, (context_size, sizes[1]))).to(
                dtype
            )
            self.context_weight = nn.Parameter(weight)
        if not discrete:
            self.log_std = nn.Parameter(torch.full((action_size,), math.log(init_std), dtype=dtype))

    @property
    def head(self) -> list[str]:
        """Names of the parameters of the last layer, and of the standard deviation."""
        last = self.num_layers - 1
        return [f"weight_{last}", f"bias_{last}", *([] if self.discrete else ["log_std"])]

    def forward(self, observations: Tensor) -> Distribution:
        """The action distribution at observations (N, observation_size), with this module's own parameters."""
        stack = {name: value[None] for name, value in self.named_parameters()}
        batch = self.forward_stack(stack, observations[None])
        return type(batch)(*(value[0] for value in batch))

    def forward_stack(self, stack: Params, observations: Tensor) -> Distribution:
        """The action distributions of T policies, each at its own observations (T, N, observation_size)."""
        activation = _NONLINEARITIES[self.nonlinearity]
        # Everything is transposed, (T, features, N): a processor's matrix routines gladly make the
        # few rows of an
        # action, and take as long for few columns as for many. So it is for the gradients.
        x = observations.mT
        for i, (weight, bias) in enumerate(self.layers(stack)):
            x = torch.baddbmm(bias.mT, weight.mT, activation(x) if i > 0 else x)
        x = x.mT.contiguous()
        if self.num_choices:
            most, parts = max(self.num_choices), x.split(self.num_choices, dim=-1)
            padded = [
                nn.functional.pad(part, (0, most - part.shape[-1]), value=NO_CHOICE)
                for part in parts
            ]
            return MultiCategorical(torch.stack(padded, dim=-2))
        if self.discrete:
            return Categorical(x)
        return Gaussian(x, self.log_std_of(stack))

    def layers(self, stack: Params) -> list[tuple[Tensor, Tensor]]:
        """Weight (T, fan_in, fan_out) and bias (T, 1, fan_out) per layer, the context's share in the first bias."""
        layers = [
            (stack[f"weight_{i}"], stack[f"bias_{i}"][:, None]) for i in range(self.num_layers)
        ]
        if "context" in stack:
            weight, bias = layers[0]
            layers[0] = (
                weight,
                torch.baddbmm(bias, stack["context"][:, None], stack["context_weight"]),
            )
        return layers

    def log_std_of(self, stack: Params) -> Tensor:
        """Log standard deviation of a Gaussian head, (T, 1, action_size)."""
        return stack["log_std"][:, None].clamp(min=_MIN_LOG_STD)

    def draw_noise(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """Standard noise for the ``sample`` of the distribution, float32: ``shape``, then one state's own.

        That is (action_size,), or (D, C) for D actions with up to C choices.
        """
        if self.num_choices:
            size = (*shape, len(self.num_choices), max(self.num_choices))
            return rng.gumbel(size=size).astype(np.float32)
        if self.discrete:
            return rng.gumbel(size=(*shape, self.action_size)).astype(np.float32)
        return rng.standard_normal((*shape, self.action_size), dtype=np.float32)


def distribution(policy: nn.Module, stack: Params, observations: Tensor) -> Distribution:
    """The action distributions of T policies that share one architecture.

    Args:
        policy: gives the architecture. An :class:`MLPPolicy` is applied by batched matrix products,
            any other module by ``vmap``.
        stack: parameters, each with a leading task axis T.
        observations: (T, N, observation_size).

    Returns:
        A :class:`Distribution` whose parameters have the leading axes (T, N), or (T, 1) where
        states share them.
    """
    if isinstance(policy, MLPPolicy):
        return policy.forward_stack(stack, observations)
    with _ONE_AT_A_TIME:
        return vmap(lambda params, obs: functional_call(policy, dict(params), (obs,)))(
            dict(stack), observations
        )


def initial_context(policy: nn.Module, num_tasks: int) -> dict[str, Tensor]:
    """The context that adaptation starts from: zeros (num_tasks, context_size), or nothing where there is none."""
    if not isinstance(policy, MLPPolicy) or policy.context_size == 0:
        return {}
    return {"context": policy.context_weight.new_zeros(num_tasks, policy.context_size)}


def action_size(space: spaces.Space[Any]) -> tuple[int, bool | tuple[int, ...]]:
    """Outputs that a policy needs for a space, and what :class:`MLPPolicy` calls ``discrete``.

    A Box of any shape counts its entries; Discrete, and MultiDiscrete with one axis, the choices.

    Raises:
        UserError: another space, or a Box of whole numbers.
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
        f"Discrete, or MultiDiscrete "
        "with one axis"
    )
