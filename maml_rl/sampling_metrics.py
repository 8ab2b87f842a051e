"""What the episodes of a meta-iteration tell: docs/metrics.md has every name."""

from __future__ import annotations

import torch
from torch import Tensor

from maml_rl.inner import STEP_SIZE
from maml_rl.policies import Params


def sampling_metrics(returns: Tensor, lengths: Tensor, theta: Params) -> dict[str, float]:
    """From the returns and lengths of all episodes, each (T, K + 1, E)."""
    metrics = {f"train/return_after_{k}_steps": float(returns[:, k].nanmean()) for k in range(returns.shape[1])}
    metrics["train/episode_length"] = float(lengths.mean())
    learned = [value.flatten() for name, value in theta.items() if name.startswith(STEP_SIZE)]
    if learned:
        sizes = torch.cat(learned)
        metrics |= {"train/step_size_mean": float(sizes.mean())}
        metrics |= {"train/step_size_min": float(sizes.min()), "train/step_size_max": float(sizes.max())}
    if "log_std" in theta:
        metrics["train/policy_std"] = float(theta["log_std"].exp().mean())
    return metrics
