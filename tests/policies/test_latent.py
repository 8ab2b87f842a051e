"""Noise, recorded observations and distributions of a policy with a latent variable."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.synthetic import make_policy
from torch import Tensor

from maml_rl.policies.action_head import ActionHead
from maml_rl.policies.distributions import WithLatent
from maml_rl.policies.latent import (
    LATENT_LOG_STD,
    LATENT_MEAN,
    action_noise,
    draw_noise,
    drawn_latents,
    with_latents,
    without_latents,
)
from maml_rl.policies.mlp import MLPPolicy
from maml_rl.policies.parameters import make_stack, parameters
from maml_rl.sampling.actors import PolicyActor

T, E, H, L = 3, 4, 5, 2
HEADS = {
    "box": ActionHead(3),
    "discrete": ActionHead(3, discrete=True),
    "multi": ActionHead(7, discrete=True, num_choices=(3, 4)),
}
every_head = pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)


def draw(seed: int, *shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def stack_of(policy: MLPPolicy) -> dict[str, Tensor]:
    """Other parameters for every task."""
    stack = make_stack(parameters(policy), T)
    return {
        name: value + 0.3 * draw(i, *value.shape) for i, (name, value) in enumerate(stack.items())
    }


@every_head
def test_noise_of_actions_comes_first_and_is_as_without_a_latent_variable(head: ActionHead) -> None:
    plain = head.draw_noise(np.random.default_rng(0), (E, H))
    assert np.array_equal(draw_noise(head, 0, np.random.default_rng(0), (E, H)), plain)
    both = torch.from_numpy(draw_noise(head, L, np.random.default_rng(0), (E, H)))
    assert both.dtype == torch.float32
    assert both.shape == (E, H, np.prod(head.noise_shape) + L)
    assert np.array_equal(action_noise(both, head, L), plain)


def test_z_has_the_mean_and_standard_deviation_of_the_parameters() -> None:
    stack = {
        LATENT_MEAN: torch.tensor([[1.5, -2.0], [0.0, 1.0]]),
        LATENT_LOG_STD: torch.tensor([[0.5, 2.0], [1.0, 0.1]]).log(),
    }
    rng = np.random.default_rng(0)
    noise = torch.from_numpy(draw_noise(ActionHead(1), L, rng, (2, 50_000, 1)))
    latents = drawn_latents(stack, noise)
    assert latents.shape == (2, 50_000, L)
    torch.testing.assert_close(latents.mean(1), stack[LATENT_MEAN], rtol=0, atol=0.03)
    torch.testing.assert_close(latents.std(1), stack[LATENT_LOG_STD].exp(), rtol=0.02, atol=0)
    assert drawn_latents(stack, None).equal(stack[LATENT_MEAN][:, None])


def test_recorded_observations_end_with_z_and_the_mark_of_first_steps() -> None:
    observations, latents = draw(0, T, E, H, 3), draw(1, T, E, L)
    recorded = with_latents(observations, latents)
    assert recorded.shape == (T, E, H, 3 + L + 1)
    assert without_latents(recorded, L).equal(observations)
    assert recorded[..., 3:5].equal(latents[:, :, None].expand(T, E, H, L))
    assert recorded[..., 5].sum(-1).equal(torch.ones(T, E, dtype=torch.float64))
    assert without_latents(observations, 0) is observations


@pytest.mark.parametrize("hidden_sizes", [(6, 5), ()])
def test_z_is_an_input_of_the_first_layer(hidden_sizes: tuple[int, ...]) -> None:
    policy = make_policy(latent_size=L, hidden_sizes=hidden_sizes)
    stack, states, latents = stack_of(policy), draw(1, T, E, 3), draw(2, T, E, L)
    x = torch.cat([states, latents], dim=-1)
    weight = torch.cat([stack["weight_0"], stack["latent_weight"]], dim=1)
    x = x @ weight + stack["bias_0"][:, None]
    for i in range(1, len(hidden_sizes) + 1):
        x = torch.tanh(x) @ stack[f"weight_{i}"] + stack[f"bias_{i}"][:, None]
    recorded = torch.cat([states, latents, torch.ones(T, E, 1)], dim=-1)
    dist = policy.distribution(stack, recorded)
    assert isinstance(dist, WithLatent)
    torch.testing.assert_close(dist.mode(), x)


@pytest.mark.parametrize("discrete", [False, True])
def test_z_is_part_of_the_first_action(discrete: bool) -> None:
    policy, other_policy = (make_policy(discrete, latent_size=L, seed=seed) for seed in (0, 1))
    recorded = with_latents(draw(1, T, E, H, 3), draw(2, T, E, L))
    dist, other = (
        one.distribution(stack_of(one), recorded.flatten(1, 2)) for one in (policy, other_policy)
    )
    noise = policy.action_head.draw_noise(np.random.default_rng(0), (T, E * H))
    actions = dist.sample(torch.from_numpy(noise))
    normal, normal_of_other = (
        torch.distributions.Normal(d[0][:, 0], d[1][:, 0].exp()) for d in (dist, other)
    )
    # Log-probability.
    surplus = dist.log_prob(actions) - dist.actions.log_prob(actions)
    surplus = surplus.unflatten(1, (E, H))
    z = recorded[:, :, 0, 3:5]
    expected = normal.log_prob(z.movedim(1, 0)).sum(-1).T
    torch.testing.assert_close(surplus[:, :, 0], expected)
    torch.testing.assert_close(surplus[:, :, 1:], torch.zeros(T, E, H - 1, dtype=torch.float64))
    # KL divergence.
    surplus = (dist.kl(other) - dist.actions.kl(other.actions)).unflatten(1, (E, H))
    expected = torch.distributions.kl_divergence(normal, normal_of_other).sum(-1)
    torch.testing.assert_close(surplus[:, :, 0], expected[:, None].expand(T, E))
    torch.testing.assert_close(surplus[:, :, 1:], torch.zeros(T, E, H - 1, dtype=torch.float64))
    # A distribution is restored from its items, as from recorded episodes.
    again = type(dist)(*dist)
    assert again.log_prob(actions).equal(dist.log_prob(actions))


def test_the_head_includes_the_distribution_of_z() -> None:
    assert make_policy(latent_size=L).head_names == [
        "weight_1",
        "bias_1",
        "log_std",
        LATENT_MEAN,
        LATENT_LOG_STD,
    ]


CASES = {
    "tanh": {},
    "relu": {"nonlinearity": "relu"},
    "elu": {"nonlinearity": "elu"},
    "one_layer": {"hidden_sizes": ()},
    "discrete": {"discrete": True},
}


@pytest.mark.parametrize("settings", CASES.values(), ids=CASES)
def test_an_actor_samples_from_the_distribution_that_it_records(settings: dict) -> None:
    policy = make_policy(latent_size=L, **settings)
    stack, observations = stack_of(policy), draw(1, T, E, H, 3)
    noise = torch.from_numpy(policy.draw_noise(np.random.default_rng(0), (T, E, H))).double()
    actor = PolicyActor(policy, stack, noise, None)
    recorded = actor.inputs(observations)
    of_actions = action_noise(noise, policy.action_head, L)
    for part in (slice(0, 2), slice(2, 4)):  # two rounds
        actor.start(part)
        for t in (0, 1, H - 1):
            outputs = actor.act(observations[:, part, t].flatten(0, 1).numpy(), t)
            dist = policy.distribution(stack, recorded[:, part, t])
            expected = dist.sample(of_actions[:, part, t]).flatten(0, 1)
            np.testing.assert_allclose(outputs, expected, rtol=1e-12, atol=1e-12)
        assert actor.memory is not None
        (memory,) = actor.memory
        assert np.array_equal(memory, recorded[:, part, 0, 3:5].flatten(0, 1))


def test_an_actor_without_noise_plays_the_mean_of_z() -> None:
    policy = make_policy(latent_size=L)
    stack, observations = stack_of(policy), draw(1, T, E, H, 3)
    actor = PolicyActor(policy, stack, None, None)
    actor.start(slice(2, E))
    outputs = actor.act(observations[:, 2:, 0].flatten(0, 1).numpy(), 0)
    recorded = with_latents(observations, stack[LATENT_MEAN][:, None])
    assert actor.inputs(observations).equal(recorded)
    expected = policy.distribution(stack, recorded[:, 2:, 0]).mode().flatten(0, 1)
    np.testing.assert_allclose(outputs, expected, rtol=1e-12, atol=1e-12)
