"""Generalised advantage estimation against its definition."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from helpers.synthetic import make_episodes, make_policy, make_theta, with_garbage

from maml_rl.learners.advantages import generalized_advantages, normalized_per_task, with_advantages
from maml_rl.learners.linear_baseline import fit_values, returns_to_go
from maml_rl.policies.parameters import make_stack
from maml_rl.sampling.episodes import Episodes
from maml_rl.settings.learners import BaselineConfig, InnerConfig


def episodes_of(seed: int = 0) -> Episodes:
    policy = make_policy()
    return make_episodes(
        policy, make_stack(make_theta(policy), 3), seed=seed, num_episodes=6, horizon=7
    )


def plain_advantages(rewards, values, discount, gae_lambda) -> list[float]:
    """Advantages of one episode from lists over its real steps; the value after them is zero."""
    length = len(rewards)
    following = [*values[1:], 0.0]
    deltas = [rewards[t] + discount * following[t] - values[t] for t in range(length)]
    return [
        sum((discount * gae_lambda) ** (u - t) * deltas[u] for u in range(t, length))
        for t in range(length)
    ]


def masked(episodes: Episodes) -> tuple[torch.Tensor, torch.Tensor]:
    """Rewards and a set of values, zero after the episodes' end."""
    return episodes.rewards * episodes.mask, episodes.advantages * episodes.mask


class TestGeneralizedAdvantages:
    @pytest.mark.parametrize("discount", [0.9, 1.0])
    @pytest.mark.parametrize("gae_lambda", [0.0, 0.6, 1.0])
    def test_equal_the_definition_where_episodes_end_early(self, discount, gae_lambda):
        episodes = episodes_of()
        rewards, values = masked(episodes)
        out = generalized_advantages(rewards, values, discount, gae_lambda)
        for i in range(3):
            for e in range(6):
                length = int(episodes.mask[i, e].sum())
                expected = plain_advantages(
                    rewards[i, e, :length].tolist(),
                    values[i, e, :length].tolist(),
                    discount,
                    gae_lambda,
                )
                assert out[i, e, :length].tolist() == pytest.approx(expected)

    def test_lambda_1_is_return_minus_value_and_lambda_0_the_temporal_difference(self):
        rewards, values = masked(episodes_of())
        torch.testing.assert_close(
            generalized_advantages(rewards, values, 0.9, 1.0), returns_to_go(rewards, 0.9) - values
        )
        one_step = generalized_advantages(rewards, values, 0.9, 0.0)
        torch.testing.assert_close(
            one_step[..., :-1], (rewards + 0.9 * values.roll(-1, -1) - values)[..., :-1]
        )


class TestNormalizedPerTask:
    def test_mean_0_and_std_1_over_each_tasks_real_steps(self):
        episodes = episodes_of()
        scale = torch.tensor([1.0, 50.0, 0.1], dtype=torch.float64)[:, None, None]
        out = normalized_per_task(5 + scale * episodes.advantages, episodes.mask)
        for i in range(3):
            real = out[i][episodes.mask[i] > 0]
            assert float(real.mean()) == pytest.approx(0, abs=1e-12)
            assert float(real.std(correction=0)) == pytest.approx(1, abs=1e-6)
        assert (out[episodes.mask == 0] == 0).all()

    def test_equal_advantages_give_zeros_and_a_task_without_steps_no_nan(self):
        episodes = episodes_of()
        equal = normalized_per_task(torch.full_like(episodes.advantages, 3.0), episodes.mask)
        torch.testing.assert_close(equal, torch.zeros_like(equal))
        nothing = normalized_per_task(episodes.advantages, torch.zeros_like(episodes.mask))
        assert torch.equal(nothing, torch.zeros_like(nothing))


class TestWithAdvantages:
    @pytest.mark.parametrize("normalize", [False, True])
    def test_puts_returns_baseline_and_advantages_together(self, normalize):
        episodes = episodes_of()
        config = BaselineConfig(
            discount=0.9, gae_lambda=0.7, ridge=1e-3, normalize_advantages=normalize
        )
        out = with_advantages(episodes, config)
        values = fit_values(episodes, 0.9, 1e-3)
        for i in range(3):
            expected, actual = [], []
            for e in range(6):
                length = int(episodes.mask[i, e].sum())
                rewards = episodes.rewards[i, e, :length].tolist()
                expected += plain_advantages(rewards, values[i, e, :length].tolist(), 0.9, 0.7)
                actual += out.advantages[i, e, :length].tolist()
            expected = torch.tensor(expected, dtype=torch.float64)
            if normalize:
                expected = (expected - expected.mean()) / expected.std(correction=0)
            torch.testing.assert_close(
                torch.tensor(actual, dtype=torch.float64), expected, rtol=1e-6, atol=1e-7
            )
        assert (out.advantages[out.mask == 0] == 0).all()

    @pytest.mark.parametrize(
        "changes", [{"discount": 0.6}, {"gae_lambda": 0.2}, {"discount": 0.6, "gae_lambda": 0.2}]
    )
    def test_inner_steps_have_a_discount_and_lambda_of_their_own(self, changes):
        episodes = episodes_of()
        config = BaselineConfig(discount=0.9, gae_lambda=0.7)
        out = with_advantages(episodes, config, InnerConfig(**changes))
        plain = with_advantages(episodes, config, InnerConfig())
        of_inner = with_advantages(episodes, dataclasses.replace(config, **changes))
        assert torch.equal(out.advantages, plain.advantages)
        assert torch.equal(out.inner_advantages, of_inner.advantages)
        assert torch.equal(plain.inner_advantages, plain.advantages)
        assert not torch.allclose(out.inner_advantages, out.advantages, rtol=0.1)

    @pytest.mark.parametrize("normalize", [False, True])
    def test_with_a_shared_scale_those_of_inner_steps_are_centred_only(self, normalize):
        episodes = episodes_of()
        config = BaselineConfig(gae_lambda=0.7, normalize_advantages=normalize)
        out = with_advantages(episodes, config, InnerConfig(shared_advantage_scale=True))
        assert torch.equal(out.advantages, with_advantages(episodes, config).advantages)
        plain = with_advantages(
            episodes, dataclasses.replace(config, normalize_advantages=False)
        ).advantages
        for i in range(3):
            real = plain[i][episodes.mask[i] > 0]
            actual = out.inner_advantages[i][episodes.mask[i] > 0]
            assert abs(float(real.mean())) > 1e-3
            torch.testing.assert_close(actual, real - real.mean(), rtol=1e-10, atol=1e-12)
        assert (out.inner_advantages[out.mask == 0] == 0).all()

    def test_masked_steps_do_not_matter_and_nothing_else_changes(self):
        episodes = episodes_of()
        before = episodes.advantages.clone()
        out = with_advantages(episodes, BaselineConfig())
        torch.testing.assert_close(
            out.advantages,
            with_advantages(with_garbage(episodes, 9.0), BaselineConfig()).advantages,
        )
        assert torch.equal(episodes.advantages, before)
        assert out.rewards is episodes.rewards
        assert out.mask is episodes.mask

    def test_a_reward_that_is_not_finite_leaves_only_its_task_without_advantages(self):
        episodes = episodes_of()
        expected = with_advantages(episodes, BaselineConfig()).advantages
        episodes.rewards[2, 1, 0] = float("inf")
        advantages = with_advantages(episodes, BaselineConfig()).advantages
        assert not advantages[2].isfinite().any()
        assert torch.equal(advantages[:2], expected[:2])


