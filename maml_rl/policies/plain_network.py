"""A policy as a plain multilayer perceptron from raw observations to the environment's actions.

Observation normalisation and an adapted context become part of the first layer, gain and offset of
the action map part of the last one. Other libraries then get the same distribution without them.
The network does not clip actions.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from gymnasium import spaces
from torch import Tensor

from maml_rl.errors import UserError
from maml_rl.policies.action_map import ActionMap
from maml_rl.policies.mlp import MLPPolicy
from maml_rl.policies.normalizer import ObservationNormalizer
from maml_rl.policies.parameters import Params
from maml_rl.settings.policy import Nonlinearity


class PlainNetwork(NamedTuple):
    """Layers x ↦ x W + b with a nonlinearity between them, and the actions' standard deviation."""

    layers: tuple[tuple[Tensor, Tensor], ...]
    """W (fan_in, fan_out) and b (fan_out,) of each.

    The last one returns the mean, in units of the environment's actions, or logits if discrete.
    """
    log_std: Tensor | None
    """Log standard deviation of actions, (action_size,), in their units; ``None`` if discrete."""
    nonlinearity: Nonlinearity
    """Between layers."""


def check_plain_actions(space: spaces.Space[Any]) -> None:
    """Check that logs, export and Stable-Baselines3 support an action space.

    Raises:
        UserError: if it is neither a Box with one axis nor Discrete from 0.
    """
    is_plain_box = isinstance(space, spaces.Box) and len(space.shape) == 1
    is_plain_choice = isinstance(space, spaces.Discrete) and space.start == 0
    if not (is_plain_box or is_plain_choice):
        raise UserError(
            "logs, export and Stable-Baselines3 need actions in a Box of one axis, or Discrete "
            f"from 0; this policy's are {space}"
        )


def gain_and_offset(action_map: ActionMap) -> tuple[Tensor, Tensor]:
    """Return :attr:`ActionMap.gain_and_offset` of a Box with one axis: float64 (action_size,) each.

    Raises:
        UserError: if a dimension has the range 0, so that the map cannot be inverted.
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
    """Fold normalisation, context and action map into the layers of a policy.

    Products are computed in float64 and rounded once, so distributions agree to rounding.

    Args:
        policy: the architecture.
        theta: the parameters, possibly with an adapted ``context``.
        normalizer: of observations, or ``None``.
        action_map: from the policy's outputs to the environment's actions.

    Returns:
        The network from raw observations to actions, float32 on the CPU.

    Raises:
        UserError: if a dimension of the actions has the range 0.
    """
    # Layers in float64.
    double = {name: value.detach().cpu().double() for name, value in theta.items()}
    weights = [double[f"weight_{i}"] for i in range(policy.num_layers)]
    biases = [double[f"bias_{i}"] for i in range(policy.num_layers)]
    # First layer: context and normalisation.
    if "context" in double:
        biases[0] = biases[0] + double["context"] @ double["context_weight"]
    if normalizer is not None:
        weights[0] = weights[0] / normalizer.std.cpu()[:, None]
        biases[0] = biases[0] - normalizer.mean.cpu() @ weights[0]
    # Last layer and standard deviation: units of the environment's actions.
    log_std = None
    if not policy.action_head.discrete:
        gain, offset = gain_and_offset(action_map)
        weights[-1] = weights[-1] * gain
        biases[-1] = biases[-1] * gain + offset
        log_std = (_log_std(policy, theta) + gain.log()).float()
    layers = tuple(
        (weight.float(), bias.float()) for weight, bias in zip(weights, biases, strict=True)
    )
    return PlainNetwork(layers, log_std, policy.nonlinearity)


def unfolded(network: PlainNetwork, policy: MLPPolicy, action_map: ActionMap) -> dict[str, Tensor]:
    """Return parameters with which ``policy`` computes ``network``; inverse of :func:`folded`.

    The policy must not normalise observations, and its context must be zero.

    Args:
        network: the network to reproduce.
        policy: the architecture, with the same layer sizes.
        action_map: from the policy's outputs to the environment's actions.

    Returns:
        Float32 parameters of the layers and the standard deviation.

    Raises:
        UserError: if the standard deviation is smaller than a policy's can be, or if a dimension
            of the actions has the range 0.
    """
    weights = [weight.double() for weight, _ in network.layers]
    biases = [bias.double() for _, bias in network.layers]
    theta: dict[str, Tensor] = {}
    # Last layer and standard deviation: units of the policy's outputs.
    if network.log_std is not None:
        gain, offset = gain_and_offset(action_map)
        weights[-1] = weights[-1] / gain
        biases[-1] = (biases[-1] - offset) / gain
        theta["log_std"] = (network.log_std.double() - gain.log()).float()
        # The policy clamps log_std: refuse one that would change.
        if not torch.allclose(_log_std(policy, theta), theta["log_std"].double()):
            raise UserError(
                f"the standard deviation {math.exp(float(network.log_std.min())):g} is too small"
            )
    for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        theta |= {f"weight_{i}": weight.float(), f"bias_{i}": bias.float()}
    return theta


def _log_std(policy: MLPPolicy, theta: Params) -> Tensor:
    """Return the log standard deviation that the policy uses, float64 (action_size,) on the CPU."""
    stack = {"log_std": theta["log_std"].detach().cpu()[None]}
    return policy.log_std_of(stack)[0, 0].double()
