"""Tiny float64 networks of PEARL, batches, and its losses once more, one transition at a time.

The functions ``plain_*`` share no code with the package.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from maml_rl.learners.pearl.context_encoder import ContextEncoder, GRUEncoder, ProductEncoder
from maml_rl.learners.pearl.networks import Networks
from maml_rl.learners.pearl.replay import Transitions
from maml_rl.learners.pearl.sac import Batch, Learned

S, A, L = 3, 2, 2
"""Sizes of observation, action and z."""
T, B, N = 3, 4, 5
"""Tasks, transitions of each in a batch, and in a context."""
NETWORKS = Networks(observation_size=S, action_size=A, latent_size=L, hidden_sizes=(4,))
ENCODERS: dict[str, ContextEncoder] = {
    "product": ProductEncoder(transition_size=S + A + 1, latent_size=L, hidden_sizes=(4,)),
    "gru": GRUEncoder(transition_size=S + A + 1, latent_size=L, hidden_sizes=(3, 4)),
    "gru_without_layers": GRUEncoder(transition_size=S + A + 1, latent_size=L, hidden_sizes=(4,)),
}


def randn(*shape: int, seed: int) -> Tensor:
    """Standard normal values, float64."""
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def moved(parameters: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Float64 parameters that are not at their initial values: neither biases nor outputs are 0."""
    return {
        name: value.double() + 0.3 * randn(*value.shape, seed=seed + i)
        for i, (name, value) in enumerate(parameters.items())
    }


def make_learned(encoder: ContextEncoder) -> Learned:
    """Parameters of which no two are equal, and targets that differ from the critics."""
    rng = np.random.default_rng(0)
    learned = Learned.initial(
        moved(encoder.initial_parameters(rng), 10),
        moved(NETWORKS.initial_actor(rng), 100),
        moved(NETWORKS.initial_critics(rng), 200),
        temperature=0.3,
    )
    return learned._replace(targets=moved(learned.critics, 300))


def make_batch() -> Batch:
    """A batch in which some next states are terminal."""
    transitions = Transitions(
        observations=randn(T, B, S, seed=1),
        actions=randn(T, B, A, seed=2).tanh(),
        rewards=randn(T, B, seed=3),
        terminated=(randn(T, B, seed=4) > 0.5).double(),
        next_observations=randn(T, B, S, seed=5),
    )
    assert 0 < float(transitions.terminated.mean()) < 1
    return Batch(
        transitions=transitions,
        context=randn(T, N, S + A + 1, seed=6),
        latent_noise=randn(T, L, seed=7),
        next_action_noise=randn(T, B, A, seed=8),
        action_noise=randn(T, B, A, seed=9),
    )


def plain_network(
    parameters: Mapping[str, Tensor], name: str, x: Tensor, index: int | None = None
) -> Tensor:
    """A perceptron with ReLU at one point; ``index`` chooses a network of a stack."""
    number = 0
    while f"{name}_{number}_weight" in parameters:
        weight, bias = (parameters[f"{name}_{number}_{kind}"] for kind in ("weight", "bias"))
        if index is not None:
            weight, bias = weight[index], bias[index]
        x = (x.clamp(min=0) if number else x) @ weight + bias
        number += 1
    return x


def plain_action(actor: Mapping[str, Tensor], s: Tensor, z: Tensor, noise: Tensor) -> list[Tensor]:
    """An action and its log-probability: the Gaussian's density divided by |da/du| = 1 − a²."""
    outputs = plain_network(actor, "actor", torch.cat([s, z]))
    mean, log_std = outputs[:A], outputs[A:].clamp(-20, 2)
    u = mean + log_std.exp() * noise
    density = torch.exp(-0.5 * ((u - mean) / log_std.exp()) ** 2) / (
        log_std.exp() * math.sqrt(2 * math.pi)
    )
    return [u.tanh(), (density / (1 - u.tanh() ** 2)).log().sum()]


def plain_values(critics: Mapping[str, Tensor], s: Tensor, a: Tensor, z: Tensor) -> list[Tensor]:
    """Q_1 and Q_2 at one point."""
    x = torch.cat([s, a, z])
    return [plain_network(critics, "critic", x, index)[0] for index in (0, 1)]


def plain_posterior(
    name: str, parameters: Mapping[str, Tensor], context: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Mean and variance of z for one task, (L,) each."""

    def gaussian(outputs: Tensor) -> tuple[Tensor, Tensor]:
        return outputs[:L], (1 + outputs[L:].exp()).log().clamp(min=1e-7)

    if name == "product":
        factors = [gaussian(plain_network(parameters, "encoder", c)) for c in context]
        precision = sum(1 / variance for _, variance in factors)
        weighted = sum(mean / variance for mean, variance in factors)
        return weighted / precision, 1 / precision
    cell = {
        kind: parameters[f"encoder_gru_{kind}"]
        for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    }
    h = torch.zeros(4, dtype=torch.float64)
    for c in context:
        x = c
        if "encoder_0_weight" in parameters:
            x = plain_network(parameters, "encoder", c).clamp(min=0)
        from_input = (cell["weight_ih"] @ x + cell["bias_ih"]).chunk(3)
        from_memory = (cell["weight_hh"] @ h + cell["bias_hh"]).chunk(3)
        reset, keep = (torch.sigmoid(from_input[i] + from_memory[i]) for i in (0, 1))
        new = torch.tanh(from_input[2] + reset * from_memory[2])
        h = (1 - keep) * new + keep * h
    return gaussian(plain_network(parameters, "encoder_head", h))


def plain_target(learned: Learned, batch: Batch, z: Tensor, i: int, b: int) -> Tensor:
    """y of transition b of task i, with γ = 1/2 and rewards times 3."""
    steps = batch.transitions
    s = steps.next_observations[i, b]
    a, log_prob = plain_action(learned.actor, s, z, batch.next_action_noise[i, b])
    alpha = learned.temperature["log_alpha"][0].exp()
    future = min(plain_values(learned.targets, s, a, z)) - alpha * log_prob
    return 3 * steps.rewards[i, b] + (0.0 if steps.terminated[i, b] else 0.5) * future
