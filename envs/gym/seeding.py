"""Which sub-environments a reset is for, and one random generator for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.utils import seeding

_TASK_KEY = 2**31
"""Not the number of a child of ``Generator.spawn``."""


def seeded_generators(
    old: Sequence[np.random.Generator],
    seed: int | Sequence[int | None] | None,
    mask: np.ndarray,
    np_random: np.random.Generator,
) -> list[np.random.Generator]:
    """Return the generators of the sub-environments after a reset.

    One that is not reset, or has no seed, continues.

    Args:
        old: the generators before, or empty.
        seed: that of sub-environment 0, one for each, or ``None``.
        mask: which sub-environments are reset, (num_envs,) bool.
        np_random: draws the seeds if there are neither generators nor seeds.

    Raises:
        ValueError: if the number of seeds is wrong.
    """
    # One seed per sub-environment.
    num_envs = len(mask)
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
    # New generators, except where there is one that continues.
    before: Sequence[np.random.Generator | None] = old or [None] * num_envs
    return [
        rng if rng is not None and (s is None or not is_reset) else seeding.np_random(s)[0]
        for s, rng, is_reset in zip(seeds, before, mask, strict=True)
    ]


def task_generator(rng: np.random.Generator) -> np.random.Generator:
    """Return a generator for the first task, with the seed of ``rng``, which stays as it is.

    So initial states do not depend on whether the task was drawn.
    """
    parent: Any = rng.bit_generator.seed_seq
    spawn_key = (*parent.spawn_key, _TASK_KEY)
    return np.random.default_rng(np.random.SeedSequence(parent.entropy, spawn_key=spawn_key))


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
