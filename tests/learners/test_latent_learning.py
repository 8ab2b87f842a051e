"""The latent variable of an episode in MAML: gradients, divergences, credit and a learning test."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from helpers.runs import tiny
from helpers.synthetic import (
    finite_difference_gradient,
    from_vector,
    make_episodes,
    make_policy,
    to_vector,
)
from torch import Tensor
from torch import distributions as td

import maml_rl
from maml_rl.learners.maml.inner_step import initial_theta, inner_step
from maml_rl.learners.maml.losses import mean_kl
from maml_rl.learners.maml.objective import (
    MetaBatch,
    MetaObjective,
    exploration_surrogate,
    latent_kl,
    query_kl,
    ratio_surrogate,
    with_credit,
)
from maml_rl.learners.maml.outer.promp import inner_kl
from maml_rl.learners.maml.outer.trpo import fisher_vector_product
from maml_rl.learners.trials import play_trials, sample_tasks
from maml_rl.policies.latent import LATENT_LOG_STD, LATENT_MEAN, with_latents
from maml_rl.policies.parameters import make_stack
from maml_rl.sampling.episodes import Episodes
from maml_rl.settings.config import Config
from maml_rl.settings.learners import InnerConfig
from maml_rl.system.distributed import Ranks
from maml_rl.system.random_streams import Phase, RandomStreams
from maml_rl.training.compose import Training, open_training

NUM_TASKS, LATENT_SIZE = 3, 2
STREAMS = RandomStreams(0, Phase.TRAINING, 0)
VARIANTS: dict[str, dict[str, Any]] = {
    "log_prob": {},
    "likelihood_ratio": {"surrogate": "likelihood_ratio"},
    "dice": {"surrogate": "dice"},
    "head": {"adapts": "head"},
    "latent": {"adapts": "latent"},
    "per_layer": {"learned_step_size": "per_layer"},
    "max_kl": {"max_kl": 0.01},
}


def make_objective(
    *, num_steps: int = 1, discrete: bool = False, **settings: Any
) -> tuple[MetaObjective, dict[str, Tensor]]:
    """A meta-objective whose episodes were sampled through its own inner steps."""
    inner = InnerConfig(num_steps=num_steps, step_size=0.1, **settings)
    policy = make_policy(discrete, latent_size=LATENT_SIZE)
    theta = initial_theta(policy, inner)
    stacks = [make_stack(theta, NUM_TASKS)]
    episodes: list[Episodes] = []
    for k in range(num_steps + 1):
        episodes.append(make_episodes(policy, stacks[-1], seed=k))
        stacks.append(inner_step(policy, stacks[-1], episodes[-1], inner, k))
    batch = MetaBatch(tuple(episodes[:-1]), episodes[-1], tuple(stacks[:-1]))
    return MetaObjective(policy, with_credit(batch, Ranks()), inner, 2), theta


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("num_steps", [1, 2])
def test_meta_gradient_with_respect_to_everything_that_is_learned(
    variant: str, num_steps: int
) -> None:
    objective, theta = make_objective(
        num_steps=num_steps, latent_kl_weight=0.3, exploration_credit=0.2, **VARIANTS[variant]
    )
    at = to_vector(theta) + 0.01
    expected = finite_difference_gradient(
        lambda vector: objective.value(from_vector(vector, theta))[0], at
    )
    _, gradient = objective.surrogate_and_gradient(from_vector(at, theta))
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-7)
    for name, part in from_vector(gradient, theta).items():
        assert part.abs().max() > 1e-6, f"{name} is not learned"


@pytest.mark.slow
@pytest.mark.parametrize("quantity", [inner_kl, exploration_surrogate, ratio_surrogate])
def test_single_terms_have_a_gradient_with_respect_to_the_distribution_of_z(quantity) -> None:
    objective, theta = make_objective(latent_kl_weight=0.0)
    at = to_vector(theta) + 0.05
    _, gradient = objective.surrogate_and_gradient(from_vector(at, theta), quantity)
    expected = finite_difference_gradient(
        lambda vector: objective.mean(from_vector(vector, theta), quantity)[0], at
    )
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-7)
    for name in (LATENT_MEAN, LATENT_LOG_STD):
        assert from_vector(gradient, theta)[name].abs().max() > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("discrete", [False, True], ids=["gaussian", "categorical"])
@pytest.mark.parametrize("num_steps", [1, 2])
def test_fisher_product_is_the_curvature_of_the_kl(discrete: bool, num_steps: int) -> None:
    objective, theta = make_objective(num_steps=num_steps, discrete=discrete)
    product, at, eps = fisher_vector_product(objective, theta), to_vector(theta), 1e-4
    fisher = torch.stack([product(row) for row in torch.eye(len(at), dtype=at.dtype)])
    torch.testing.assert_close(fisher, fisher.T, rtol=1e-8, atol=1e-10)

    def kl(vector: Tensor) -> float:
        return objective.mean(from_vector(vector, theta), query_kl)[0]

    # Along each parameter, and along random directions for the other entries of the matrix.
    assert kl(at) == pytest.approx(0, abs=1e-12)
    generator = torch.Generator().manual_seed(0)
    mixed = torch.randn(6, len(at), generator=generator, dtype=at.dtype)
    for direction in torch.cat([torch.eye(len(at), dtype=at.dtype), mixed]):
        curvature = (kl(at + eps * direction) + kl(at - eps * direction)) / eps**2
        assert float(direction @ fisher @ direction) == pytest.approx(curvature, rel=1e-3, abs=1e-6)
    assert from_vector(fisher.diag(), theta)[LATENT_MEAN].min() > 1e-3


def test_a_thinned_fisher_product_keeps_the_z_of_all_episodes() -> None:
    objective, theta = make_objective(num_steps=2)
    batch = objective.batch
    thinned = batch._replace(
        supports=tuple(support.every(2, with_first=True) for support in batch.supports),
        query=batch.query.every(2, with_first=True),
    )
    vector = torch.linspace(-1, 1, len(to_vector(theta)), dtype=torch.float64)
    torch.testing.assert_close(
        fisher_vector_product(objective, theta, 2)(vector),
        fisher_vector_product(dataclasses.replace(objective, batch=thinned), theta, 1)(vector),
    )
    # The inner step of the distribution of z is then exact, that of the weights an estimate.
    stack = make_stack(theta, NUM_TASKS)
    full, estimate = (
        objective.inner_step(stack, support, 0)[0]
        for support in (batch.supports[0], thinned.supports[0])
    )
    for name in (LATENT_MEAN, LATENT_LOG_STD):
        torch.testing.assert_close(estimate[name], full[name])
    assert not torch.allclose(estimate["weight_1"], full["weight_1"])


def test_the_kl_of_z_counts_once_per_episode() -> None:
    policy = make_policy(latent_size=LATENT_SIZE)
    stack = make_stack(dict(policy.named_parameters()), NUM_TASKS)
    episodes = make_episodes(policy, stack, seed=0)
    moved = {**stack, LATENT_MEAN: stack[LATENT_MEAN] + 0.4, LATENT_LOG_STD: stack[LATENT_MEAN]}
    new = policy.distribution(moved, episodes.flat(episodes.observations))
    before, after = (
        td.Independent(td.Normal(s[LATENT_MEAN], s[LATENT_LOG_STD].exp()), 1)
        for s in (stack, moved)
    )
    num_episodes = (~episodes.discarded).sum(1)
    expected = td.kl_divergence(before, after) * num_episodes / episodes.num_steps
    torch.testing.assert_close(mean_kl(new, episodes), expected)
    torch.testing.assert_close(expected, td.kl_divergence(before, after) / episodes.mean_length)


def episodes_of_every_z(
    stack: dict[str, Tensor], lengths: list[int], values: Tensor, reward: Tensor
) -> Episodes:
    """One task whose episodes have the latent variables and returns of a quadrature.

    Args:
        stack: parameters of one task.
        lengths: of the episodes; repeated for every node.
        values: z, (N, L).
        reward: of the last step times N times the weight of the node, (N,).
    """
    policy = make_policy(latent_size=LATENT_SIZE)
    number, horizon = len(values) * len(lengths), max(lengths) + 1
    episodes = make_episodes(
        policy, stack, seed=0, num_episodes=number, horizon=horizon, discard=False
    )
    states = episodes.observations[..., :3]
    latents = values.repeat_interleave(len(lengths), 0)[None]
    mask = torch.arange(horizon) < torch.tensor(lengths).repeat(len(values))[:, None]
    advantages = reward.repeat_interleave(len(lengths))[None, :, None] * mask[None]
    observations = with_latents(states, latents) * mask[None, ..., None]
    dist = policy.distribution(stack, observations.flatten(1, 2))
    log_probs = dist.log_prob(episodes.actions.flatten(1, 2)).unflatten(1, (number, horizon))
    return dataclasses.replace(
        episodes,
        observations=observations,
        mask=mask[None].double(),
        inner_advantages=advantages,
        distribution=tuple(value.detach() for value in dist),
        log_probs=log_probs.detach(),
    )


@pytest.mark.parametrize("surrogate", ["log_prob", "likelihood_ratio", "dice"])
@pytest.mark.parametrize("lengths", [[1], [4], [1, 2, 5]])
def test_the_inner_gradient_is_that_of_the_expected_return(
    surrogate: str, lengths: list[int]
) -> None:
    """E[z₁² + 3 z₂] = μ₁² + σ₁² + 3 μ₂, by Gauss–Hermite quadrature, for episodes of any length."""
    policy = make_policy(latent_size=LATENT_SIZE)
    stack = {n: v.detach() for n, v in make_stack(dict(policy.named_parameters()), 1).items()}
    mean, std = stack[LATENT_MEAN][0], stack[LATENT_LOG_STD][0].exp()
    # The nodes: values of z and their probabilities.
    points, weights = np.polynomial.hermite_e.hermegauss(5)
    grid = torch.from_numpy(np.stack(np.meshgrid(points, points), -1).reshape(-1, 2))
    probability = torch.from_numpy(np.outer(weights, weights).reshape(-1) / (2 * np.pi))
    values = mean + std * grid
    returns = values[:, 0] ** 2 + 3 * values[:, 1]
    episodes = episodes_of_every_z(stack, lengths, values, returns * probability * len(values))
    inner = InnerConfig(step_size=0.7, surrogate=surrogate)
    moved = inner_step(policy, stack, episodes, inner, 0)
    d_mean, d_log_std = (
        (moved[name] - stack[name])[0] / 0.7 for name in (LATENT_MEAN, LATENT_LOG_STD)
    )
    zero = torch.zeros((), dtype=torch.float64)
    torch.testing.assert_close(d_mean, torch.stack([2 * mean[0], zero + 3]))
    torch.testing.assert_close(d_log_std, torch.stack([2 * std[0] ** 2, zero]))


def test_all_tasks_share_the_distribution_before_adaptation() -> None:
    """Deviation from MAESN: the KL term is that of the shared μ and σ, before any inner step."""
    objective, theta = make_objective(latent_kl_weight=0.5)
    mean, std = theta[LATENT_MEAN], theta[LATENT_LOG_STD].exp()
    expected = 0.5 * (mean**2 + std**2 - 1) - std.log()
    assert objective.mean(theta, latent_kl)[0] == pytest.approx(float(expected.sum()))
    plain = dataclasses.replace(
        objective, inner=dataclasses.replace(objective.inner, latent_kl_weight=0.0)
    )
    difference = plain.value(theta)[0] - objective.value(theta)[0]
    assert difference == pytest.approx(0.5 * float(expected.sum()))


class TestTraining:
    """A run with a latent variable."""

    @pytest.fixture
    def training(self, tmp_path: Path):
        policy = {"hidden_sizes": [8], "latent_size": 2, "normalize_observations": True}
        with open_training(
            tiny(tmp_path / "run", policy=policy, num_episodes=4, horizon=6)
        ) as training:
            yield training

    def played(self, training: Training, **options: Any) -> Episodes:
        learner, state = training.agent.learner, training.agent.state
        tasks = sample_tasks(training.collector, STREAMS)
        return play_trials(
            learner,
            state,
            training.collector,
            tasks,
            num_adaptation_steps=0,
            streams=STREAMS,
            **options,
        ).episodes[0]

    def test_z_is_constant_in_an_episode_and_differs_between_episodes(self, training) -> None:
        recorded = self.played(training).observations
        latents, is_first = recorded[..., 2:4], recorded[..., 4]
        assert latents.equal(latents[:, :, :1].expand_as(latents))
        assert len(latents[:, :, 0].reshape(-1, 2).unique(dim=0)) == 3 * 4
        assert is_first[:, :, 0].eq(1).all()
        assert is_first[:, :, 1:].eq(0).all()
        most_probable = self.played(training, deterministic=True).observations
        mean = training.agent.state.tensors["theta"][LATENT_MEAN]
        assert most_probable[..., 2:4].equal(mean.expand(3, 4, 6, 2))

    def test_the_normaliser_and_the_baseline_see_the_environment_only(self, training) -> None:
        after = training.iterate().state
        assert after.tensors["normalizer"]["mean"].shape == (2,)
        episodes = self.played(training)
        other_z = episodes.observations.clone()
        other_z[..., 2:4] = episodes.rewards[..., None].cumsum(2)
        learner = training.agent.learner
        advantages = learner.with_advantages(dataclasses.replace(episodes, observations=other_z))
        assert advantages.advantages.equal(episodes.advantages)
        assert advantages.observations.equal(other_z)

    def test_the_standard_deviation_is_logged(self, training) -> None:
        state, metrics, _ = training.iterate()
        std = state.tensors["theta"][LATENT_LOG_STD].exp().mean()
        assert metrics["train/latent_std"] == pytest.approx(float(std))
        assert metrics["train/latent_std"] != 1


def test_the_latent_variable_alone_adapts() -> None:
    objective, theta = make_objective(adapts="latent")
    start = make_stack(theta, NUM_TASKS)
    end, _ = objective.inner_step(start, objective.batch.supports[0], 0)
    moved = {name for name in start if not torch.equal(end[name], start[name])}
    assert moved == {LATENT_MEAN, LATENT_LOG_STD}


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"policy": {"latent_size": -1}}, "policy.latent_size"),
        ({"policy": {"latent_size": 2, "network": "a:B"}}, "policy.latent_size.*policy.network"),
        (
            {"policy": {"latent_size": 2, "context_size": 2}, "inner": {"adapts": "context"}},
            "inner.adapts must be all, head or latent.*context",
        ),
        ({"inner": {"adapts": "latent"}}, "policy.latent_size must be at least 1.*latent"),
        (
            {"policy": {"latent_size": 2}, "inner": {"advantage": "learned"}},
            "inner.advantage must be gae.*learned",
        ),
        (
            {"policy": {"latent_size": 2}, "learner": "helpers.bandit:Bandit"},
            "learner.name.*Bandit",
        ),
        ({"inner": {"latent_kl_weight": -0.1}}, "inner.latent_kl_weight"),
    ],
)
def test_invalid_settings_are_refused(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(maml_rl.UserError, match=named):
        maml_rl.load_config(env="PointNavigation", **settings)


class Sides(gym.Env):
    """Reward 1 at the end if the mean of ten actions is beyond 0.45 on the task's side."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
    side = 1.0

    def sample_tasks(self, num_tasks: int) -> list[dict[str, float]]:
        return [{"side": float(side)} for side in self.np_random.choice([-1.0, 1.0], num_tasks)]

    def set_task(self, task: dict[str, float]) -> None:
        self.side = task["side"]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        self.actions: list[float] = []
        return np.zeros(1, np.float32), {}

    def step(self, action: np.ndarray):
        self.actions.append(float(action[0]))
        is_over = len(self.actions) == 10
        reward = float(is_over and self.side * np.mean(self.actions) > 0.45)
        return np.zeros(1, np.float32), reward, is_over, False, {}