class TestConstantReward:
    """A reward that does not depend on the actions gives no advantages."""

    @pytest.mark.parametrize("discount", [0.0, 0.9, 0.99, 0.999, 1.0])
    @pytest.mark.parametrize("reward", [1.0, -1e4, 1e-3])
    @pytest.mark.parametrize("horizon", [20, 100, 200])
    def test_it_gives_no_advantage(self, discount: float, reward: float, horizon: int) -> None:
        rng = torch.Generator().manual_seed(0)
        shape = (2, 20, horizon)
        episodes = whole_episodes(torch.randn(*shape, 4, generator=rng), torch.full(shape, reward))
        inner = InnerConfig(shared_advantage_scale=True)
        out = with_advantages(episodes, BaselineConfig(discount=discount), inner)
        assert not out.advantages.any()
        assert not out.inner_advantages.any()

    @pytest.mark.parametrize("horizon", [100, 1000])
    @pytest.mark.parametrize("length", [2, 3, 5, 8, 12, 14, 20, 50, 99])
    def test_it_gives_none_where_all_episodes_end_before_the_horizon(
        self, length: int, horizon: int
    ) -> None:
        rng = torch.Generator().manual_seed(0)
        shape = (2, 20, horizon)
        mask = (torch.arange(horizon) < length).float().expand(shape).clone()
        observations = torch.randn(*shape, 4, generator=rng) * mask[..., None]
        episodes = dataclasses.replace(whole_episodes(observations, mask.clone()), mask=mask)
        assert not with_advantages(episodes, BaselineConfig()).advantages.any()

    @pytest.mark.parametrize("gae_lambda", [0.0, 0.95, 1.0])
    @pytest.mark.parametrize(("horizon", "size"), [(100, 1e-2), (100, 1e-3), (1000, 1e-3)])
    def test_a_small_signal_beside_it_is_kept(
        self, horizon: int, size: float, gae_lambda: float
    ) -> None:
        rng = torch.Generator().manual_seed(0)
        shape = (2, 20, horizon)
        rewards = 1.0 + size * torch.randn(shape, generator=rng)
        episodes = whole_episodes(torch.randn(*shape, 4, generator=rng), rewards)
        config = BaselineConfig(gae_lambda=gae_lambda)
        out = with_advantages(episodes, config)
        torch.testing.assert_close(
            out.advantages.flatten(1).std(1), torch.ones(2), rtol=1e-3, atol=0
        )
        in_double = whole_episodes(episodes.observations.double(), rewards.double())
        expected = with_advantages(in_double, config).advantages
        torch.testing.assert_close(out.advantages.double(), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("scale", [1e-30, 1e-10, 1e10, 1e30])
def test_the_scale_of_rewards_does_not_matter(scale: float) -> None:
    rng = torch.Generator().manual_seed(0)
    rewards = torch.randn(2, 20, 100, generator=rng)
    observations = torch.randn(2, 20, 100, 4, generator=rng)
    out, expected = (
        with_advantages(whole_episodes(observations, size * rewards), BaselineConfig()).advantages
        for size in (scale, 1.0)
    )
    torch.testing.assert_close(out, expected)


def whole_episodes(observations: torch.Tensor, rewards: torch.Tensor) -> Episodes:
    """Whole episodes with these observations (T, E, H, 4) and rewards (T, E, H)."""
    zeros = torch.zeros_like(rewards)
    return Episodes(
        observations=observations,
        actions=observations,
        rewards=rewards,
        mask=torch.ones_like(rewards),
        distribution=(),
        log_probs=zeros,
        cause=torch.zeros(rewards.shape[:2], dtype=torch.int8),
        success=zeros[..., 0],
        terminated=zeros[..., 0],
        last_observations=observations[:, :, -1],
        advantages=zeros,
        inner_advantages=zeros,
    )
