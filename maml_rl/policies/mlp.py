"""Multilayer perceptrons that map observations to the parameters of an action distribution."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from maml_rl.errors import UserError
from maml_rl.policies.action_head import ActionHead, bounded_log_std
from maml_rl.policies.action_map import ActionMap
from maml_rl.policies.distributions import WITH_LATENT, Distribution
from maml_rl.policies.latent import LATENT_LOG_STD, LATENT_MEAN, latent_distribution
from maml_rl.policies.network_policy import make_network_policy
from maml_rl.policies.normalizer import ObservationNormalizer
from maml_rl.policies.parameters import Params, glorot_uniform
from maml_rl.policies.plain_network import PlainModule, PlainNetwork, folded, input_module
from maml_rl.policies.policy import Policy, Sampler
from maml_rl.settings.policy import Nonlinearity, PolicyConfig
from maml_rl.system.random_streams import Phase, RandomStreams

MOST_OBSERVATION_ENTRIES = 2000
"""Maximum number of entries of an observation.

More are usually an image, for which a network without convolutions is a poor choice.
"""

ACTIVATIONS: dict[Nonlinearity, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "elu": nn.ELU,
    "silu": nn.SiLU,
}
"""The module of each nonlinearity."""

_IN_PLACE: dict[Nonlinearity, Callable[[np.ndarray], object]] = {
    "tanh": lambda x: np.tanh(x, out=x),
    "relu": lambda x: np.maximum(x, 0, out=x),
}
"""Nonlinearities that NumPy computes in place."""


class MLPPolicy(Policy):
    """A multilayer perceptron with a Gaussian head (Box actions) or categorical ones.

    The Gaussian's log standard deviation does not depend on the state. Initial weights are
    Glorot-uniform, initial biases zero.

    Args:
        observation_size: number of entries of an observation.
        action_head: from the outputs to the distribution of actions.
        hidden_sizes: width of each hidden layer.
        nonlinearity: between layers.
        init_std: initial standard deviation of the Gaussian.
        rng: stream of the initial weights.
        context_size: number of entries of the context that adapts instead of the weights (CAVIA:
            Zintgraf et al. 2019). It is an input of the first layer, in addition to the
            observation. Without ``context`` (T, context_size) in the stack it is zero.
        latent_size: number of entries of the latent variable of an episode, which is an input of
            the first layer, too (:mod:`maml_rl.policies.latent`).
        dtype: of the parameters.
    """

    def __init__(
        self,
        observation_size: int,
        action_head: ActionHead,
        *,
        hidden_sizes: Sequence[int],
        nonlinearity: Nonlinearity,
        init_std: float,
        rng: np.random.Generator,
        context_size: int = 0,
        latent_size: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__((observation_size,), action_head)
        self.nonlinearity = nonlinearity
        self.activation = ACTIVATIONS[nonlinearity]()
        self.context_size = context_size
        self.latent_size = latent_size

        # Draw the initial parameters.
        def weight(fan_in: int, fan_out: int) -> nn.Parameter:
            return nn.Parameter(glorot_uniform(rng, fan_in, fan_out).to(dtype))

        sizes = [observation_size, *hidden_sizes, action_head.size]
        self.num_layers = len(sizes) - 1
        for i, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
            self.register_parameter(f"weight_{i}", weight(fan_in, fan_out))
            self.register_parameter(f"bias_{i}", nn.Parameter(torch.zeros(fan_out, dtype=dtype)))
        if context_size > 0:
            self.context_weight = weight(context_size, sizes[1])
        if latent_size > 0:
            self.latent_weight = weight(latent_size, sizes[1])
            for name in (LATENT_MEAN, LATENT_LOG_STD):
                self.register_parameter(name, nn.Parameter(torch.zeros(latent_size, dtype=dtype)))
        if not action_head.discrete:
            log_std = torch.full((action_head.size,), math.log(init_std), dtype=dtype)
            self.log_std = nn.Parameter(log_std)

    @property
    def head_names(self) -> list[str]:
        """Names of the parameters of the last layer, of the standard deviation and of z."""
        last = self.num_layers - 1
        log_std = [] if self.action_head.discrete else ["log_std"]
        latent = [LATENT_MEAN, LATENT_LOG_STD] if self.latent_size > 0 else []
        return [f"weight_{last}", f"bias_{last}", *log_std, *latent]

    def distribution(self, stack: Params, observations: Tensor) -> Distribution:
        """Return the action distributions of T policies, by batched matrix products.

        Args:
            stack: parameters, each (T, ...).
            observations: (T, N, observation_size); with a latent variable, recorded ones, or
                ``latent`` (T, N, L) in the stack is z.

        Returns:
            The distribution of actions; at recorded observations, that of actions and z.
        """
        if self.latent_size > 0 and "latent" not in stack:
            sizes = (*self.observation_shape, self.latent_size, 1)
            states, latents, is_first = observations.split(sizes, dim=-1)
            actions = self.distribution({**stack, "latent": latents}, states)
            of_latent = latent_distribution(stack)
            return WITH_LATENT[type(actions)](*of_latent, latents, is_first[..., 0], *actions)
        # Compute on (T, features, N): actions have few entries, and CPU matrix products are faster
        # with few rows than with few columns. The same holds for the gradients.
        x = observations.mT
        for i, (weight, bias) in enumerate(self.layers(stack)):
            x = torch.baddbmm(bias.mT, weight.mT, self.activation(x) if i > 0 else x)
        log_std = None if self.action_head.discrete else bounded_log_std(stack["log_std"])
        return self.action_head.distribution(x.mT.contiguous(), log_std)

    def layers(self, stack: Params) -> list[tuple[Tensor, Tensor]]:
        """Return weight (T, fan_in, fan_out) and bias (T, 1, fan_out) of each layer.

        The first bias includes the contributions of the context and of z. It is (T, N, fan_out) if
        z is ``latent`` (T, N, L) in the stack.
        """
        layers = [
            (stack[f"weight_{i}"], stack[f"bias_{i}"][:, None]) for i in range(self.num_layers)
        ]
        if "context" in stack:
            weight, bias = layers[0]
            bias = torch.baddbmm(bias, stack["context"][:, None], stack["context_weight"])
            layers[0] = (weight, bias)
        if "latent" in stack:
            weight, bias = layers[0]
            layers[0] = (weight, torch.baddbmm(bias, stack["latent"], stack["latent_weight"]))
        return layers

    def plain_network(
        self, theta: Params, normalizer: ObservationNormalizer | None, action_map: ActionMap
    ) -> PlainNetwork:
        """Fold normalisation, context, the mean of z and action map into the layers."""
        stack = {name: value.detach().cpu().double()[None] for name, value in theta.items()}
        if self.latent_size > 0:
            stack["latent"] = stack[LATENT_MEAN][:, None]
        discrete = self.action_head.discrete
        network = PlainNetwork(
            layers=tuple((weight[0], bias[0, 0]) for weight, bias in self.layers(stack)),
            log_std=None if discrete else bounded_log_std(stack["log_std"])[0, 0],
            nonlinearity=self.nonlinearity,
        )
        return folded(network, normalizer, action_map)

    def plain_module(
        self, theta: Params, normalizer: ObservationNormalizer | None, action_map: ActionMap
    ) -> PlainModule:
        """Return normalisation, and :meth:`plain_network` without it as linear layers.

        Normalisation stays apart: folded in single precision, it is inexact where the mean of an
        observation is many times its deviation.
        """
        network = self.plain_network(theta, None, action_map)
        modules = nn.Sequential(input_module(normalizer), *linear_modules(network))
        return PlainModule(modules, network.log_std, self.observation_shape)

    def parameters_of(self, network: PlainNetwork) -> dict[str, Tensor]:
        """Return parameters with which this policy computes ``network``, if its context is zero.

        The outputs then do not depend on the latent variable.

        Args:
            network: from normalised observations to the policy's outputs, with this policy's layer
                sizes.

        Raises:
            UserError: if the standard deviation is smaller than a policy's can be.
        """
        theta: dict[str, Tensor] = {}
        for i, (weight, bias) in enumerate(network.layers):
            theta |= {f"weight_{i}": weight, f"bias_{i}": bias}
        if self.latent_size > 0:
            theta["latent_weight"] = torch.zeros_like(self.latent_weight)
        if network.log_std is not None:
            theta["log_std"] = network.log_std
            # The policy clamps log_std: refuse one that would change.
            clamped = bounded_log_std(network.log_std[None])[0, 0]
            if not torch.allclose(clamped, network.log_std):
                smallest = math.exp(float(network.log_std.min()))
                raise UserError(
                    f"the standard deviation {smallest:g}, in units of the policy's output, is "
                    "too small"
                )
        return theta

    def initial_context(self, num_tasks: int) -> dict[str, Tensor]:
        """Return ``context``, zeros (T, context_size); empty without a context."""
        if self.context_size == 0:
            return {}
        return {"context": self.context_weight.new_zeros(num_tasks, self.context_size)}

    def sampler(
        self, stack: Params, noise: Tensor | None, normalizer: ObservationNormalizer | None
    ) -> Sampler:
        """Return a function that samples outputs, in NumPy for a Gaussian on a CPU.

        Physics steps evict the CPU caches. The time of a small operation then depends on how much
        code it runs, and NumPy runs much less than torch.
        """
        on_cpu = stack["weight_0"].device.type == "cpu"
        if on_cpu and not self.action_head.discrete and self.nonlinearity in _IN_PLACE:
            return self._numpy_sampler(stack, noise, normalizer)
        return super().sampler(stack, noise, normalizer)

    def _numpy_sampler(
        self, stack: Params, noise: Tensor | None, normalizer: ObservationNormalizer | None
    ) -> Sampler:
        # Weights as NumPy arrays.
        *hidden, (head, head_bias) = [
            (weight.detach(), bias.detach()) for weight, bias in self.layers(stack)
        ]
        layers = [(weight.numpy(), bias.numpy()) for weight, bias in hidden]
        last = head.numpy()
        num_tasks = len(last)
        # What is added to the outputs of each step: the last bias, with noise if there is any.
        # Unlike NumPy, torch does not warn about overflow.
        added = head_bias.numpy()
        if noise is not None:
            action_std = bounded_log_std(stack["log_std"]).detach().exp()
            added = (action_std * noise + head_bias).numpy()
        activate = _IN_PLACE[self.nonlinearity]
        if normalizer is not None:
            mean, std = (value.to(head).numpy() for value in (normalizer.mean, normalizer.std))

        def sample(observations: np.ndarray, t: int) -> np.ndarray:
            x = observations.reshape(num_tasks, -1, observations.shape[-1])
            if normalizer is not None:
                x = (x - mean) / std
            for weight, bias in layers:
                x = x @ weight
                x += bias
                activate(x)
            x = x @ last
            x += added if noise is None else added[t]
            return x.reshape(-1, x.shape[-1])

        return sample


def linear_modules(network: PlainNetwork) -> list[nn.Module]:
    """Return the layers of a network, with activations between them."""
    modules: list[nn.Module] = []
    for weight, bias in network.layers:
        if modules:
            modules.append(ACTIVATIONS[network.nonlinearity]())
        fan_in, fan_out = weight.shape
        linear = nn.Linear(fan_in, fan_out)
        linear.weight.data = weight.T.contiguous()
        linear.bias.data = bias.clone()
        modules.append(linear)
    return modules


def make_policy(
    config: PolicyConfig,
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    seed: int,
) -> Policy:
    """Make the policy that the settings describe, on the CPU, without gradients.

    Args:
        config: settings. If they name a ``network``, it is the policy's.
        observation_space: of one environment; a Box, which a multilayer perceptron flattens.
        action_space: of one environment; see :class:`~maml_rl.policies.action_head.ActionHead`.
        seed: of the initial weights.

    Raises:
        UserError: if a space is not supported, or the network cannot be used.
    """
    if not isinstance(observation_space, spaces.Box):
        raise UserError(f"observation space {observation_space} is not supported: expected a Box")
    if config.network is not None:
        policy: Policy = make_network_policy(config, observation_space, action_space, seed)
        return policy.requires_grad_(False)
    advice = (
        ": set policy.network to a network of your own, such as a convolutional one "
        "(docs/custom_networks.md)"
    )
    policy = MLPPolicy(
        observation_size=vector_size(observation_space, "a multilayer perceptron", advice),
        action_head=ActionHead.of(action_space),
        hidden_sizes=config.hidden_sizes,
        nonlinearity=config.nonlinearity,
        init_std=config.init_std,
        rng=RandomStreams(seed, Phase.INITIALISATION).parameters(),
        context_size=config.context_size,
        latent_size=config.latent_size,
    )
    return policy.requires_grad_(False)


def vector_size(space: spaces.Space[Any], reader: str, advice: str = "") -> int:
    """Return the number of entries of an observation, for what reads vectors.

    Args:
        space: of one environment's observations.
        reader: what reads them, for the message.
        advice: end of the message.

    Raises:
        UserError: if the space is not a Box, or too large for a multilayer perceptron.
    """
    if not isinstance(space, spaces.Box):
        raise UserError(f"observation space {space} is not supported: expected a Box")
    size = math.prod(space.shape)
    if size > MOST_OBSERVATION_ENTRIES:
        raise UserError(
            f"observations of {size} entries are too large for {reader}, which takes at most "
            f"{MOST_OBSERVATION_ENTRIES}{advice}"
        )
    return size
