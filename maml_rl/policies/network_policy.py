"""A policy whose network is a torch module of the user's."""

from __future__ import annotations

import contextlib
import copy
import math
import threading
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.func import functional_call, vmap

from maml_rl.errors import UserError, errors_named
from maml_rl.policies.action_head import ActionHead, bounded_log_std
from maml_rl.policies.action_map import ActionMap
from maml_rl.policies.distributions import Distribution
from maml_rl.policies.normalizer import ObservationNormalizer
from maml_rl.policies.parameters import Params, make_stack, parameters
from maml_rl.policies.plain_network import PlainModule, input_module, output_module
from maml_rl.policies.policy import Policy
from maml_rl.settings.env import load_object
from maml_rl.settings.policy import PolicyConfig
from maml_rl.system.random_streams import Phase, RandomStreams

_FUNCTIONAL_CALL_LOCK = threading.Lock()
"""Held during ``functional_call``, which swaps the parameters of a module that threads share."""

_PREFIX = "network."
"""Start of the names of the network's parameters."""


class NetworkPolicy(Policy):
    """Any feed-forward module with a Gaussian head (Box actions) or categorical ones.

    The parameters are those of the module, named ``network.*``, and ``log_std`` for Box actions.
    The Gaussian's log standard deviation does not depend on the state.

    Args:
        network: from observations (N, *observation_shape) to outputs (N, action_head.size). Row i
            of the outputs depends on row i of the observations and on the parameters only.
        observation_shape: of one observation.
        action_head: from the outputs to the distribution of actions.
        init_std: initial standard deviation of the Gaussian.
    """

    def __init__(
        self,
        network: nn.Module,
        observation_shape: tuple[int, ...],
        action_head: ActionHead,
        init_std: float,
    ) -> None:
        super().__init__(observation_shape, action_head)
        self.network = network
        if not action_head.discrete:
            like = next(network.parameters())
            self.log_std = nn.Parameter(like.new_full((action_head.size,), math.log(init_std)))

    @property
    def head_names(self) -> list[str]:
        """Names of the parameters of the last module that has any, and of ``log_std``.

        The last one is the one that the network's constructor assigned last.
        """
        names = [name for name, _ in self.network.named_parameters(_PREFIX[:-1])]
        last = _module_of(names[-1])
        log_std = [] if self.action_head.discrete else ["log_std"]
        return [*(name for name in names if _module_of(name) == last), *log_std]

    def distribution(self, stack: Params, observations: Tensor) -> Distribution:
        """Return the action distributions of T policies, by ``vmap`` over the tasks.

        Args:
            stack: parameters, each (T, ...).
            observations: (T, N, *observation_shape).

        Raises:
            UserError: if the network raises.
        """
        name = f"{type(self.network).__module__}:{type(self.network).__name__}"
        with errors_named(f"policy.network {name} raised"), _FUNCTIONAL_CALL_LOCK:
            outputs = vmap(self.outputs)(_network_parameters(stack), observations)
        log_std = None if self.action_head.discrete else bounded_log_std(stack["log_std"])
        return self.action_head.distribution(outputs, log_std)

    def outputs(self, theta: Params, observations: Tensor) -> Tensor:
        """Return the network's outputs (N, size) with other parameters."""
        outputs: Tensor = functional_call(self.network, dict(theta), (observations,))
        return outputs

    def plain_module(
        self, theta: Params, normalizer: ObservationNormalizer | None, action_map: ActionMap
    ) -> PlainModule:
        """Return the network between a normaliser and an action map, in one module."""
        network = copy.deepcopy(self.network).cpu()
        with torch.no_grad():
            for name, value in network.named_parameters():
                value.copy_(theta[_PREFIX + name])
        to_actions, log_std = output_module(theta, self.action_head, action_map)
        module = nn.Sequential(input_module(normalizer), network, to_actions)
        return PlainModule(module, log_std, self.observation_shape)


def make_network_policy(
    config: PolicyConfig, observation_space: spaces.Box, action_space: spaces.Space[Any], seed: int
) -> NetworkPolicy:
    """Make the policy of ``policy.network``, on the CPU.

    The network is made as ``Class(observation_space, num_outputs)``. The global torch generator is
    seeded for this from ``seed``, and restored afterwards.

    Args:
        config: settings that name a network.
        observation_space: of one environment.
        action_space: of one environment.
        seed: of the initial weights.

    Raises:
        UserError: if the action space is not supported, or the network cannot be made or used.
    """
    assert config.network is not None, "make_policy calls this only for a network"
    head = ActionHead.of(action_space)
    make = load_object(config.network, "policy.network")
    rng = RandomStreams(seed, Phase.INITIALISATION).parameters()
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which would also seed the generators of GPUs.
        torch.default_generator.manual_seed(int(rng.integers(1 << 63)))
        with _errors(config, f"its constructor raised for {observation_space} and {head.size}"):
            network = make(observation_space, head.size)
        if not isinstance(network, nn.Module):
            raise _refusal(config, f"it must make a torch.nn.Module, got {type(network).__name__}")
        _check_outputs(config, network, observation_space.shape, head.size)
        _check_parameters(config, network)
        policy = NetworkPolicy(network, observation_space.shape, head, config.init_std)
        _check_gradients(config, policy)
    return policy


