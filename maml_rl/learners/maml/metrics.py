"""Metrics of the episodes of a meta-iteration; docs/metrics.md explains every name."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from maml_rl.learners.maml.inner_step import STEP_SIZE
from maml_rl.policies.parameters import Params
from maml_rl.sampling.episodes import success_of_all


def per_stage(name: str, values: Tensor) -> dict[str, float]:
    """The mean over the episodes of each stage; a stage without values has no entry.

    Args:
        name: of the metric.
        values: (T, K + 1, E), NaN for no value.
    """
    means = [float(values[:, k].nanmean()) for k in range(values.shape[1])]
    return {f"{name}_after_{k}_steps": mean for k, mean in enumerate(means) if not math.isnan(mean)}


def sampling_metrics(
    returns: Tensor, success: Tensor, lengths: Tensor, theta: Params
) -> dict[str, float]:
    """Metrics of all episodes, and of theta: learned step sizes and the policy's deviation.

    Args:
        returns: of each episode, (T, K + 1, E).
        success: its report of success, (T, K + 1, E); NaN for none.
        lengths: its number of real steps, (T, K + 1, E).
        theta: the meta-parameters after the outer step.
    """
    metrics = per_stage("train/return", returns)
    metrics |= per_stage("train/success", success_of_all(success, returns))
    metrics["train/episode_length"] = float(lengths.mean())
    learned = [value.flatten() for name, value in theta.items() if name.startswith(STEP_SIZE)]
    if learned:
        sizes = torch.cat(learned)
        metrics |= {
            "train/step_size_mean": float(sizes.mean()),
            "train/step_size_min": float(sizes.min()),
            "train/step_size_max": float(sizes.max()),
        }
    if "log_std" in theta:
        metrics["train/policy_std"] = float(theta["log_std"].exp().mean())
    return metrics
