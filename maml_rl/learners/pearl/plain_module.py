"""PEARL's policy given z as a torch module, for export."""

from __future__ import annotations

from torch import Tensor, nn

from maml_rl.learners.pearl.networks import Networks
from maml_rl.policies.action_map import ActionMap
from maml_rl.policies.mlp import linear_modules
from maml_rl.policies.normalizer import ObservationNormalizer
from maml_rl.policies.parameters import Params
from maml_rl.policies.plain_network import (
    PlainModule,
    PlainNetwork,
    ScaledOutputs,
    input_module,
    invertible_gain_and_offset,
)


def latent_module(
    networks: Networks,
    theta: Params,
    latent: Tensor,
    normalizer: ObservationNormalizer | None,
    action_scale: float,
    action_map: ActionMap,
) -> PlainModule:
    """Return the policy from raw observations to its most probable actions, on the CPU.

    z is folded into the first layer.

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
    # The first layer: z as part of the bias. The last one: only the mean.
    weights[0], of_latent = weights[0].split((networks.observation_size, networks.latent_size))
    biases[0] = biases[0] + latent.cpu().double() @ of_latent
    weights[-1] = weights[-1][:, : networks.action_size]
    biases[-1] = biases[-1][: networks.action_size]
    layers = tuple((w.float(), b.float()) for w, b in zip(weights, biases, strict=True))
    # tanh, in units of the environment's actions.
    gain, offset = invertible_gain_and_offset(action_map)
    to_actions = ScaledOutputs(gain.float() / action_scale, offset)
    hidden = linear_modules(PlainNetwork(layers, None, "relu"))
    module = nn.Sequential(input_module(normalizer), *hidden, nn.Tanh(), to_actions)
    return PlainModule(module, None, (networks.observation_size,))
