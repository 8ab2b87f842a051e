"""Returns and the fitted baseline against plain loops and numpy."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from helpers.synthetic import OBSERVATION_SIZE, make_episodes, make_policy, make_theta, with_garbage

from maml_rl.learners.linear_baseline import (
    MOST_FEATURE_ENTRIES,
    baseline_features,
    baseline_notice,
    fit_values,
    returns_to_go,
)
from maml_rl.policies.parameters import make_stack
from maml_rl.sampling.episodes import Episodes
from maml_rl.settings.learners import BaselineConfig

DISCOUNT, RIDGE = 0.9, 1e-3


def episodes_of(seed: int = 0, num_tasks: int = 3) -> Episodes:
    policy = make_policy()
    return make_episodes(
        policy, make_stack(make_theta(policy), num_tasks), seed=seed, num_episodes=6, horizon=7
    )


def task_rows(
    episodes: Episodes, task: int
) -> tuple[np.ndarray, np.ndarray, list[tuple[int, int]]]:
    """Features and returns of one task's real steps, and where they are."""
    features, returns, places = [], [], []
    mask, rewards = episodes.mask[task].numpy(), episodes.rewards[task].numpy()
    longest = int(mask.sum(-1).max())
    for e in range(mask.shape[0]):
        length = int(mask[e].sum())
        for t in range(length):
            s = episodes.observations[task, e, t].numpy()
            constant = (1 - DISCOUNT ** (longest - t)) / (1 - DISCOUNT)
            features.append([*s, *(s * s), t / 100, (t / 100) ** 2, (t / 100) ** 3, 1.0, constant])
            returns.append(sum(DISCOUNT ** (u - t) * rewards[e, u] for u in range(t, length)))
            places.append((e, t))
    return np.array(features), np.array(returns), places


def plain_values(episodes: Episodes, task: int, ridge: float) -> np.ndarray:
    x, y, places = task_rows(episodes, task)
    weights = np.linalg.solve(x.T @ x + ridge * np.eye(x.shape[1]), x.T @ y)
    values = np.zeros(episodes.mask.shape[1:])
    for (e, t), row in zip(places, x, strict=True):
        values[e, t] = row @ weights
    return values


def test_features():
    observations = episodes_of().observations
    mask = torch.ones_like(observations[..., 0])
    mask[1, :, 6:] = 0  # every episode of this task ends before the horizon
    features = baseline_features(observations, mask, DISCOUNT)
    assert features.shape == (len(observations), 2 * OBSERVATION_SIZE + 5, *observations.shape[1:3])
    s = observations[1, 2, 5].tolist()
    left = 6 - 5
    expected = [*s, *(value**2 for value in s), 0.05, 0.05**2, 0.05**3, 1.0]
    expected.append((1 - DISCOUNT**left) / (1 - DISCOUNT))
    assert features[1, :, 2, 5].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("discount", [0.0, 0.9, 1.0])
def test_returns_to_go_equal_a_plain_sum(discount):
    rewards = episodes_of().rewards
    out = returns_to_go(rewards, discount)
    horizon = rewards.shape[-1]
    for t in range(horizon):
        expected = sum(discount ** (u - t) * rewards[..., u] for u in range(t, horizon))
        torch.testing.assert_close(out[..., t], expected)
    assert torch.equal(out[..., -1], rewards[..., -1])