def _refusal(config: PolicyConfig, problem: str) -> UserError:
    return UserError(f"policy.network {config.network} cannot be used: {problem}")


def _errors(config: PolicyConfig, problem: str) -> contextlib.AbstractContextManager[None]:
    """Turn what the user's code raises into a refusal."""
    return errors_named(f"{_refusal(config, problem)}:")


def _check_outputs(
    config: PolicyConfig, network: nn.Module, observation_shape: tuple[int, ...], size: int
) -> None:
    """Apply the network to three observations, and check that it is a function of each.

    Raises:
        UserError: if it raises, returns something else than finite values (3, size) float32,
            changes its buffers or the observations, is random, or mixes observations.
    """
    observations = torch.rand(3, *observation_shape)
    before = observations.clone()
    what = f"observations {tuple(observations.shape)} float32"
    with torch.no_grad(), _errors(config, f"it raised for {what}"):
        first: Any = network(observations)  # also makes the parameters of lazy modules
        buffers = {name: value.clone() for name, value in network.named_buffers()}
        again, pair = network(observations), network(observations[:2])
    # Type and shape.
    got = type(first).__name__
    if isinstance(first, Tensor):
        got = f"{tuple(first.shape)} {first.dtype}"
    if got != f"{(3, size)} torch.float32":
        raise _refusal(config, f"for {what} it must return {(3, size)} torch.float32, got {got}")
    if not first.isfinite().all():
        raise _refusal(config, f"for {what} its outputs are not finite")
    # A function of each observation and of the parameters.
    if not torch.equal(observations, before):
        raise _refusal(config, "it changes the observations, which are an argument")
    for name, value in network.named_buffers():
        if not torch.equal(value, buffers[name]):
            raise _refusal(
                config,
                f"its buffer {name} changes with every call, as those of BatchNorm do; LayerNorm "
                "and GroupNorm have none",
            )
    if not torch.equal(first, again):
        raise _refusal(
            config, "it returns random outputs, as Dropout does; actions are sampled anyway"
        )
    if not torch.allclose(first[:2], pair, rtol=1e-3, atol=1e-4):
        raise _refusal(config, "its output for an observation depends on the others in the batch")


def _check_parameters(config: PolicyConfig, network: nn.Module) -> None:
    """Check that the network has parameters, all of them trained and float32.

    Raises:
        UserError: if it has none, or one that does not require gradients or has another dtype.
    """
    if next(network.parameters(), None) is None:
        raise _refusal(config, "it has no parameters")
    for name, value in network.named_parameters():
        if not value.requires_grad:
            raise _refusal(
                config,
                f"its parameter {name} does not require gradients, but all parameters are trained; "
                "make a constant a buffer",
            )
        if value.dtype != torch.float32:
            raise _refusal(config, f"its parameter {name} must be float32, got {value.dtype}")


def _check_gradients(config: PolicyConfig, policy: NetworkPolicy) -> None:
    """Apply the networks of two tasks, and check that their outputs depend on all parameters.

    Raises:
        UserError: if they cannot be applied at once, do not use a parameter, or keep a tensor.
    """
    stack = _network_parameters(make_stack(parameters(policy), 2))
    observations = torch.rand(2, 3, *policy.observation_shape)
    with _errors(config, "torch.func.vmap cannot apply it to several tasks"):
        inputs = [value.requires_grad_() for value in stack.values()]
        outputs = vmap(policy.outputs)(stack, observations)
        gradients = torch.autograd.grad(outputs.sum(), inputs, allow_unused=True)
    for name, gradient in zip(stack, gradients, strict=True):
        if gradient is None:
            raise _refusal(config, f"its outputs do not depend on its parameter {name}")
    with _errors(config, "it keeps a tensor of its last call as an attribute"):
        copy.deepcopy(policy.network)


def check_second_derivative(config: PolicyConfig, policy: NetworkPolicy) -> None:
    """Check that gradients of the network can be differentiated again.

    Raises:
        UserError: if they cannot.
    """
    observations = torch.rand(3, *policy.observation_shape)
    with _errors(config, "second-order MAML and TRPO need its second derivative"):
        theta = {
            name: value.detach().clone().requires_grad_()
            for name, value in policy.network.named_parameters()
        }
        outputs = policy.outputs(theta, observations).sin().sum()
        gradients = torch.autograd.grad(outputs, list(theta.values()), create_graph=True)
        squares = torch.stack([value.square().sum() for value in gradients])
        torch.autograd.grad(squares.sum(), list(theta.values()))


def _module_of(name: str) -> str:
    """Name of a parameter's module; ``torch.nn.utils.parametrize`` adds submodules to it."""
    module, parametrization, _ = name.partition(".parametrizations.")
    return module if parametrization else name.rpartition(".")[0]


def _network_parameters(stack: Params) -> dict[str, Tensor]:
    """Return the network's part of a stack, with the names of the network's parameters."""
    return {
        name.removeprefix(_PREFIX): value
        for name, value in stack.items()
        if name.startswith(_PREFIX)
    }
