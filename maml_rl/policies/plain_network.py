"""A policy as a plain network from raw observations to the environment's actions.

Other libraries then get the same distribution without the normaliser and the action map. In a
multilayer perceptron, an adapted context becomes part of the first layer, gain and offset of the
action map part of the last one. Observation normalisation is a module before it; for
Stable-Baselines3 it becomes part of the first layer, too. The network does not clip actions.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from gymnasium import spaces
from torch import Tensor, nn

from maml_rl.errors import UserError
from maml_rl.policies.action_head import ActionHead, bounded_log_std
from maml_rl.policies.action_map import ActionMap
from maml_rl.policies.normalizer import ObservationNormalizer
from maml_rl.policies.parameters import Params
from maml_rl.settings.policy import Nonlinearity


class PlainModule(NamedTuple):
    """A torch module, and the actions' standard deviation."""

    network: nn.Module
    """From raw observations (N, *observation_shape) to the mean, in units of the environment's
    actions, or to logits if discrete. With a memory (N, M) it also takes the memory, and the reward
    of its last action and whether that ended an episode (N, 2), and returns the new memory, too."""
    log_std: Tensor | None
    """Log standard deviation of actions, (action_size,), in their units; ``None`` if discrete, or
    if it depends on the observation."""
    observation_shape: tuple[int, ...]
    """Of the network's input. If the environment's observations have another, it is a vector."""
    start: tuple[Tensor, Tensor] | None = None
    """Memory (M,), and reward and end of an episode (2,), to begin with; ``None`` for a network
    without a memory."""


class PlainNetwork(NamedTuple):
    """A multilayer perceptron, and the actions' standard deviation.

    Its layers x ↦ x W + b have a nonlinearity between them.
    """

    layers: tuple[tuple[Tensor, Tensor], ...]
    """W (fan_in, fan_out) and b (fan_out,) of each.

    The last one returns the mean, in units of the environment's actions, or logits if discrete.
    """
    log_std: Tensor | None
    """Log standard deviation of actions, (action_size,), in their units; ``None`` if discrete."""
    nonlinearity: Nonlinearity
    """Between layers."""


class NormalizedObservations(nn.Module):
    """(observation − mean) / std."""

    mean: Tensor
    std: Tensor

    def __init__(self, normalizer: ObservationNormalizer) -> None:
        super().__init__()
        self.register_buffer("mean", normalizer.mean.cpu().float())
        self.register_buffer("std", normalizer.std.cpu().float())

    def forward(self, observation: Tensor) -> Tensor:
        """Normalise raw observations (N, *observation_shape)."""
        return (observation - self.mean) / self.std


class ScaledOutputs(nn.Module):
    """gain · output + offset, per entry."""

    gain: Tensor
    offset: Tensor

    def __init__(self, gain: Tensor, offset: Tensor) -> None:
        super().__init__()
        self.register_buffer("gain", gain.float())
        self.register_buffer("offset", offset.float())

    def forward(self, output: Tensor) -> Tensor:
        """Map outputs (N, action_size) to actions."""
        return output * self.gain + self.offset


def input_module(normalizer: ObservationNormalizer | None) -> nn.Module:
    """Return a module from raw observations to those that a policy's network reads, on the CPU."""
    return nn.Identity() if normalizer is None else NormalizedObservations(normalizer)


def output_module(
    theta: Params, head: ActionHead, action_map: ActionMap
) -> tuple[nn.Module, Tensor | None]:
    """Return a module from the outputs of a policy's network to actions, or to logits, on the CPU.

    Args:
        theta: parameters of the policy, of which ``log_std`` (action_size,) is used.
        head: of the policy.
        action_map: from the policy's outputs to the environment's actions.

    Returns:
        The module, and the log standard deviation in units of the actions, (action_size,), or
        ``None`` if they are discrete.

    Raises:
        UserError: if a dimension of the actions has the range 0.
    """
    if head.discrete:
        return nn.Identity(), None
    gain, offset = invertible_gain_and_offset(action_map)
    log_std = bounded_log_std(theta["log_std"].detach().cpu()[None])[0, 0]
    return ScaledOutputs(gain, offset), (log_std.double() + gain.log()).float()


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


def invertible_gain_and_offset(action_map: ActionMap) -> tuple[Tensor, Tensor]:
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
    network: PlainNetwork, normalizer: ObservationNormalizer | None, action_map: ActionMap
) -> PlainNetwork:
    """Fold normalisation and action map into a network; without ``log_std``, normalisation only.

    Products are computed in float64 and rounded once, so distributions agree to rounding, unless
    the mean of an observation is many times its standard deviation: then the first layer is the
    small difference of two large numbers.

    Args:
        network: from normalised observations to the policy's outputs.
        normalizer: of observations, or ``None``.
        action_map: from the policy's outputs to the environment's actions.

    Returns:
        The network from raw observations to actions, float32.

    Raises:
        UserError: if a dimension of the actions has the range 0.
    """
    weights = [weight.double() for weight, _ in network.layers]
    biases = [bias.double() for _, bias in network.layers]
    # First layer: normalisation.
    if normalizer is not None:
        weights[0] = weights[0] / normalizer.std.cpu()[:, None]
        biases[0] = biases[0] - normalizer.mean.cpu() @ weights[0]
    # Last layer and standard deviation: units of the environment's actions.
    log_std = network.log_std
    if log_std is not None:
        gain, offset = invertible_gain_and_offset(action_map)
        weights[-1] = weights[-1] * gain
        biases[-1] = biases[-1] * gain + offset
        log_std = (log_std.double() + gain.log()).float()
    return PlainNetwork(_single(weights, biases), log_std, network.nonlinearity)


def unfolded(network: PlainNetwork, action_map: ActionMap) -> PlainNetwork:
    """Return the network whose outputs ``action_map`` maps to those of ``network``.

    It is the inverse of :func:`folded` without a normaliser.

    Args:
        network: from observations to actions.
        action_map: from a policy's outputs to the environment's actions.

    Returns:
        The network from observations to a policy's outputs, float32.

    Raises:
        UserError: if a dimension of the actions has the range 0.
    """
    weights = [weight.double() for weight, _ in network.layers]
    biases = [bias.double() for _, bias in network.layers]
    log_std = network.log_std
    if log_std is not None:
        gain, offset = invertible_gain_and_offset(action_map)
        weights[-1] = weights[-1] / gain
        biases[-1] = (biases[-1] - offset) / gain
        log_std = (log_std.double() - gain.log()).float()
    return PlainNetwork(_single(weights, biases), log_std, network.nonlinearity)


def _single(weights: list[Tensor], biases: list[Tensor]) -> tuple[tuple[Tensor, Tensor], ...]:
    """Layers in single precision."""
    return tuple(
        (weight.float(), bias.float()) for weight, bias in zip(weights, biases, strict=True)
    )
