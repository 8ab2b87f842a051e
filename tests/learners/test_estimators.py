"""Meta-gradients against the truth, on a problem small enough to enumerate every trajectory.

Two states, two actions, three steps, random transitions. With every trajectory in the batch,
weighted by its probability, expectations are exact, so the truth is J(theta + α ∇J(theta)); its
gradient follows by finite differences of J computed by backward induction. What is left is what the
Hessian of an inner surrogate gets wrong.
"""

from __future__ import annotations

import pytest
import torch
from helpers.enumeration import (
    error,
    meta_gradient,
)


@pytest.mark.parametrize("horizon", [1, 2, 3])
@pytest.mark.parametrize("with_baseline", [False, True])
def test_dice_is_the_truth(horizon: int, with_baseline: bool) -> None:
    assert error("dice", horizon, with_baseline=with_baseline) < 1e-8


def test_likelihood_ratio_is_the_truth_at_horizon_one_and_biased_beyond() -> None:
    assert error("likelihood_ratio", 1) < 1e-8
    assert error("likelihood_ratio", 3) > 1e-3


@pytest.mark.parametrize("horizon", [1, 3])
def test_log_probability_is_biased_and_more_so(horizon: int) -> None:
    assert error("log_prob", horizon) > 2 * error("likelihood_ratio", horizon) + 1e-3


def test_first_order_is_further_from_the_truth_than_dice_and_shared_by_all_surrogates() -> None:
    gradients = [
        meta_gradient(name, 3, 0.8, first_order=True)
        for name in ("log_prob", "likelihood_ratio", "dice")
    ]
    for other in gradients[1:]:
        torch.testing.assert_close(gradients[0], other, rtol=1e-12, atol=1e-14)
    assert error("dice", 3, first_order=True) > 1e-2
