"""Float64 policies and episodes, and an independent reference implementation of MAML.

The functions ``plain_*`` compute one task at a time, over its unmasked steps only. They share no
code with the package.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch import distributions as td

from maml_rl.learners.maml.losses import surrogate_loss
from maml_rl.learners.maml.objective import MetaBatch
from maml_rl.policies.action_head import ActionHead
from maml_rl.policies.latent import action_noise, drawn_latents, with_latents
from maml_rl.policies.mlp import MLPPolicy
from maml_rl.policies.parameters import make_stack, parameters
from maml_rl.policies.policy import Policy
from maml_rl.sampling.episodes import Episodes
from maml_rl.sampling.failures import CODES, REWARD
from maml_rl.settings.learners import InnerConfig, Surrogate

OBSERVATION_SIZE = 3
ACTION_SIZE = 2
NUM_TASKS = 3

Theta = Mapping[str, Tensor]


def make_policy(
    discrete: bool = False, *, dtype: torch.dtype = torch.float64, seed: int = 0, **options
) -> MLPPolicy:
    """A small policy whose biases and log_std are not at their initial values."""
    rng = np.random.default_rng(seed)
    settings = {"hidden_sizes": (4,), "nonlinearity": "tanh", "init_std": 0.7} | options
    policy = MLPPolicy(
        OBSERVATION_SIZE,
        ActionHead(3 if discrete else ACTION_SIZE, discrete),
        rng=rng,
        dtype=dtype,
        **settings,
    )
    with torch.no_grad():
        for name, value in policy.named_parameters():
            if not name.startswith("weight"):
                value += torch.from_numpy(0.3 * rng.standard_normal(value.shape)).to(dtype)
    return policy


def make_mask(
    num_tasks: int, num_episodes: int, horizon: int, rng: np.random.Generator
) -> np.ndarray:
    """Mask (T, E, H): episode 1 of each task has full length, the others end early."""
    lengths = rng.integers(1, horizon, (num_tasks, num_episodes))
    lengths[:, 1:2] = horizon
    return (np.arange(horizon) < lengths[..., None]).astype(float)


def make_episodes(
    policy: Policy,
    stack: Theta,
    *,
    seed: int,
    num_episodes: int = 3,
    horizon: int = 5,
    discard: bool = True,
) -> Episodes:
    """Episodes of random states, sampled by ``stack``, with random rewards and advantages.

    Episodes end early; masked steps contain garbage. With ``discard`` episode 0 of task 0 is
    discarded.
    """
    rng = np.random.default_rng(seed)
    like = next(iter(stack.values()))
    num_tasks = like.shape[0]
    sizes = (num_tasks, num_episodes, horizon)

    def draw(*shape: int) -> Tensor:
        return torch.from_numpy(rng.standard_normal(shape)).to(like)

    # random observations, mask and one discarded episode
    observations = draw(*sizes, *policy.observation_shape)
    mask = torch.from_numpy(make_mask(*sizes, rng)).to(like)
    cause = torch.zeros(sizes[:2], dtype=torch.int8)
    cause[0, 0] = CODES[REWARD] if discard else 0
    mask = mask * (cause == 0)[..., None]
    # actions of the sampling policy
    with torch.no_grad():
        noise = torch.from_numpy(policy.draw_noise(rng, sizes)).to(like)
        if policy.latent_size > 0:
            observations = with_latents(observations, drawn_latents(stack, noise))
            noise = action_noise(noise, policy.action_head, policy.latent_size)
        dist = policy.distribution(stack, observations.flatten(1, 2))
        actions = dist.sample(noise.flatten(1, 2))
        log_probs = dist.log_prob(actions)
    episodes = Episodes(
        observations=observations,
        actions=actions.unflatten(1, sizes[1:]),
        rewards=draw(*sizes),
        mask=mask,
        distribution=tuple(dist),
        log_probs=log_probs.unflatten(1, sizes[1:]),
        cause=cause,
        success=torch.from_numpy(rng.integers(0, 2, sizes[:2])).to(like),
        terminated=torch.zeros(sizes[:2]).to(like),
        last_observations=torch.zeros(*sizes[:2], *policy.observation_shape).to(like),
        advantages=draw(*sizes),
        inner_advantages=draw(*sizes),
    )
    return with_garbage(episodes, 3.0)


def policy_gradient_loss(
    policy: Policy, surrogate: Surrogate
) -> Callable[[Theta, Episodes], Tensor]:
    """Return the function (stack, episodes of T tasks) -> :func:`surrogate_loss`, (T,)."""

    def loss(stack: Theta, episodes: Episodes) -> Tensor:
        dist = policy.distribution(stack, episodes.flat(episodes.observations))
        return surrogate_loss(dist, episodes, surrogate, episodes.inner_advantages)

    return loss


def with_garbage(episodes: Episodes, size: float) -> Episodes:
    """Episodes with ``size`` in masked steps (0 for discrete actions), otherwise the same."""
    masked = episodes.mask == 0

    def spoil(values: Tensor) -> Tensor:
        if not values.is_floating_point():
            return torch.where(masked, 0, values)
        where = masked.reshape(*masked.shape, *[1] * (values.dim() - 3))
        return torch.where(where, torch.full_like(values, size), values)

    names = ("observations", "actions", "rewards", "log_probs", "advantages", "inner_advantages")
    return dataclasses.replace(episodes, **{name: spoil(getattr(episodes, name)) for name in names})


def make_meta_batch(
    policy: Policy,
    theta: Theta,
    inner: InnerConfig,
    *,
    num_tasks: int = NUM_TASKS,
    seed: int = 0,
) -> MetaBatch:
    """A support set sampled before each inner step, and a query set sampled after the last."""
    stacks = [make_stack(theta, num_tasks)]
    episodes: list[Episodes] = []
    for k in range(inner.num_steps + 1):
        episodes.append(make_episodes(policy, stacks[-1], seed=100 * seed + k))
        if k < inner.num_steps:
            starts = [
                {name: value[i] for name, value in stacks[-1].items()} for i in range(num_tasks)
            ]
            tasks = [plain_adapt(start, episodes[-1:], i, inner) for i, start in enumerate(starts)]
            stacks.append(
                {name: torch.stack([task[name] for task in tasks]).detach() for name in theta}
            )
    return MetaBatch(tuple(episodes[:-1]), episodes[-1], tuple(stacks))


def plain_distribution(theta: Theta, observations: Tensor) -> td.Distribution:
    """Action distribution of the tanh MLP at observations (N, observation_size)."""
    x = observations
    num_layers = sum(name.startswith("weight") for name in theta)
    for i in range(num_layers):
        x = x @ theta[f"weight_{i}"] + theta[f"bias_{i}"]
        x = torch.tanh(x) if i < num_layers - 1 else x
    if "log_std" in theta:
        return td.Independent(td.Normal(x, theta["log_std"].exp().expand_as(x)), 1)
    return td.Categorical(logits=x)


def real_steps(episodes: Episodes, task: int) -> Callable[[Tensor], Tensor]:
    """Return a function that selects one task's unmasked steps: (T, E, H, ...) to (N, ...)."""
    real = episodes.mask[task] > 0
    return lambda values: values[task][real]


