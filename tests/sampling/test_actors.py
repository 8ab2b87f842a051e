"""Actions drawn in NumPy are those that the policy's distribution draws in torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from maml_rl.policies.action_head import ActionHead
from maml_rl.policies.mlp import MLPPolicy
from maml_rl.policies.normalizer import ObservationNormalizer
from maml_rl.policies.parameters import flatten, make_stack, parameters, unflatten
from maml_rl.sampling.actors import PolicyActor

H, T, E, OBSERVATION_SIZE, ACTION_SIZE = 3, 4, 5, 7, 2


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def make_policy(
    dtype: torch.dtype = torch.float64, discrete: bool = False, **settings: object
) -> MLPPolicy:
    chosen = {"hidden_sizes": (6, 8), "nonlinearity": "tanh", "init_std": 0.7} | settings
    rng = np.random.default_rng(0)
    return MLPPolicy(
        OBSERVATION_SIZE, ActionHead(ACTION_SIZE, discrete), rng=rng, dtype=dtype, **chosen
    )  # type: ignore[arg-type]


def moved_stack(policy: MLPPolicy) -> dict[str, torch.Tensor]:
    """Other parameters for every task, biases and standard deviations among them."""
    stack = make_stack(parameters(policy), T)
    flat = flatten(stack, batch_dims=1)
    return unflatten(flat + 0.1 * draw(1, *flat.shape).to(flat), parameters(policy))


CASES = {
    "tanh": {},
    "relu": {"nonlinearity": "relu"},
    "elu": {"nonlinearity": "elu"},
    "silu": {"nonlinearity": "silu"},
    "one_layer": {"hidden_sizes": ()},
    "context": {"context_size": 3},
    "smallest_std": {"init_std": 1e-9},
    "discrete": {"discrete": True},
}


@pytest.mark.parametrize("is_normalized", [False, True])
@pytest.mark.parametrize("settings", CASES.values(), ids=CASES.keys())
def test_actions_are_samples_of_the_distribution(
    settings: dict[str, object], is_normalized: bool
) -> None:
    policy = make_policy(**settings)  # type: ignore[arg-type]
    stack, noise, observations = (
        moved_stack(policy),
        draw(2, T, E, H, ACTION_SIZE),
        draw(3, H, T * E, OBSERVATION_SIZE),
    )
    if policy.context_size:
        stack["context"] = draw(4, T, policy.context_size)
    normalizer = None
    if is_normalized:
        mean, squares = draw(5, OBSERVATION_SIZE), draw(6, OBSERVATION_SIZE).abs()
        normalizer = ObservationNormalizer(torch.tensor(2.0, dtype=torch.float64), mean, squares)
    before = observations.clone()
    actor = PolicyActor(policy, stack, noise, normalizer)
    actor.start(slice(0, E))
    for t in range(H):
        x = observations[t].view(T, E, -1)
        x = x if normalizer is None else normalizer.normalize(x)
        expected = (
            policy.distribution(stack, x).sample(noise[:, :, t]).detach().flatten(0, 1).numpy()
        )
        np.testing.assert_allclose(
            actor.act(observations[t].numpy(), t), expected, rtol=1e-12, atol=1e-12
        )
    assert torch.equal(observations, before)


def test_in_single_precision_too() -> None:
    policy = make_policy(torch.float32)
    stack, noise = moved_stack(policy), draw(2, T, E, H, ACTION_SIZE).float()
    observations = draw(3, T * E, OBSERVATION_SIZE).float()
    actor = PolicyActor(policy, stack, noise, None)
    actor.start(slice(0, E))
    actions = actor.act(observations.numpy(), 1)
    assert actions.dtype == np.float32
    expected = (
        policy.distribution(stack, observations.view(T, E, -1))
        .sample(noise[:, :, 1])
        .detach()
        .flatten(0, 1)
    )
    np.testing.assert_allclose(actions, expected.numpy(), rtol=1e-5, atol=1e-5)


def test_rounds_use_the_noise_of_their_episodes() -> None:
    policy = make_policy()
    stack, noise = moved_stack(policy), draw(2, T, E, H, ACTION_SIZE)
    observations = draw(3, T * 2, OBSERVATION_SIZE).numpy()
    actor = PolicyActor(policy, stack, noise, None)
    for part in (slice(0, 2), slice(2, 4)):
        actor.start(part)
        dist = policy.distribution(stack, torch.from_numpy(observations).view(T, 2, -1))
        expected = dist.sample(noise[:, part, 1]).detach().flatten(0, 1)
        np.testing.assert_allclose(actor.act(observations, 1), expected, rtol=1e-12, atol=1e-12)
