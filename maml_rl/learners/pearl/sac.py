"""Soft actor-critic given z (Rakelly et al. 2019, algorithm 1).

Soft actor-critic is by Haarnoja et al. (2018a, arXiv:1801.01290; 2018b, arXiv:1812.05905).

Deviation: two critics with target networks replace the paper's value network, and the temperature
is learned (2018b), because this is the usual form of soft actor-critic now. The squares of the
policy's means and log standard deviations are not penalised, as they are in the code of Rakelly et
al.

Losses are minimised, and are those of each of T tasks. An update takes one step on the encoder and
the critics, then one on the actor and the temperature.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from maml_rl.learners.adam import ascend
from maml_rl.learners.adam import initial_state as initial_adam
from maml_rl.learners.pearl.context_encoder import ContextEncoder
from maml_rl.learners.pearl.networks import Networks
from maml_rl.learners.pearl.replay import Transitions
from maml_rl.policies.parameters import Params, requiring_grad
from maml_rl.settings.learners.pearl import PEARLConfig
from maml_rl.system.distributed import Ranks
from maml_rl.system.thread_pool import block_ends, map_blocks
from maml_rl.system.torch_runtime import torch_threads


class Learned(NamedTuple):
    """Everything that updates change. No mapping is modified: an update returns new ones."""

    encoder: Params
    actor: Params
    critics: Params
    """Two, each tensor (2, ...)."""
    targets: Params
    """Their slow copies."""
    temperature: Params
    """``log_alpha`` (1,)."""
    critic_optimizer: dict[str, Tensor]
    """Adam's state for encoder and critics."""
    actor_optimizer: dict[str, Tensor]
    """Adam's state for actor and temperature."""

    @classmethod
    def initial(
        cls, encoder: Params, actor: Params, critics: Params, temperature: float
    ) -> Learned:
        """Return the state before the first update.

        Args:
            encoder: parameters.
            actor: parameters.
            critics: parameters; their targets begin as copies.
            temperature: alpha.
        """
        log_alpha = {"log_alpha": next(iter(actor.values())).new_tensor([temperature]).log()}
        return cls(
            encoder=encoder,
            actor=actor,
            critics=critics,
            targets={name: value.clone() for name, value in critics.items()},
            temperature=log_alpha,
            critic_optimizer=initial_adam({**encoder, **critics}),
            actor_optimizer=initial_adam({**actor, **log_alpha}),
        )


class Batch(NamedTuple):
    """What an update learns from T tasks; observations are normalised."""

    transitions: Transitions
    """B of each task."""
    context: Tensor
    """(T, N, transition_size), from which z is inferred."""
    latent_noise: Tensor
    """Standard normal, (T, latent_size)."""
    next_action_noise: Tensor
    """Standard normal, (T, B, action_size)."""
    action_noise: Tensor
    """Standard normal, (T, B, action_size)."""

    def chosen(self, tasks: slice) -> Batch:
        """That of some tasks."""
        transitions, *others = self
        return Batch(transitions.chosen(tasks), *(value[tasks] for value in others))


def critic_targets(
    networks: Networks,
    learned: Learned,
    batch: Transitions,
    latents: Tensor,
    noise: Tensor,
    config: PEARLConfig,
) -> Tensor:
    """Return y = κ r + γ (1 − d) [min_j Q̄_j(s', a', z) − α log π(a' | s', z)], (T, B).

    a' ~ π(· | s', z), Q̄_j is a target critic, and d is 1 if s' is terminal. At a time limit d is 0:
    the value of the last state counts, because the critics do not observe the time.

    Args:
        networks: the architecture.
        learned: actor, targets and temperature; no gradient flows to them, nor to z.
        batch: B transitions of each task.
        latents: z of each task, (T, latent_size).
        noise: for a', (T, B, action_size).
        config: settings: κ is ``reward_scale``, γ is ``discount``.
    """
    with torch.no_grad():
        z = _of_each_step(latents, batch.rewards)
        actions, log_probs = networks.actions(learned.actor, batch.next_observations, z).sample(
            noise
        )
        values = networks.values(learned.targets, batch.next_observations, actions, z).amin(0)
        alpha = learned.temperature["log_alpha"].exp()
        future = (1 - batch.terminated) * (values - alpha * log_probs)
        return config.reward_scale * batch.rewards + config.discount * future


def critic_loss(
    networks: Networks, critics: Params, batch: Transitions, latents: Tensor, targets: Tensor
) -> Tensor:
    """Return Σ_j mean_b (Q_j(s, a, z) − y)², (T,). Its gradient flows to the critics and to z.

    Args:
        networks: the architecture.
        critics: parameters.
        batch: B transitions of each task.
        latents: z of each task, (T, latent_size).
        targets: y, (T, B).
    """
    z = _of_each_step(latents, batch.rewards)
    values = networks.values(critics, batch.observations, batch.actions, z)
    return (values - targets).square().mean(-1).sum(0)


