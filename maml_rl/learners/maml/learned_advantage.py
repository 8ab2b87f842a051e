"""A learned advantage for inner steps, and an offset of theta (NoRML: Yang et al. 2019).

The outer step learns ψ, the parameters of A_ψ, and the offset together with theta.

Deviation: the reward and the time are inputs, because the level of the reward can show the task.
Deviation: the last layer starts at zero, so that the first inner steps are those of the estimated
advantages. There is one hidden layer; the authors' code has two for some environments.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from maml_rl.policies.parameters import Params, glorot_uniform
from maml_rl.policies.policy import Policy
from maml_rl.sampling.episodes import Episodes
from maml_rl.system.random_streams import RandomStreams

HIDDEN_SIZE = 50
"""Width of the hidden layer (Yang et al. 2019, section 5)."""
_PREFIX = "advantage/"
OFFSET = "offset/"
"""Start of the names of the offset in theta: offset/weight_0."""


def initial_advantage(policy: Policy, streams: RandomStreams, like: Tensor) -> dict[str, Tensor]:
    """ψ at the start, by name: Glorot-uniform in the hidden layer, zero in the last one.

    Args:
        policy: whose observations and outputs are inputs of A_ψ.
        streams: of random numbers; the initial weights are drawn from a child of the parameters'.
        like: device and dtype.
    """
    (rng,) = streams.parameters().spawn(1)
    fan_in = 2 * math.prod(policy.observation_shape) + policy.action_head.size + 2
    values = {
        "weight_0": glorot_uniform(rng, fan_in, HIDDEN_SIZE),
        "bias_0": torch.zeros(HIDDEN_SIZE),
        "weight_1": torch.zeros(HIDDEN_SIZE, 1),
        "bias_1": torch.zeros(1),
    }
    return {_PREFIX + name: value.to(like) for name, value in values.items()}


def learned_advantages(policy: Policy, stack: Params, episodes: Episodes) -> Tensor:
    """A_ψ(s_t, s_t+1, a_t, r_t, t), a perceptron with one hidden tanh layer, (T, E, H).

    s_t+1 of an episode's last step is s_t. Advantages are not centred: their mean over a task is
    part of what an inner step learns from.

    Args:
        policy: the architecture.
        stack: parameters, each (T, ...), with ψ.
        episodes: of T tasks.
    """
    states = episodes.observations.flatten(3)
    following = torch.cat([states[:, :, 1:], states[:, :, -1:]], dim=2)
    has_next = torch.cat([episodes.mask[:, :, 1:], torch.zeros_like(episodes.mask[:, :, :1])], 2)
    following = torch.where(has_next[..., None] > 0, following, states)
    horizon = states.shape[2]
    t = torch.arange(horizon, dtype=states.dtype, device=states.device) / 100
    inputs = torch.cat(
        [
            states,
            following,
            policy.action_head.encoded(episodes.actions),
            episodes.rewards[..., None],
            t[:, None].expand(*states.shape[:3], 1),
        ],
        dim=-1,
    )
    x = inputs.flatten(1, 2)
    weights = {name: stack[_PREFIX + name] for name in ("weight_0", "bias_0", "weight_1", "bias_1")}
    hidden = torch.baddbmm(weights["bias_0"][:, None], x, weights["weight_0"]).tanh()
    out = torch.baddbmm(weights["bias_1"][:, None], hidden, weights["weight_1"])
    return out.reshape(episodes.mask.shape) * episodes.mask
