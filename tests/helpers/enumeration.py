"""Two states, two actions, three steps: small enough to enumerate every trajectory."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from helpers.synthetic import finite_difference_gradient, from_vector, to_vector
from torch import Tensor

from maml_rl.learners.maml.objective import MetaBatch, MetaObjective
from maml_rl.policies.action_head import ActionHead
from maml_rl.policies.mlp import MLPPolicy
from maml_rl.policies.parameters import make_stack, parameters
from maml_rl.sampling.episodes import Episodes
from maml_rl.settings.learners import InnerConfig

RNG = np.random.default_rng(4)


TRANSITION = torch.from_numpy(RNG.dirichlet([1.0, 1.0], (2, 2)))  # (state, action, next state)


REWARD = torch.from_numpy(RNG.standard_normal((2, 2)))  # (state, action)


START = torch.tensor([0.6, 0.4], dtype=torch.float64)


def make_tabular_policy() -> MLPPolicy:
    """A policy with one logit per state and action."""
    policy = MLPPolicy(
        2,
        ActionHead(2, discrete=True),
        hidden_sizes=(),
        nonlinearity="tanh",
        init_std=1.0,
        rng=np.random.default_rng(1),
        dtype=torch.float64,
    )
    return policy.requires_grad_(False)


def table(theta: dict[str, Tensor]) -> Tensor:
    """Action probabilities, (state, action)."""
    return torch.softmax(theta["weight_0"] + theta["bias_0"], dim=-1)


def values(theta: dict[str, Tensor], horizon: int) -> list[Tensor]:
    """State values at times 0, ..., horizon by backward induction."""
    backward = [torch.zeros(2, dtype=torch.float64)]
    for _ in range(horizon):
        backward.append((table(theta) * (REWARD + TRANSITION @ backward[-1])).sum(-1))
    return backward[::-1]


def expected_return(theta: dict[str, Tensor], horizon: int) -> Tensor:
    """Expected return from the start distribution, a scalar."""
    return START @ values(theta, horizon)[0]


def true_adaptation(theta: dict[str, Tensor], horizon: int, alpha: float) -> dict[str, Tensor]:
    """theta after one exact gradient step on the expected return."""
    leaves = {name: value.detach().clone().requires_grad_() for name, value in theta.items()}
    gradients = torch.autograd.grad(expected_return(leaves, horizon), list(leaves.values()))
    return {name: theta[name] + alpha * g for name, g in zip(theta, gradients, strict=True)}


def true_meta_gradient(theta: dict[str, Tensor], horizon: int, alpha: float) -> Tensor:
    """Finite-difference gradient of the expected return after adaptation."""

    def after_adaptation(vector: Tensor) -> float:
        adapted = true_adaptation(from_vector(vector, theta), horizon, alpha)
        return float(expected_return(adapted, horizon))

    return finite_difference_gradient(after_adaptation, to_vector(theta))


def every_trajectory(
    policy: MLPPolicy, theta: dict[str, Tensor], horizon: int, with_baseline: bool
) -> Episodes:
    """All trajectories as episodes of one task.

    Advantages are multiplied by the trajectory's probability, so that means are expectations.
    """
    # trajectories and their probabilities
    paths = list(itertools.product(range(2), repeat=2 * horizon))  # s_0, a_0, s_1, a_1, ...
    states = torch.tensor([path[::2] for path in paths])
    actions = torch.tensor([path[1::2] for path in paths])
    probability = START[states[:, 0]] * table(theta)[states, actions].prod(-1)
    for t in range(horizon - 1):
        probability = probability * TRANSITION[states[:, t], actions[:, t], states[:, t + 1]]
    assert float(probability.sum()) == pytest.approx(1)
    # returns to go, without the baseline
    rewards = REWARD[states, actions]
    to_go = rewards.flip(-1).cumsum(-1).flip(-1)
    if with_baseline:
        to_go = to_go - torch.stack(values(theta, horizon)[:horizon])[torch.arange(horizon), states]
    # episodes
    observations = torch.nn.functional.one_hot(states, 2).double()[None]
    weighted = to_go * probability[:, None] * rewards.numel()  # the loss divides by numel
    dist = policy.distribution(make_stack(theta, 1), observations.flatten(1, 2))
    return Episodes(
        observations=observations,
        actions=actions[None],
        rewards=rewards[None],
        mask=torch.ones_like(rewards)[None],
        distribution=tuple(dist),
        log_probs=dist.log_prob(actions[None].flatten(1)).reshape(rewards[None].shape),
        cause=torch.zeros(1, len(paths), dtype=torch.int8),
        success=torch.full((1, len(paths)), torch.nan),
        terminated=torch.zeros(1, len(paths)),
        last_observations=observations[:, :, -1],
        advantages=weighted[None],
        inner_advantages=weighted[None],
    )


def meta_gradient(
    surrogate: str,
    horizon: int,
    alpha: float,
    *,
    first_order: bool = False,
    with_baseline: bool = True,
) -> Tensor:
    """The package's meta-gradient over all trajectories."""
    policy = make_tabular_policy()
    theta = parameters(policy)
    inner = InnerConfig(step_size=alpha, surrogate=surrogate, first_order=first_order)
    support = every_trajectory(policy, theta, horizon, with_baseline)
    adapted = true_adaptation(theta, horizon, alpha)
    query = every_trajectory(policy, adapted, horizon, with_baseline)
    stacks = make_stack(theta, 1), make_stack(adapted, 1)
    return MetaObjective(
        policy, MetaBatch((support,), query, stacks), inner, 1
    ).surrogate_and_gradient(theta)[1]


def error(surrogate: str, horizon: int, alpha: float = 0.8, **options: bool) -> float:
    """Relative error of the meta-gradient, with inner step size ``alpha``."""
    truth = true_meta_gradient(parameters(make_tabular_policy()), horizon, alpha)
    gradient = meta_gradient(surrogate, horizon, alpha, **options)
    return float((gradient - truth).norm() / truth.norm())
