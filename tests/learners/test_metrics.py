"""Metrics of an iteration's episodes."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.synthetic import make_episodes, make_policy, make_theta

from maml_rl.learners.metrics import SamplingMetrics, per_stage
from maml_rl.policies.parameters import make_stack
from maml_rl.system.distributed import Ranks


def test_means_are_over_the_valid_episodes_of_each_stage() -> None:
    policy = make_policy()
    stack = make_stack(make_theta(policy), 3)
    stages = [make_episodes(policy, stack, seed=seed) for seed in (0, 1)]
    sampling = SamplingMetrics(stages, Ranks())
    metrics = sampling.metrics()
    lengths = []
    for k, stage in enumerate(stages):
        returns, success = [], []
        for i in range(3):
            for e in range(3):
                lengths.append(int(stage.mask[i, e].sum()))
                if lengths[-1]:
                    returns.append(float(stage.rewards[i, e, : lengths[-1]].sum()))
                    success.append(float(stage.success[i, e]))
        assert len(returns) == 8  # one is discarded
        expected = sum(returns) / 8
        assert metrics[f"train/return_after_{k}_steps"] == pytest.approx(expected)
        assert metrics[f"train/success_after_{k}_steps"] == pytest.approx(sum(success) / 8)
    assert sampling.num_env_steps == sum(lengths)
    assert metrics["train/episode_length"] == pytest.approx(sum(lengths) / 18)


def test_a_stage_without_values_has_no_entry() -> None:
    values = torch.tensor([[[1.0, 3.0], [math.nan, math.nan]]])
    assert per_stage("name", values) == {"name_after_0_steps": 2.0}
