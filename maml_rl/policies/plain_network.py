"""A policy as a plain multilayer perceptron from raw observations to the environment's actions.

Normalisation of observations, an adapted context and the map of actions are all affine, so they are
folded into the first and the last layer. Other libraries know nothing of them then, and see the
same distribution.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from maml_rl.errors import UserError
from maml_rl.policies.action_map import ActionMap
from maml_rl.policies.distributions import Gaussian
from maml_rl.policies.mlp import MLPPolicy, distribution
from maml_rl.policies.normalizer import ObservationNormalizer
from maml_rl.policies.parameters import Params, make_stack
from maml_rl.settings.policy import Nonlinearity

ACTIVATIONS: dict[Nonlinearity, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "elu": nn.ELU,
    "silu": nn.SiLU,
}


class PlainNetwork(NamedTuple):
    """Layers x ↦ x W + b with a nonlinearity between them, and the spread of what comes out."""

    layers: tuple[tuple[Tensor, Tensor], ...]
    """W (fan_in, fan_out) and b (fan_out,) of each. The last gives the mean, in units of the environment's actions, or
    the logits of discrete ones."""
    log_std: Tensor | None
    """Log standard deviation of an action (action_size,), in the environment's units; ``None`` where discrete."""
    nonlinearity: Nonlinearity


def gain_and_offset(action_map: ActionMap) -> tuple[Tensor, Tensor]:
    """:attr:`ActionMap.gain_and_offset` of actions of one axis; float64, each (action_size,).

    Raises:
        UserError: an action has no range, so that no output can be told from it.
    """
    gain, offset = action_map.gain_and_offset
    if (gain == 0).any():
        dimension = int((gain == 0).argmax())
        raise UserError(f"actions of {action_map.space} have no range in dimension {dimension}")
    return torch.from_numpy(gain), torch.from_numpy(offset)


def folded(
    policy: MLPPolicy,
    theta: Params,
    normalizer: ObservationNormalizer | None,
    action_map: ActionMap,
) -> PlainNetwork:
    """The same action distribution, from raw observations to the environment's actions, float32 on the CPU.

    Numbers agree to rounding: products are taken in float64 and rounded once.
    """
    double = {name: value.detach().cpu().double() for name, value in theta.items()}
    weights = [double[f"weight_{i}"] for i in range(policy.num_layers)]
    biases = [double[f"bias_{i}"] for i in range(policy.num_layers)]
    if "context" in double:
        biases[0] = biases[0] + double["context"] @ double["context_weight"]
    if normalizer is not None:
        weights[0] = weights[0] / normalizer.std.cpu()[:, None]
        biases[0] = biases[0] - normalizer.mean.cpu() @ weights[0]
    log_std = None
    if not policy.discrete:
        gain, offset = gain_and_offset(action_map)
        weights[-1], biases[-1] = weights[-1] * gain, biases[-1] * gain + offset
        log_std = (_log_std(policy, theta) + gain.log()).float()
    layers = tuple(
        (weight.float(), bias.float()) for weight, bias in zip(weights, biases, strict=True)
    )
    return PlainNetwork(layers, log_std, policy.nonlinearity)


def unfolded(network: PlainNetwork, policy: MLPPolicy, action_map: ActionMap) -> dict[str, Tensor]:
    """The parameters with which ``policy``, not normalising and its context at zero, is ``network``.

    Raises:
        UserError: its standard deviation is below the smallest that a policy has.
    """
    weights = [weight.double() for weight, _ in network.layers]
    biases = [bias.double() for _, bias in network.layers]
    theta: dict[str, Tensor] = {}
    if network.log_std is not None:
        gain, offset = gain_and_offset(action_map)
        weights[-1], biases[-1] = weights[-1] / gain, (biases[-1] - offset) / gain
        theta["log_std"] = (network.log_std.double() - gain.log()).float()
        if not torch.allclose(_log_std(policy, theta), theta["log_std"].double()):
            raise UserError(
                f"the standard deviation {math.exp(float(network.log_std.min())):g} is too small"
            )
    for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        theta |= {f"weight_{i}": weight.float(), f"bias_{i}": bias.float()}
    return theta


def _log_std(policy: MLPPolicy, theta: Params) -> Tensor:
    """What the policy takes for its log standard deviation, which has a lower bound; float64 (action_size,)."""
    stack = {**make_stack(dict(policy.named_parameters()), 1), **make_stack(theta, 1)}
    observation = torch.zeros(1, 1, policy.observation_size)
    dist = distribution(policy, {name: value.cpu() for name, value in stack.items()}, observation)
    assert isinstance(dist, Gaussian), "only a Gaussian has a standard deviation"
    return dist.log_std[0, 0].double()
