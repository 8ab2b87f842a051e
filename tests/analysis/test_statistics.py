"""Intervals: against closed forms and SciPy, and that they hold the mean as often as they say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from maml_rl.analysis.comparison.entries import Entry
from maml_rl.analysis.evaluation import Evaluation
from maml_rl.analysis.statistics import (
    difference,
    interval_text,
    is_log_spaced,
    mean_interval,
)

# 97.5 % quantiles of Student's t with 1 and 2 degrees of freedom, from a table
T_2, T_3 = 12.7062, 4.3027


def test_the_interval_of_the_mean_by_hand():
    ends = mean_interval(np.array([[1.0, 3.0], [5.0, 5.0]]))
    # The standard deviation is sqrt(2), over sqrt(2).
    np.testing.assert_allclose(ends, [[2 - T_2, 2 + T_2], [5, 5]], rtol=1e-4)
    half = T_3 * np.sqrt(7) / np.sqrt(3)  # (4 + 1 + 9) / 2 = 7
    ends = mean_interval(np.array([1.0, 2.0, 6.0]))
    np.testing.assert_allclose(ends, [3 - half, 3 + half], rtol=1e-4)


def test_the_interval_of_the_mean_is_scipys():
    values = np.random.default_rng(1).normal(3.0, 2.0, 40)
    expected = stats.ttest_1samp(values, 0).confidence_interval()
    np.testing.assert_allclose(mean_interval(values), expected)


def test_leading_axes_are_kept():
    values = np.random.default_rng(1).normal(size=(3, 2, 10))
    ends = mean_interval(values)
    assert ends.shape == (3, 2, 2)
    np.testing.assert_array_equal(ends[1, 0], mean_interval(values[1, 0]))


def test_one_value_has_no_interval():
    assert np.isnan(mean_interval(np.ones((2, 1)))).all()
    assert interval_text(np.array([np.nan, np.nan])) == "–"
    assert interval_text(np.array([-1.26, 2.0])) == "[-1.3, 2.0]"


# --- coverage ---


def simulated(rng: np.random.Generator, num_runs: int, task_effects: np.ndarray) -> Entry:
    """Runs of a method whose mean is 0 on these tasks: a run's effect is the same on all tasks."""
    num_tasks = len(task_effects)
    run_effects = rng.normal(0.0, 1.0, (num_runs, 1))
    noise = rng.normal(0.0, 0.5, (num_runs, num_tasks))
    returns = run_effects + task_effects - task_effects.mean() + noise
    nothing = np.full((1, num_tasks, 1), np.nan)
    evaluations = [Evaluation([{}] * num_tasks, row[None, :, None], nothing, {}) for row in returns]
    return Entry("method", (Path("run"),) * num_runs, tuple(evaluations), {})


@pytest.mark.parametrize("num_runs", [2, 3, 5, 10])
def test_the_interval_over_runs_holds_the_mean_of_the_method(num_runs):
    rng = np.random.default_rng(num_runs)
    hits = []
    for _ in range(400):
        (low, high), *_ = simulated(rng, num_runs, rng.normal(0.0, 3.0, 40)).interval
        hits.append(low <= 0 <= high)
    assert 0.92 < np.mean(hits) < 0.98  # 0.95 with a standard error of 0.011


@pytest.mark.parametrize("num_tasks", [3, 6, 10, 40])
def test_the_interval_over_tasks_holds_the_mean_over_all_tasks(num_tasks):
    low, high = mean_interval(np.random.default_rng(0).normal(size=(2000, num_tasks))).T
    assert 0.935 < np.mean((low <= 0) & (high >= 0)) < 0.965  # standard error 0.005


@pytest.mark.slow
@pytest.mark.parametrize(("num_first", "num_second"), [(2, 2), (3, 5), (5, 5), (10, 5)])
def test_the_interval_of_a_difference_over_runs_holds_it(num_first, num_second):
    """Effects of runs are six times as large in one method, and effects of tasks cancel."""
    rng = np.random.default_rng(0)
    hits = []
    for _ in range(2000):
        tasks = rng.normal(0.0, 9.0, 8)
        first = rng.normal(0.0, 3.0, (num_first, 1)) + tasks
        second = rng.normal(0.0, 0.5, (num_second, 1)) + tasks
        low, high = difference(first, second).interval
        hits.append(low <= 0 <= high)
    assert 0.935 < np.mean(hits) < 0.97


