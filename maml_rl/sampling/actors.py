"""Sample actions of a stack of policies while episodes are collected."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from maml_rl.policies.mlp import MLPPolicy, distribution
from maml_rl.policies.normalizer import ObservationNormalizer
from maml_rl.policies.parameters import Params

Act = Callable[[np.ndarray, int], np.ndarray]
"""(observations (T·E, observation_size), step t) -> actions (T·E, ...)."""

_IN_PLACE: dict[str, Callable[[np.ndarray], object]] = {
    "tanh": lambda x: np.tanh(x, out=x),
    "relu": lambda x: np.maximum(x, 0, out=x),
}


def actor(
    policy: nn.Module, stack: Params, noise: Tensor, normalizer: ObservationNormalizer | None
) -> Act:
    """A function that samples the actions of one round of episodes.

    Args:
        policy: the architecture.
        stack: parameters, each (T, ...).
        noise: standard noise, (H, T, E, ...).
        normalizer: of observations.

    Returns:
        A function of the observations at step t, which must be finite, and t.
    """
    on_cpu = noise.device.type == "cpu"
    if (
        on_cpu
        and isinstance(policy, MLPPolicy)
        and not policy.discrete
        and policy.nonlinearity in _IN_PLACE
    ):
        return _numpy_actor(policy, stack, noise, normalizer)
    return _torch_actor(policy, stack, noise, normalizer)


def _numpy_actor(
    policy: MLPPolicy, stack: Params, noise: Tensor, normalizer: ObservationNormalizer | None
) -> Act:
    """For Gaussian MLPs on a CPU.

    Physics steps evict the CPU caches. The time of a small operation then depends on how much code
    it runs, and NumPy runs much less than torch.
    """
    # Weights as NumPy arrays.
    num_tasks, num_episodes = noise.shape[1:3]
    *hidden, (head, head_bias) = [
        (weight.detach(), bias.detach()) for weight, bias in policy.layers(stack)
    ]
    layers = [(weight.numpy(), bias.numpy()) for weight, bias in hidden]
    last = head.numpy()
    # Noise of all steps, with the last bias. Unlike NumPy, torch does not warn about overflow.
    scaled_noise = (policy.log_std_of(stack).detach().exp() * noise + head_bias).numpy()
    activate = _IN_PLACE[policy.nonlinearity]
    if normalizer is not None:
        mean, std = (value.to(noise).numpy() for value in (normalizer.mean, normalizer.std))

    def act(observations: np.ndarray, t: int) -> np.ndarray:
        x = observations.reshape(num_tasks, num_episodes, -1)
        if normalizer is not None:
            x = (x - mean) / std
        for weight, bias in layers:
            x = x @ weight
            x += bias
            activate(x)
        x = x @ last
        x += scaled_noise[t]
        return x.reshape(len(observations), -1)

    return act


def _torch_actor(
    policy: nn.Module, stack: Params, noise: Tensor, normalizer: ObservationNormalizer | None
) -> Act:
    """For any policy and device; on a GPU, observations and actions are copied once per step."""
    num_tasks, num_episodes = noise.shape[1:3]

    def act(observations: np.ndarray, t: int) -> np.ndarray:
        x = (
            torch.from_numpy(observations)
            .to(noise.device, non_blocking=True)
            .view(num_tasks, num_episodes, -1)
        )
        x = x if normalizer is None else normalizer.normalize(x)
        return distribution(policy, stack, x).sample(noise[t]).flatten(0, 1).cpu().numpy()

    return act