def actor_loss(
    networks: Networks,
    actor: Params,
    critics: Params,
    log_alpha: Tensor,
    observations: Tensor,
    latents: Tensor,
    noise: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return mean_b [α log π(a | s, z) − min_j Q_j(s, a, z)], (T,), and mean_b log π(a | s, z).

    a ~ π(· | s, z). The gradient flows to the actor only, through a.

    Args:
        networks: the architecture.
        actor: parameters.
        critics: parameters.
        log_alpha: log α, (1,).
        observations: s, (T, B, observation_size).
        latents: z of each task, (T, latent_size).
        noise: for a, (T, B, action_size).
    """
    # Detached: encoder, critics and temperature have losses of their own.
    z = _of_each_step(latents.detach(), noise[..., 0])
    fixed = {name: value.detach() for name, value in critics.items()}
    actions, log_probs = networks.actions(actor, observations, z).sample(noise)
    values = networks.values(fixed, observations, actions, z).amin(0)
    loss = log_alpha.detach().exp() * log_probs - values
    return loss.mean(-1), log_probs.mean(-1)


def temperature_loss(log_alpha: Tensor, log_probs: Tensor, target_entropy: float) -> Tensor:
    """Return −log α (log π + H̄), with the shape of ``log_probs``; it grows α if the entropy is low.

    Deviation: the factor is −log α where Haarnoja et al. (2018b, equation 18) have −α, as in their
    code: the gradient with respect to log α then does not vanish with α.

    Args:
        log_alpha: log α, (1,).
        log_probs: mean log-probability of actions of each task, (T,).
        target_entropy: H̄.
    """
    # Detached: the actor has a loss of its own.
    return -log_alpha * (log_probs.detach() + target_entropy)


class CriticTerms(NamedTuple):
    """What metrics report of the first step: means over tasks, () each."""

    critic_loss: Tensor
    kl: Tensor
    """KL divergence of the posterior of z from the prior."""
    target: Tensor
    """y."""


class ActorTerms(NamedTuple):
    """What metrics report of the second step: means over tasks, () each."""

    actor_loss: Tensor
    entropy: Tensor


class _Loss(NamedTuple):
    """The loss of some tasks."""

    loss: Tensor
    """() to be minimised."""
    terms: CriticTerms | ActorTerms
    """The share of these tasks."""
    latents: Tensor | None = None
    """z of each task, (T, latent_size), detached; ``None`` if it is an argument."""


def sac_update(
    networks: Networks,
    encoder: ContextEncoder,
    learned: Learned,
    batch: Batch,
    config: PEARLConfig,
    ranks: Ranks,
    block_size: int,
    num_threads: int,
) -> tuple[Learned, dict[str, float]]:
    """Take one step on encoder and critics, one on actor and temperature, and move the targets.

    Args:
        networks: the architecture of actor and critics.
        encoder: of contexts.
        learned: everything that is learned.
        batch: of T tasks, the same in all processes, which share the blocks of tasks.
        config: settings.
        ranks: the processes.
        block_size: tasks whose gradient is computed at once.
        num_threads: that compute blocks.

    Returns:
        What is learned after the update, and metrics.

    Raises:
        FloatingPointError: if a gradient is not finite.
    """
    num_tasks = len(batch.latent_noise)
    blocks = block_ends(num_tasks, block_size)[ranks.rank :: ranks.number]
    parts: list[tuple[Any, ...]] = [(batch.chosen(slice(*ends)),) for ends in blocks]

    # Encoder and critics.
    theta = {**learned.encoder, **learned.critics}
    of_part = functools.partial(
        _critic_part,
        networks=networks,
        encoder=encoder,
        learned=learned,
        config=config,
        num_tasks=num_tasks,
    )
    gradient, of_critics, latents = _gradient(
        of_part, CriticTerms, theta, parts, ranks, num_threads
    )
    theta, critic_optimizer = ascend(theta, -gradient, learned.critic_optimizer, config.step_size)
    new_encoder = {name: theta[name] for name in learned.encoder}
    critics = {name: theta[name] for name in learned.critics}

    # Actor and temperature, with the new critics and the same z.
    theta = {**learned.actor, **learned.temperature}
    of_part = functools.partial(
        _actor_part, networks=networks, critics=critics, config=config, num_tasks=num_tasks
    )
    parts = [(part, z) for (part,), z in zip(parts, latents, strict=True)]
    gradient, of_actor, _ = _gradient(of_part, ActorTerms, theta, parts, ranks, num_threads)
    theta, actor_optimizer = ascend(theta, -gradient, learned.actor_optimizer, config.step_size)
    new = Learned(
        encoder=new_encoder,
        actor={name: theta[name] for name in learned.actor},
        critics=critics,
        targets=approached(learned.targets, critics, config.polyak),
        temperature={"log_alpha": theta["log_alpha"]},
        critic_optimizer=critic_optimizer,
        actor_optimizer=actor_optimizer,
    )
    terms = of_critics._asdict() | of_actor._asdict()
    return new, {f"update/{name}": float(value) for name, value in terms.items()}


def _critic_part(
    theta: Params,
    part: Batch,
    *,
    networks: Networks,
    encoder: ContextEncoder,
    learned: Learned,
    config: PEARLConfig,
    num_tasks: int,
) -> _Loss:
    """Return the loss of encoder and critics ``theta``, of which ``part`` is a part of the tasks.

    It is the mean of the critics' loss over all ``num_tasks``, plus ``kl_weight`` times the sum of
    the KL divergences, as in the code of Rakelly et al.
    """
    belief = encoder.empty(len(part.context), part.context)
    mask = torch.ones_like(part.context[..., 0])
    posterior = encoder.posterior(theta, encoder.add(theta, belief, part.context, mask))
    z = posterior.sample(part.latent_noise)
    noise = part.next_action_noise
    targets = critic_targets(networks, learned, part.transitions, z, noise, config)
    error = critic_loss(networks, theta, part.transitions, z, targets).sum() / num_tasks
    kl = posterior.kl().sum()
    terms = CriticTerms(
        critic_loss=error, kl=kl / num_tasks, target=targets.mean(-1).sum() / num_tasks
    )
    return _Loss(error + config.kl_weight * kl, terms, z.detach())


def _actor_part(
    theta: Params,
    part: Batch,
    z: Tensor,
    *,
    networks: Networks,
    critics: Params,
    config: PEARLConfig,
    num_tasks: int,
) -> _Loss:
    """Return the loss of actor and temperature ``theta``, a mean over all ``num_tasks``."""
    entropy = config.target_entropy
    target_entropy = -float(networks.action_size) if entropy is None else entropy
    log_alpha, noise = theta["log_alpha"], part.action_noise
    observations = part.transitions.observations
    loss, log_probs = actor_loss(networks, theta, critics, log_alpha, observations, z, noise)
    of_alpha = temperature_loss(log_alpha, log_probs, target_entropy)
    learns = float(config.automatic_temperature)
    terms = ActorTerms(actor_loss=loss.sum() / num_tasks, entropy=-log_probs.sum() / num_tasks)
    return _Loss((loss + learns * of_alpha).sum() / num_tasks, terms)


def approached(targets: Params, critics: Params, share: float) -> dict[str, Tensor]:
    """Return (1 − τ) target + τ critic, with τ the share."""
    return {name: value.lerp(critics[name], share) for name, value in targets.items()}


def _gradient(
    loss_of: Callable[..., _Loss],
    kind: type[CriticTerms] | type[ActorTerms],
    theta: Params,
    parts: Sequence[tuple[Any, ...]],
    ranks: Ranks,
    num_threads: int,
) -> tuple[Tensor, CriticTerms | ActorTerms, list[Tensor | None]]:
    """Return gradient and terms of a loss, added over the parts of all processes, and each z.

    Args:
        loss_of: ``(theta, *part)`` to the loss of a part of the tasks.
        kind: of the terms.
        theta: parameters.
        parts: of this process; there may be none.
        ranks: the processes.
        num_threads: that compute parts.

    Returns:
        The gradient (P,) and the terms, float64; z of each part of this process.
    """

    def of_part(*part: Any) -> tuple[Tensor, Tensor | None]:
        with torch.enable_grad():
            leaves = requiring_grad(theta)
            loss, terms, latents = loss_of(leaves, *part)
            gradients = torch.autograd.grad(loss, list(leaves.values()))
        sums = torch.stack(terms).detach()
        return torch.cat([*(gradient.flatten() for gradient in gradients), sums]), latents

    with torch_threads(num_threads):
        results = map_blocks(of_part, parts)
    num_terms = len(kind._fields)
    size = sum(value.numel() for value in theta.values()) + num_terms
    like = next(iter(theta.values()))
    rows = torch.stack([row for row, _ in results]) if results else like.new_zeros(0, size)
    total = ranks.sum(rows)
    terms = kind(*total[-num_terms:])
    return total[:-num_terms], terms, [latents for _, latents in results]


def _of_each_step(latents: Tensor, steps: Tensor) -> Tensor:
    """Repeat z of each task (T, L) for each of its steps (T, B): (T, B, L)."""
    return latents[:, None].expand(*steps.shape, -1)