def plain_inner_loss(theta: Theta, support: Episodes, task: int, surrogate: str) -> Tensor:
    """The inner loss of one task, a scalar."""
    pick = real_steps(support, task)
    log_prob = plain_distribution(theta, pick(support.observations)).log_prob(pick(support.actions))
    factor = log_prob if surrogate == "log_prob" else (log_prob - pick(support.log_probs)).exp()
    return -(factor * pick(support.inner_advantages)).mean()


def plain_adapt(
    theta: Theta, supports: Sequence[Episodes], task: int, inner: InnerConfig
) -> dict[str, Tensor]:
    """theta adapted to one task; differentiable with respect to theta if it requires gradients."""
    theta_prime = dict(theta)
    if not any(value.requires_grad for value in theta.values()):
        theta_prime = {name: value.clone().requires_grad_() for name, value in theta.items()}
    for support in supports:
        loss = plain_inner_loss(theta_prime, support, task, inner.surrogate)
        gradients = torch.autograd.grad(loss, list(theta_prime.values()), create_graph=True)
        if inner.first_order:
            gradients = tuple(gradient.detach() for gradient in gradients)
        theta_prime = {
            name: theta_prime[name] - inner.step_size * gradient
            for name, gradient in zip(theta_prime, gradients, strict=True)
        }
    return theta_prime


def plain_task_surrogate(theta_prime: Theta, query: Episodes, task: int) -> Tensor:
    """Mean of ratio times advantage over unmasked steps."""
    pick = real_steps(query, task)
    log_prob = plain_distribution(theta_prime, pick(query.observations)).log_prob(
        pick(query.actions)
    )
    return ((log_prob - pick(query.log_probs)).exp() * pick(query.advantages)).mean()


def plain_task_kl(theta_prime: Theta, query: Episodes, task: int) -> Tensor:
    """Mean of KL(sampling policy ‖ theta_prime) over unmasked steps."""
    real = (query.mask[task] > 0).flatten()
    old_parameters = [value[task].expand(len(real), -1)[real] for value in query.distribution]
    if len(old_parameters) == 2:
        old: td.Distribution = td.Independent(
            td.Normal(old_parameters[0], old_parameters[1].exp()), 1
        )
    else:
        old = td.Categorical(logits=old_parameters[0])
    new = plain_distribution(theta_prime, real_steps(query, task)(query.observations))
    return td.kl_divergence(old, new).mean()


def plain_meta_objective(
    theta: Theta,
    batch: MetaBatch,
    inner: InnerConfig,
    of_task: Callable[[Theta, Episodes, int], Tensor],
) -> Tensor:
    """Mean over tasks of ``of_task`` for the adapted parameters on the query set."""
    num_tasks = batch.query.mask.shape[0]
    terms = [
        of_task(plain_adapt(theta, batch.supports, i, inner), batch.query, i)
        for i in range(num_tasks)
    ]
    return torch.stack(terms).mean()


def to_vector(theta: Theta) -> Tensor:
    return torch.cat([value.reshape(-1) for value in theta.values()])


def from_vector(vector: Tensor, like: Theta) -> dict[str, Tensor]:
    out = {}
    start = 0
    for name, value in like.items():
        out[name] = vector[start : start + value.numel()].reshape(value.shape)
        start += value.numel()
    return out


def finite_difference_gradient(
    function: Callable[[Tensor], float], at: Tensor, eps: float = 1e-5
) -> Tensor:
    """Gradient by central differences."""
    steps = eps * torch.eye(len(at), dtype=at.dtype)
    return torch.tensor(
        [(function(at + h) - function(at - h)) / (2 * eps) for h in steps], dtype=at.dtype
    )


def make_theta(policy: torch.nn.Module) -> dict[str, Tensor]:
    return parameters(policy)