class TestFitValues:
    @pytest.mark.parametrize("ridge", [1e-3, 1.0])
    def test_equals_ridge_regression_on_each_tasks_real_steps(self, ridge):
        episodes = episodes_of()
        values = fit_values(episodes, DISCOUNT, ridge)
        for i in range(3):
            np.testing.assert_allclose(
                values[i].numpy(), plain_values(episodes, i, ridge), rtol=1e-7, atol=1e-9
            )

    def test_is_zero_on_masked_steps_and_ignores_their_contents(self):
        episodes = episodes_of()
        values = fit_values(episodes, DISCOUNT, RIDGE)
        assert (values[episodes.mask == 0] == 0).all()
        assert (values[episodes.mask > 0] != 0).all()
        torch.testing.assert_close(
            fit_values(with_garbage(episodes, -50.0), DISCOUNT, RIDGE), values
        )

    def test_a_return_that_is_linear_in_the_features_is_fitted_exactly(self):
        episodes = episodes_of()
        horizon = episodes.mask.shape[-1]
        value = 2 * episodes.observations[..., 0] - episodes.observations[..., 1] ** 2 + 3
        following = torch.cat([value[..., 1:], torch.zeros_like(value[..., :1])], -1)
        whole = dataclasses.replace(
            episodes, mask=torch.ones_like(episodes.mask), rewards=value - DISCOUNT * following
        )
        assert horizon > 1
        torch.testing.assert_close(fit_values(whole, DISCOUNT, 1e-10), value, rtol=1e-5, atol=1e-5)

    def test_solves_in_float64_what_is_given_in_float32(self):
        episodes = episodes_of()
        single = dataclasses.replace(
            episodes,
            **{
                name: getattr(episodes, name).float()
                for name in ("observations", "rewards", "mask")
            },
        )
        values = fit_values(single, DISCOUNT, RIDGE)
        assert values.dtype == torch.float64
        torch.testing.assert_close(
            values, fit_values(episodes, DISCOUNT, RIDGE), rtol=1e-5, atol=1e-6
        )

    @pytest.mark.parametrize("size", [0.0, 1.0, 1e4, 1e9])
    def test_singular_features_are_no_error(self, size):
        episodes = episodes_of()
        same = dataclasses.replace(
            episodes, observations=torch.full_like(episodes.observations, size)
        )
        values = fit_values(same, DISCOUNT, 1e-5)
        assert values.isfinite().all()
        if size <= 1:  # with a constant among the features, the values stay near the mean return
            y = task_rows(same, 1)[1]
            assert values[1][episodes.mask[1] > 0].mean() == pytest.approx(y.mean(), abs=0.02)

    def test_a_tasks_values_do_not_depend_on_other_tasks(self):
        episodes = episodes_of()
        observations = episodes.observations.clone()
        observations[0] = 1e9  # singular, so that its ridge must be raised
        odd = dataclasses.replace(episodes, observations=observations)
        alone = fit_values(odd.chosen(slice(1, 3)), DISCOUNT, 1e-5)
        torch.testing.assert_close(fit_values(odd, DISCOUNT, 1e-5)[1:], alone, rtol=1e-8, atol=1e-8)

    @pytest.mark.parametrize("name", ["rewards", "observations"])
    @pytest.mark.parametrize("bad", [float("nan"), float("inf")])
    def test_numbers_that_are_not_finite_leave_only_their_task_without_values(self, name, bad):
        episodes = episodes_of()
        values = getattr(episodes, name).clone()
        values[1, 1, 2] = bad
        fitted = fit_values(dataclasses.replace(episodes, **{name: values}), DISCOUNT, RIDGE)
        expected = fit_values(episodes, DISCOUNT, RIDGE)
        assert fitted[1].isnan().all()
        assert torch.equal(fitted[[0, 2]], expected[[0, 2]])


def with_observations(episodes: Episodes, *shape: int) -> Episodes:
    """The same episodes with other observations, zero at masked steps."""
    observations = torch.from_numpy(
        np.random.default_rng(3).normal(size=(*episodes.mask.shape, *shape))
    )
    mask = episodes.mask.reshape(*episodes.mask.shape, *[1] * len(shape))
    return dataclasses.replace(episodes, observations=observations * mask)


class TestShapesOfObservations:
    def test_several_axes_are_flattened(self):
        images = with_observations(episodes_of(), 2, 3, 2)
        flat = dataclasses.replace(images, observations=images.observations.flatten(3))
        values = fit_values(images, DISCOUNT, RIDGE)
        assert torch.equal(values, fit_values(flat, DISCOUNT, RIDGE))

    def test_large_observations_are_no_features(self):
        episodes = episodes_of()
        large = with_observations(episodes, 2, MOST_FEATURE_ENTRIES // 2 + 1)
        nothing = dataclasses.replace(
            episodes, observations=episodes.observations.new_zeros(*episodes.mask.shape, 1)
        )
        values = fit_values(large, DISCOUNT, RIDGE)
        torch.testing.assert_close(values, fit_values(nothing, DISCOUNT, RIDGE))
        assert (values[episodes.mask > 0] != 0).all()

    def test_the_largest_features(self):
        episodes = with_observations(episodes_of(), MOST_FEATURE_ENTRIES)
        features = baseline_features(episodes.observations, episodes.mask, DISCOUNT)
        assert features.shape[1] == 2 * MOST_FEATURE_ENTRIES + 5

    def test_the_notice_of_large_observations(self):
        assert baseline_notice((20, 25), 2000) is None
        notice = baseline_notice((32, 32, 3), 2000)
        assert notice is not None
        assert "time only: observations have 3072 entries, more than 500" in notice

    def test_the_notice_of_too_few_steps(self):
        """With as many features as steps, the fit is exact whatever the returns are."""
        episodes = with_observations(episodes_of(), 30)
        values = fit_values(episodes, DISCOUNT, 1e-9)
        returns = returns_to_go(episodes.rewards * episodes.mask, DISCOUNT)
        torch.testing.assert_close(values, returns * episodes.mask, rtol=1e-4, atol=1e-4)
        assert "65 features for 42 steps" in str(baseline_notice((30,), 42))
        assert baseline_notice((30,), 66) is None


class TestConfig:
    @pytest.mark.parametrize(
        "setting",
        [
            {"discount": 1.1},
            {"discount": -0.1},
            {"gae_lambda": 2.0},
            {"ridge": 0.0},
            {"ridge": float("nan")},
        ],
    )
    def test_refuses_values_out_of_range(self, setting):
        with pytest.raises(ValueError, match=f"baseline.{next(iter(setting))}"):
            BaselineConfig(**setting)
