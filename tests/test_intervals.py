"""Intervals: against closed forms and against every resample counted."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from maml_rl.intervals import (
    interquartile_mean,
    interquartile_mean_interval,
    mean_interval,
    mean_interval_over_seeds,
    written,
)


def test_the_interval_of_the_mean_is_scipys():
    values = np.random.default_rng(1).normal(3.0, 2.0, 40)
    reference = stats.bootstrap((values,), np.mean, method="percentile", rng=2, n_resamples=20_000)
    np.testing.assert_allclose(mean_interval(values), reference.confidence_interval, atol=0.03)


def test_leading_axes_are_kept():
    values = np.random.default_rng(1).normal(size=(3, 2, 10))
    ends = mean_interval(values)
    assert ends.shape == (3, 2, 2)
    np.testing.assert_array_equal(ends[1, 0], mean_interval(values[1, 0]))


def test_one_task_or_run_has_no_interval():
    assert np.isnan(mean_interval(np.ones((2, 1)))).all()
    assert np.isnan(interquartile_mean_interval(np.ones((1, 5)))).all()
    assert written(np.array([np.nan, np.nan])) == "–"
    assert written(np.array([-1.26, 2.0])) == "[-1.3, 2.0]"


def test_the_interquartile_mean_leaves_out_a_quarter_at_each_end():
    scores = np.array([[100.0, 1.0, 2.0, 3.0], [4.0, 5.0, 6.0, -100.0]])
    assert interquartile_mean(scores) == pytest.approx((2 + 3 + 4 + 5) / 4)


def test_the_stratified_bootstrap_resamples_runs_within_each_task():
    """Two runs, two tasks: all 16 resamples counted. Tasks are never exchanged for one another."""
    scores = np.array([[0.0, 10.0], [1.0, 14.0]])
    every = [
        stats.trim_mean([*scores[list(first), 0], *scores[list(second), 1]], 0.25)
        for first, second in itertools.product(itertools.product((0, 1), repeat=2), repeat=2)
    ]
    low, high = interquartile_mean_interval(scores)
    np.testing.assert_allclose([low, high], [min(every), max(every)])
    many = np.repeat(scores, 6, axis=1)
    narrow = interquartile_mean_interval(many)
    assert narrow[1] - narrow[0] < high - low


def test_runs_that_agree_leave_no_doubt():
    scores = np.tile(np.arange(8.0), (3, 1))
    np.testing.assert_allclose(interquartile_mean_interval(scores), 2 * [interquartile_mean(scores)])


T_2, T_3 = 12.7062, 4.3027  # 97.5 % quantiles of Student's t with 1 and 2 degrees of freedom, from a table


def test_the_interval_over_seeds_by_hand():
    ends = mean_interval_over_seeds(np.array([[1.0, 3.0], [5.0, 5.0]]))
    np.testing.assert_allclose(ends, [[2 - T_2, 2 + T_2], [5, 5]], rtol=1e-4)  # std sqrt(2), over sqrt(2)
    half = T_3 * np.sqrt(7) / np.sqrt(3)  # (4 + 1 + 9) / 2 = 7
    np.testing.assert_allclose(mean_interval_over_seeds(np.array([1.0, 2.0, 6.0])), [3 - half, 3 + half], rtol=1e-4)
