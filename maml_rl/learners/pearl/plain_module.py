"""PEARL's policy given z as a torch module, for export."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from maml_rl.learners.pearl.networks import Networks
from maml_rl.policies.action_map import ActionMap
from maml_rl.policies.normalizer import ObservationNormalizer
from maml_rl.policies.parameters import Params
from maml_rl.policies.plain_network import PlainModule, gain_and_offset


def latent_module(
    networks: Networks,
    theta: Params,
    latent: Tensor,
    normalizer: ObservationNormalizer | None,
    action_scale: float,
    action_map: ActionMap,
) -> PlainModule:
    """Return the policy from raw observations to its most probable actions, on the CPU.

    Normaliser and z are folded into the first layer.

    Args:
        networks: the architecture.
        theta: parameters of the actor.
        latent: z, (latent_size,).
        normalizer: of observations, or ``None``.
        action_scale: by which actions in [−1, 1] are divided to give the outputs.
        action_map: from outputs to the environment's actions.
    """
    num_layers = len(networks.hidden_sizes) + 1
    weights, biases = (
        [theta[f"actor_{i}_{kind}"].detach().cpu().double() for i in range(num_layers)]
        for kind in ("weight", "bias")
    )
    # The first layer: z as part of the bias, and normalisation.
    of_state, of_latent = weights[0].split((networks.observation_size, networks.latent_size))
    biases[0] = biases[0] + latent.cpu().double() @ of_latent
    if normalizer is not None:
        of_state = of_state / normalizer.std.cpu()[:, None]
        biases[0] = biases[0] - normalizer.mean.cpu() @ of_state
    weights[0] = of_state
    # The last layer: only the mean.
    weights[-1] = weights[-1][:, : networks.action_size]
    biases[-1] = biases[-1][: networks.action_size]
    modules: list[nn.Module] = []
    for weight, bias in zip(weights, biases, strict=True):
        linear = nn.Linear(*weight.shape)
        linear.weight.data = weight.T.float().contiguous()
        linear.bias.data = bias.float()
        modules += [linear, nn.ReLU()]
    gain, offset = gain_and_offset(action_map)
    squash = _Squash(gain.float() / action_scale, offset.float())
    network = nn.Sequential(*modules[:-1], squash)
    return PlainModule(network, None, (networks.observation_size,))


class _Squash(nn.Module):
    """tanh, then a gain and an offset per entry."""

    gain: Tensor
    offset: Tensor

    def __init__(self, gain: Tensor, offset: Tensor) -> None:
        super().__init__()
        self.register_buffer("gain", gain)
        self.register_buffer("offset", offset)

    def forward(self, x: Tensor) -> Tensor:
        """Return offset + gain · tanh(x)."""
        return self.offset + self.gain * torch.tanh(x)
