"""Which sub-environments a reset is for, and one random generator for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.utils import seeding


def seeded_generators(
    old: Sequence[np.random.Generator],
    seed: int | Sequence[int | None] | None,
    num_envs: int,
    np_random: np.random.Generator,
) -> list[np.random.Generator]:
    """Return the generators of the sub-environments after a reset; one without a seed continues.

    Args:
        old: the generators before, or empty.
        seed: that of sub-environment 0, one for each, or ``None``.
        num_envs: number of sub-environments.
        np_random: draws the seeds if there are neither generators nor seeds.

    Raises:
        ValueError: if the number of seeds is wrong.
    """
    # One seed per sub-environment.
    if isinstance(seed, (int, np.integer)):
        seeds: Sequence[int | None] = [int(seed) + i for i in range(num_envs)]
    elif seed is not None:
        seeds = list(seed)
    elif not old:
        seeds = [int(s) for s in np_random.integers(2**31, size=num_envs)]
    else:
        return list(old)
    if len(seeds) != num_envs:
        raise ValueError(f"expected {num_envs} seeds, one per sub-environment, got {len(seeds)}")
    # New generators, except where the seed is None and there is one.
    before: Sequence[np.random.Generator | None] = old or [None] * num_envs
    return [
        rng if s is None and rng is not None else seeding.np_random(s)[0]
        for s, rng in zip(seeds, before, strict=True)
    ]


def reset_mask(options: Mapping[str, Any], num_envs: int) -> np.ndarray:
    """Return which sub-environments a reset is for, (num_envs,) bool.

    Args:
        options: of the reset; without ``reset_mask``, all are reset.
        num_envs: number of sub-environments.

    Raises:
        ValueError: if ``reset_mask`` has another shape or type, or is false everywhere.
    """
    mask = np.asarray(options.get("reset_mask", np.ones(num_envs, bool)))
    if mask.shape != (num_envs,) or mask.dtype != bool or not mask.any():
        raise ValueError(
            f"reset_mask must be a bool array of shape ({num_envs},) with a True, got {mask!r}"
        )
    return mask