# --- differences ---


def test_a_difference_over_runs_is_welchs():
    rng = np.random.default_rng(3)
    first, second = rng.normal(1.0, 2.0, (4, 7)), rng.normal(0.0, 0.3, (6, 7))
    found = difference(first, second)
    runs = first.mean(axis=1), second.mean(axis=1)
    assert found.over == "runs"
    assert found.mean == pytest.approx(first.mean() - second.mean())
    expected = stats.ttest_ind(*runs, equal_var=False).confidence_interval()
    np.testing.assert_allclose(found.interval, expected)


def test_a_difference_of_two_runs_is_paired_over_tasks():
    rng = np.random.default_rng(4)
    first, second = rng.normal(size=(1, 9)), rng.normal(size=(1, 9))
    found = difference(first, second)
    assert found.over == "tasks"
    expected = stats.ttest_rel(first[0], second[0]).confidence_interval()
    np.testing.assert_allclose(found.interval, expected)


def test_a_single_run_is_one_policy_to_which_several_runs_are_compared():
    """Over tasks alone the difference would leave out that the several runs differ."""
    rng = np.random.default_rng(4)
    first, second = rng.normal(size=(3, 9)) + 5 * rng.normal(size=(3, 1)), rng.normal(size=(1, 9))
    found, reverse = difference(first, second), difference(second, first)
    assert found.over == reverse.over == "runs"
    expected = stats.ttest_1samp(first.mean(axis=1), second.mean()).confidence_interval()
    np.testing.assert_allclose(found.interval, np.array(expected) - second.mean())
    np.testing.assert_allclose(reverse.interval, -found.interval[::-1])


def test_the_probability_of_improvement_counts_pairs_of_runs_within_each_task():
    first = np.array([[1.0, 10.0], [3.0, 10.0]])
    second = np.array([[2.0, 10.0], [0.0, 11.0], [3.0, 0.0]])
    # Task 0: 1 wins over 0; 3 wins over 2 and 0, and ties with 3.
    # Task 1: each 10 ties, loses and wins.
    expected = ((1 + 2.5) / 6 + (0.5 + 0 + 1) / 3) / 2
    assert difference(first, second).probability == pytest.approx(expected)
    assert difference(second, first).probability == pytest.approx(1 - expected)


def test_runs_that_agree_differ_by_exactly_so_much():
    scores = np.tile(np.arange(4.0), (3, 1))
    np.testing.assert_array_equal(difference(scores + 2, scores).interval, [2, 2])


def test_a_difference_is_of_the_tasks_that_failed_nowhere():
    rng = np.random.default_rng(5)
    first, second = rng.normal(size=(2, 6)), rng.normal(size=(2, 6))
    first[1, 2], second[0, 4] = np.nan, np.nan
    kept = [0, 1, 3, 5]
    found, expected = difference(first, second), difference(first[:, kept], second[:, kept])
    assert (found.mean, found.probability) == (expected.mean, expected.probability)
    np.testing.assert_array_equal(found.interval, expected.interval)
    none = difference(first, np.full((1, 6), np.nan))
    assert np.isnan([none.mean, *none.interval, none.probability]).all()


# --- spacing ---


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.25, 0.397, 0.63, 1.0, 1.59, 2.52, 4.0], True),
        ([0.9, 0.949, 1.0, 1.05, 1.11], True),
        ([1.0, 2.0, 4.0], True),
        ([1.0, 2.0, 3.0], False),
        ([9.0, 9.5, 10.0, 10.5], False),  # close to each other
        ([0.9, 1.0, 1.1], False),
        ([0.0, 1.0, 2.0], False),
        ([1.0, 2.0], False),
    ],
)
def test_values_that_are_evenly_spaced_are_not_log_spaced(values, expected):
    assert is_log_spaced(values) is expected