def sides_config(output: Path, latent_size: int) -> Config:
    policy = {"hidden_sizes": [16], "init_std": 0.3, "action_scale": 1.0}
    return tiny(
        output,
        env="Sides-v0",
        num_iterations=20,
        meta_batch_size=10,
        num_episodes=10,
        horizon=10,
        policy={**policy, "latent_size": latent_size},
        inner={"step_size": 0.5},
        outer={"name": "trpo", "max_kl": 0.02},
    )


@pytest.mark.thorough
def test_it_finds_rewards_to_which_the_noise_of_actions_is_blind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The noise of a mean of ten actions is 0.095, so without z no episode is rewarded."""
    spec = gym.envs.registration.EnvSpec("Sides-v0", entry_point=Sides)
    monkeypatch.setitem(gym.registry, "Sides-v0", spec)
    after = {}
    for latent_size in (0, 2):
        config = sides_config(tmp_path / str(latent_size), latent_size)
        agent = maml_rl.load(maml_rl.train(config))
        trials = maml_rl.evaluate(agent, num_tasks=20, num_episodes=10, num_steps=2)
        after[latent_size] = trials.mean
    assert after[0].tolist() == [0, 0, 0]
    assert after[2][1] > after[2][0] + 0.05
    assert after[2][2] > 0.3


def test_a_notice_says_that_the_credit_of_z_decays(tmp_path: Path) -> None:
    for gae_lambda, is_said in ((1.0, False), (0.9, True)):
        config = tiny(tmp_path, policy={"latent_size": 2}, inner={"gae_lambda": gae_lambda})
        with open_training(config) as training:
            notice = training.agent.learner.notice(1000) or ""
        assert ("--inner.gae_lambda 1" in notice) == is_said
