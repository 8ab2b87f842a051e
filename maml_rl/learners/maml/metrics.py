"""What the episodes of a meta-iteration tell: docs/metrics.md has every name."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from maml_rl.learners.maml.inner_step import STEP_SIZE
from maml_rl.policies.parameters import Params
from maml_rl.sampling.episodes import success_of_all


def per_stage(name: str, values: Tensor) -> dict[str, float]:
    """The mean of what all episodes of a stage have, (T, K + 1, E), for each stage; none where nothing is known."""
    means = [float(values[:, k].nanmean()) for k in range(values.shape[1])]
    return {f"{name}_after_{k}_steps": mean for k, mean in enumerate(means) if not math.isnan(mean)}


def sampling_metrics(
    returns: Tensor, success: Tensor, lengths: Tensor, theta: Params
) -> dict[str, float]:
    """From the returns, reports of success and lengths of all episodes, each (T, K + 1, E)."""
    metrics = per_stage("train/return", returns)
    metrics |= per_stage("train/success", success_of_all(success, returns))
    metrics["train/episode_length"] = float(lengths.mean())
    learned = [value.flatten() for name, value in theta.items() if name.startswith(STEP_SIZE)]
    if learned:
        sizes = torch.cat(learned)
        metrics |= {"train/step_size_mean": float(sizes.mean())}
        metrics |= {
            "train/step_size_min": float(sizes.min()),
            "train/step_size_max": float(sizes.max()),
        }
    if "log_std" in theta:
        metrics["train/policy_std"] = float(theta["log_std"].exp().mean())
    return metrics
