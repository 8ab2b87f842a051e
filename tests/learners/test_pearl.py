"""PEARL: the posterior of z, the losses of SAC given z and their gradients, and an update."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from helpers.pearl import (
    ENCODERS,
    NETWORKS,
    A,
    B,
    L,
    N,
    T,
    make_batch,
    make_learned,
    plain_action,
    plain_posterior,
    plain_target,
    plain_values,
    randn,
)
from torch import Tensor
from torch import distributions as td

from maml_rl.learners.adam import ascend
from maml_rl.learners.pearl.context_encoder import Posterior, ProductEncoder
from maml_rl.learners.pearl.networks import SquashedGaussian
from maml_rl.learners.pearl.sac import (
    Learned,
    actor_loss,
    approached,
    critic_loss,
    critic_targets,
    sac_update,
    temperature_loss,
)
from maml_rl.settings.learners import PEARLConfig
from maml_rl.system.distributed import Ranks

CONFIG = PEARLConfig(
    discount=0.5, reward_scale=3.0, kl_weight=0.7, polyak=0.25, target_entropy=-1.5
)
BATCH = make_batch()
STEPS = BATCH.transitions
LATENTS = randn(T, L, seed=20)

encoders = pytest.mark.parametrize("name", ENCODERS)


def ones(*shape: int) -> Tensor:
    return torch.ones(shape, dtype=torch.float64)


def leaves(parameters: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().requires_grad_() for name, value in parameters.items()}


def differences(function: Any, value: Tensor) -> Tensor:
    """The gradient of a scalar function by central differences."""
    gradient = torch.zeros_like(value)
    for i in range(value.numel()):
        step = torch.zeros(value.numel(), dtype=value.dtype)
        step[i] = 1e-6
        step = step.reshape(value.shape)
        gradient.view(-1)[i] = (function(value + step) - function(value - step)) / 2e-6
    return gradient


# --- The posterior of z ---


def test_a_product_of_two_gaussians_by_hand() -> None:
    """N(1, 1) and N(4, 1/2): precision 1 + 2, mean (1 · 1 + 2 · 4) / 3."""
    belief = {"precision": torch.tensor([[3.0]]), "weighted_mean": torch.tensor([[9.0]])}
    encoder = ProductEncoder(transition_size=1, latent_size=1, hidden_sizes=())
    posterior = encoder.posterior({}, belief)
    assert posterior.mean.tolist() == [[3.0]]
    assert float(posterior.variance) == pytest.approx(1 / 3)


@encoders
def test_the_posterior_of_each_task(name: str) -> None:
    encoder = ENCODERS[name]
    theta = make_learned(encoder).encoder
    belief = encoder.add(theta, encoder.empty(T, BATCH.context), BATCH.context, ones(T, N))
    posterior = encoder.posterior(theta, belief)
    for i in range(T):
        mean, variance = plain_posterior(name, theta, list(BATCH.context[i]))
        torch.testing.assert_close(posterior.mean[i], mean)
        torch.testing.assert_close(posterior.variance[i], variance)


@encoders
def test_without_transitions_the_posterior_is_the_prior(name: str) -> None:
    encoder = ENCODERS[name]
    theta = make_learned(encoder).encoder
    empty = encoder.empty(T, BATCH.context)
    after_nothing = encoder.add(theta, empty, BATCH.context, 0 * ones(T, N))
    for belief in (empty, after_nothing):
        mean, variance = encoder.posterior(theta, belief)
        assert mean.equal(0 * ones(T, L))
        assert variance.equal(ones(T, L))


@encoders
def test_a_belief_that_grows_is_that_of_all_transitions_at_once(name: str) -> None:
    """Also where tasks have different numbers of them."""
    encoder = ENCODERS[name]
    theta = make_learned(encoder).encoder
    lengths = torch.tensor([[2, 3], [0, 1], [3, 0]])
    parts = [
        (BATCH.context[:, :3], (torch.arange(3) < lengths[:, :1]).double()),
        (BATCH.context[:, 2:], (torch.arange(3) < lengths[:, 1:]).double()),
    ]
    belief = encoder.empty(T, BATCH.context)
    for context, mask in parts:
        belief = encoder.add(theta, belief, context, mask)
    for i, (first, second) in enumerate(lengths.tolist()):
        whole = torch.cat([BATCH.context[i, :first], BATCH.context[i, 2 : 2 + second]])[None]
        at_once = encoder.add(theta, encoder.empty(1, whole), whole, ones(1, first + second))
        for key, value in at_once.items():
            torch.testing.assert_close(belief[key][i], value[0])


def test_the_order_of_transitions_matters_to_a_gru_only() -> None:
    for name, encoder in ENCODERS.items():
        theta = make_learned(encoder).encoder
        empty = encoder.empty(T, BATCH.context)
        means = [
            encoder.posterior(theta, encoder.add(theta, empty, context, ones(T, N))).mean
            for context in (BATCH.context, BATCH.context.flip(1))
        ]
        assert torch.allclose(*means, rtol=1e-12) == (name == "product")


def test_the_variance_has_a_lower_bound() -> None:
    encoder = ENCODERS["product"]
    theta = make_learned(encoder).encoder
    theta = {**theta, "encoder_1_bias": torch.tensor([0.0, 0.0, -1e3, -1e3]).double()}
    belief = encoder.add(theta, encoder.empty(T, BATCH.context), BATCH.context, ones(T, N))
    variance = encoder.posterior(theta, belief).variance
    torch.testing.assert_close(variance, torch.full_like(variance, 1e-7 / N))


def test_kl_divergence_and_samples_of_the_posterior() -> None:
    posterior = Posterior(randn(T, L, seed=1), randn(T, L, seed=2).exp())
    normal = td.Normal(posterior.mean, posterior.variance.sqrt())
    expected = td.kl_divergence(normal, td.Normal(0.0, 1.0)).sum(-1)
    torch.testing.assert_close(posterior.kl(), expected)
    assert Posterior(0 * ones(1, L), ones(1, L)).kl().tolist() == [0.0]
    noise = randn(T, L, seed=3)
    torch.testing.assert_close(posterior.sample(noise), normal.mean + normal.stddev * noise)


# --- Networks and losses ---


def test_a_squashed_gaussian_is_torchs() -> None:
    mean, log_std, noise = randn(7, A, seed=1), randn(7, A, seed=2), randn(7, A, seed=3)
    actions, log_probs = SquashedGaussian(mean, log_std).sample(noise)
    normal = td.Normal(mean, log_std.exp())
    squashed = td.TransformedDistribution(normal, [td.transforms.TanhTransform(cache_size=1)])
    torch.testing.assert_close(actions, torch.tanh(mean + log_std.exp() * noise))
    torch.testing.assert_close(log_probs, squashed.log_prob(actions).sum(-1))
    assert SquashedGaussian(mean, log_std).mode().equal(torch.tanh(mean))
    # Far out, where 1 − tanh² is 0 in floating point.
    far = SquashedGaussian(torch.full((1, 1), 50.0), torch.zeros(1, 1)).sample(torch.zeros(1, 1))
    expected = -0.5 * math.log(2 * math.pi) + 100 - 2 * math.log(2)
    assert float(far[1]) == pytest.approx(expected)


def test_the_deviation_of_actions_is_bounded() -> None:
    actor = make_learned(ENCODERS["product"]).actor
    actor = {**actor, "actor_1_bias": torch.tensor([0.0, 0.0, 99.0, -99.0]).double()}
    distribution = NETWORKS.actions(actor, STEPS.observations[0], LATENTS[:1].expand(B, L))
    assert distribution.log_std.tolist() == [[2.0, -20.0]] * B


def test_critic_targets() -> None:
    """Terminal states have no value; others have one, also at the end of an episode."""
    learned = make_learned(ENCODERS["product"])
    targets = critic_targets(NETWORKS, learned, STEPS, LATENTS, BATCH.next_action_noise, CONFIG)
    for i in range(T):
        for b in range(B):
            expected = plain_target(learned, BATCH, LATENTS[i], i, b)
            torch.testing.assert_close(targets[i, b], expected)


def test_no_gradient_flows_into_critic_targets() -> None:
    learned = make_learned(ENCODERS["product"])
    watched = learned._replace(actor=leaves(dict(learned.actor)))
    z = LATENTS.clone().requires_grad_()
    targets = critic_targets(NETWORKS, watched, STEPS, z, BATCH.next_action_noise, CONFIG)
    assert not targets.requires_grad


def test_critic_loss() -> None:
    critics, targets = make_learned(ENCODERS["product"]).critics, randn(T, B, seed=30)
    loss = critic_loss(NETWORKS, critics, STEPS, LATENTS, targets)
    for i in range(T):
        errors = [
            (value - targets[i, b]) ** 2
            for b in range(B)
            for value in plain_values(
                critics, STEPS.observations[i, b], STEPS.actions[i, b], LATENTS[i]
            )
        ]
        torch.testing.assert_close(loss[i], torch.stack(errors).sum() / B)


def test_the_gradient_of_the_critic_loss_flows_to_critics_and_z() -> None:
    critics, targets = make_learned(ENCODERS["product"]).critics, randn(T, B, seed=30)

    def loss(latents: Tensor, **changed: Tensor) -> Tensor:
        return critic_loss(NETWORKS, {**critics, **changed}, STEPS, latents, targets).sum()

    watched, z = leaves(dict(critics)), LATENTS.clone().requires_grad_()
    gradients = torch.autograd.grad(loss(z, **watched), [z, *watched.values()])
    expected = [
        differences(loss, LATENTS),
        *(
            differences(lambda value, name=name: loss(LATENTS, **{name: value}), critics[name])
            for name in critics
        ),
    ]
    for gradient, by_differences in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, by_differences, rtol=1e-5, atol=1e-6)
        assert gradient.any()


def plain_actor_losses(learned: Learned, z: Tensor) -> tuple[Tensor, Tensor]:
    """mean_b [α log π − min Q], (T,), and mean_b log π, (T,)."""
    alpha = learned.temperature["log_alpha"][0].exp()
    losses, log_probs = [], []
    for i in range(T):
        for b in range(B):
            s = STEPS.observations[i, b]
            a, log_prob = plain_action(learned.actor, s, z[i], BATCH.action_noise[i, b])
            losses.append(alpha * log_prob - min(plain_values(learned.critics, s, a, z[i])))
            log_probs.append(log_prob)
    shaped = (torch.stack(values).reshape(T, B).mean(1) for values in (losses, log_probs))
    return tuple(shaped)  # type: ignore[return-value]


def our_actor_loss(learned: Learned, z: Tensor) -> tuple[Tensor, Tensor]:
    return actor_loss(
        NETWORKS,
        learned.actor,
        learned.critics,
        learned.temperature["log_alpha"],
        STEPS.observations,
        z,
        BATCH.action_noise,
    )


def test_actor_loss() -> None:
    learned = make_learned(ENCODERS["product"])
    for ours, expected in zip(
        our_actor_loss(learned, LATENTS), plain_actor_losses(learned, LATENTS), strict=True
    ):
        torch.testing.assert_close(ours, expected)


def test_the_gradient_of_the_actor_loss_flows_to_the_actor_only() -> None:
    learned = make_learned(ENCODERS["product"])
    watched = learned._replace(
        actor=leaves(dict(learned.actor)),
        critics=leaves(dict(learned.critics)),
        temperature=leaves(dict(learned.temperature)),
    )
    z = LATENTS.clone().requires_grad_()
    loss = our_actor_loss(watched, z)[0].sum()
    fixed = [*watched.critics.values(), *watched.temperature.values(), z]
    assert torch.autograd.grad(loss, fixed, retain_graph=True, allow_unused=True) == (None,) * len(
        fixed
    )
    gradients = torch.autograd.grad(loss, list(watched.actor.values()))
    for name, gradient in zip(watched.actor, gradients, strict=True):

        def changed(value: Tensor, name: str = name) -> Tensor:
            actor = {**learned.actor, name: value}
            return our_actor_loss(learned._replace(actor=actor), LATENTS)[0].sum()

        expected = differences(changed, learned.actor[name])
        torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-6)
        assert gradient.any()


def test_the_temperature_grows_if_the_entropy_is_low() -> None:
    """−log α (log π + H̄) with H̄ = −3/2: entropies −1 (enough) and −2 (too low)."""
    log_alpha = torch.tensor([0.5]).double().requires_grad_()
    log_probs = torch.tensor([1.0, 2.0]).double().requires_grad_()
    loss = temperature_loss(log_alpha, log_probs, -1.5)
    assert loss.tolist() == [0.25, -0.25]
    enough, too_low = (torch.autograd.grad(part, log_alpha, retain_graph=True)[0] for part in loss)
    assert (float(enough), float(too_low)) == (0.5, -0.5)  # descent lowers it, and raises it
    assert torch.autograd.grad(loss.sum(), log_probs, allow_unused=True) == (None,)


def test_targets_approach_the_critics() -> None:
    targets = approached({"w": torch.tensor([1.0])}, {"w": torch.tensor([5.0])}, 0.25)
    assert targets["w"].tolist() == [2.0]


# --- An update ---


def updated(
    name: str,
    learned: Learned,
    *,
    block_size: int = T,
    config: PEARLConfig = CONFIG,
    **options: Any,
) -> tuple[Learned, dict[str, float]]:
    ranks = options.get("ranks", Ranks())
    return sac_update(NETWORKS, ENCODERS[name], learned, BATCH, config, ranks, block_size, 1)


def plain_update(name: str, learned: Learned) -> tuple[Learned, dict[str, float]]:
    """Both steps of Adam, with gradients of losses that are computed by the ``plain_*``."""
    # Encoder and critics.
    watched = leaves({**learned.encoder, **learned.critics})
    errors, kls, targets = [], [], []
    latents = []
    for i in range(T):
        mean, variance = plain_posterior(name, watched, list(BATCH.context[i]))
        z = mean + variance.sqrt() * BATCH.latent_noise[i]
        latents.append(z.detach())
        kls.append(td.kl_divergence(td.Normal(mean, variance.sqrt()), td.Normal(0.0, 1.0)).sum())
        for b in range(B):
            y = plain_target(learned, BATCH, z.detach(), i, b).detach()
            targets.append(y)
            values = plain_values(watched, STEPS.observations[i, b], STEPS.actions[i, b], z)
            errors.append(sum((value - y) ** 2 for value in values))
    error, kl = torch.stack(errors).sum() / (T * B), torch.stack(kls).sum()
    gradients = torch.autograd.grad(error + 0.7 * kl, list(watched.values()))
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    old = {**learned.encoder, **learned.critics}
    both, critic_optimizer = ascend(old, -flat, learned.critic_optimizer, CONFIG.step_size)
    critics = {key: both[key] for key in learned.critics}
    # Actor and temperature, with the new critics and the same z.
    watched = leaves({**learned.actor, **learned.temperature})
    now = learned._replace(actor=watched, critics=critics)
    losses, log_probs = plain_actor_losses(now, torch.stack(latents))
    of_alpha = -watched["log_alpha"] * (log_probs.detach() - 1.5)
    gradients = torch.autograd.grad((losses + of_alpha).mean(), list(watched.values()))
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    old = {**learned.actor, **learned.temperature}
    theta, actor_optimizer = ascend(old, -flat, learned.actor_optimizer, CONFIG.step_size)
    new = Learned(
        encoder={key: both[key] for key in learned.encoder},
        actor={key: theta[key] for key in learned.actor},
        critics=critics,
        targets={key: 0.75 * old + 0.25 * critics[key] for key, old in learned.targets.items()},
        temperature={"log_alpha": theta["log_alpha"]},
        critic_optimizer=critic_optimizer,
        actor_optimizer=actor_optimizer,
    )
    return new, {
        "update/critic_loss": float(error.detach()),
        "update/kl": float(kl.detach()) / T,
        "update/target": float(torch.stack(targets).mean()),
        "update/actor_loss": float(losses.mean().detach()),
        "update/entropy": -float(log_probs.mean().detach()),
    }


def assert_same(ours: Learned, expected: Learned) -> None:
    for field, one, other in zip(Learned._fields, ours, expected, strict=True):
        assert list(one) == list(other), field
        for name, value in one.items():
            torch.testing.assert_close(value, other[name], rtol=1e-7, atol=1e-9)


@encoders
def test_an_update_is_two_steps_of_adam(name: str) -> None:
    """α is a constant in the actor's loss, and z in the targets and in the actor's loss."""
    learned = make_learned(ENCODERS[name])
    # Two updates, so that Adam's moments matter: after one, only the gradient's sign does.
    ours, metrics = updated(name, learned)
    expected, expected_metrics = plain_update(name, learned)
    assert_same(ours, expected)
    assert metrics == pytest.approx(expected_metrics)
    assert_same(updated(name, ours)[0], plain_update(name, ours)[0])


@encoders
def test_blocks_change_nothing(name: str) -> None:
    learned = make_learned(ENCODERS[name])
    whole, metrics = updated(name, learned)
    split, split_metrics = updated(name, learned, block_size=1)
    assert_same(split, whole)
    assert split_metrics == pytest.approx(metrics)


def test_each_process_computes_its_blocks() -> None:
    """The blocks of two processes are those of one: their sums are its sum."""
    learned = make_learned(ENCODERS["product"])
    seen: list[list[Tensor]] = []

    class Recording(Ranks):
        def sum(self, per_task: Tensor) -> Tensor:
            seen[-1].append(per_task.sum(0, dtype=torch.float64))
            return seen[-1][-1]

    for rank, number in ((0, 1), (0, 2), (1, 2)):
        seen.append([])
        updated("product", learned, block_size=1, ranks=Recording(rank, number))
    whole, first, second = seen
    torch.testing.assert_close(first[0] + second[0], whole[0])
    assert not torch.allclose(first[0], whole[0])


def test_a_fixed_temperature_stays() -> None:
    learned = make_learned(ENCODERS["product"])
    fixed = dataclasses.replace(CONFIG, automatic_temperature=False)
    assert (
        updated("product", learned, config=fixed)[0]
        .temperature["log_alpha"]
        .equal(learned.temperature["log_alpha"])
    )
    assert (
        not updated("product", learned)[0]
        .temperature["log_alpha"]
        .equal(learned.temperature["log_alpha"])
    )


def test_the_target_entropy_is_minus_the_size_of_an_action_by_default() -> None:
    learned = make_learned(ENCODERS["product"])
    states = [
        updated("product", learned, config=dataclasses.replace(CONFIG, target_entropy=value))[0]
        for value in (None, -float(A), 5.0)
    ]
    default, same, other = (state.actor_optimizer["exp_avg"] for state in states)
    assert default.equal(same)
    assert not default.equal(other)


def test_an_update_that_is_not_finite_raises() -> None:
    learned = make_learned(ENCODERS["product"])
    broken = {name: value * math.nan for name, value in learned.targets.items()}
    with pytest.raises(FloatingPointError):
        updated("product", learned._replace(targets=broken))
