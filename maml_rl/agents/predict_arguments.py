"""Check the arguments of ``Agent.predict``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from maml_rl.errors import UserError
from maml_rl.sampling.actors import Memory


def checked_observations(observation: Any, shape: tuple[int, ...]) -> tuple[np.ndarray, bool]:
    """Return observations (N, *shape) float32, and whether it was a single one.

    Args:
        observation: one (*shape), or N of them.
        shape: of one observation.

    Raises:
        UserError: if it is something else, or not finite.
    """
    if isinstance(observation, tuple) and observation and isinstance(observation[-1], dict):
        raise UserError(
            "expected an observation, got what reset returns: an observation and a dict (info)"
        )
    if isinstance(observation, (Mapping, tuple)):
        raise UserError(
            f"expected an array of observations {shape} or (N, ...), got a "
            f"{type(observation).__name__}: flatten it as in training, by "
            "gymnasium.spaces.flatten(env.observation_space, observation)"
        )
    try:
        array = np.asarray(observation)
    except (ValueError, TypeError) as error:  # lists of different lengths, a tensor on a GPU
        raise UserError(f"the observation is not an array of numbers: {error}") from error
    if array.dtype.kind not in "biuf":
        raise UserError(f"expected observations of numbers, got {array.dtype}")
    is_single = array.shape == shape
    batch = array[None] if is_single else array
    if batch.shape[1:] != shape or batch.ndim != len(shape) + 1:
        sizes = ", ".join(map(str, shape))
        raise UserError(
            f"expected observations of shape {shape} or (N, {sizes}), got {array.shape}"
        )
    with np.errstate(over="ignore"):
        values = batch.astype(np.float32)
    is_finite = np.isfinite(values).all(axis=tuple(range(1, batch.ndim)))
    if not is_finite.all():
        raise UserError(f"the observation is not finite: {batch[~is_finite][0]}")
    return values, is_single


def checked_flags(flags: Any, number: int, name: str) -> np.ndarray:
    """Return flags, one for each observation, (N,) bool.

    Args:
        flags: (N,), a single value, or ``None`` for false.
        number: N.
        name: of the argument, for messages.

    Raises:
        UserError: if it is something else.
    """
    if flags is None:
        return np.zeros(number, bool)
    values = _one_each(flags, number, "biu")
    if values is None or (values.astype(bool) != values).any():
        raise UserError(
            f"{name} must be {number} Booleans, one for each observation, got {flags!r:.100}"
        )
    return values.astype(bool)


def checked_rewards(reward: Any, number: int) -> np.ndarray:
    """Return rewards (N,).

    Args:
        reward: (N,), or a single number.
        number: N.

    Raises:
        UserError: if it is something else, or not finite.
    """
    rewards = _one_each(reward, number, "biuf")
    with np.errstate(over="ignore"):  # agents compute in float32
        if rewards is None or not np.isfinite(rewards.astype(np.float32)).all():
            raise UserError(
                f"reward must be {number} finite numbers, one for each observation, "
                f"got {reward!r:.100}"
            )
    return rewards.astype(np.float64)


def _one_each(values: Any, number: int, kinds: str) -> np.ndarray | None:
    """Return values (N,), or ``None`` if they are not an array (N,) or () of these kinds."""
    try:
        array = np.asarray(values)
    except (TypeError, ValueError):  # a tensor on a GPU, lists of different lengths
        return None
    is_valid = array.dtype.kind in kinds and array.shape in ((), (number,))
    return np.broadcast_to(array, number) if is_valid else None


def checked_memory(state: Any, fresh: Memory, starts: np.ndarray) -> Memory:
    """Return ``state`` if it is a memory.

    Args:
        state: what the last call of ``predict`` returned.
        fresh: the memory with which an episode begins, each (N, ...).
        starts: where an episode starts, (N,) bool.

    Raises:
        UserError: if it is something else.
    """
    number = len(starts)
    is_memory = (
        isinstance(state, tuple)
        and len(state) == len(fresh) > 0
        and all(_is_memory(part, number) for part in state)
    )
    if is_memory and starts.any():
        is_memory = all(old.shape == new.shape for old, new in zip(state, fresh, strict=True))
    if not is_memory:
        is_tuple = isinstance(state, tuple) and any(isinstance(part, np.ndarray) for part in state)
        shapes = [getattr(part, "shape", None) for part in state] if is_tuple else []
        got = f"arrays of shapes {shapes}" if is_tuple else repr(state)
        raise UserError(
            f"state must be None or what the last call of predict returned for {number} "
            f"observations, got {got:.100}"
        )
    return state


def continued_memory(memory: Memory, fresh: Memory, starts: np.ndarray) -> Memory:
    """Return what the agent remembers, begun again where an episode starts.

    Args:
        memory: of the last step, each (N, ...).
        fresh: the memory with which an episode begins, each (N, ...).
        starts: where an episode starts, (N,) bool.
    """
    if not starts.any():
        return memory
    return tuple(
        np.where(starts.reshape(-1, *[1] * (old.ndim - 1)), new, old)
        for new, old in zip(fresh, memory, strict=True)
    )


def _is_memory(part: Any, number: int) -> bool:
    """Whether ``part`` of a memory is an array of numbers (N, ...)."""
    return (
        isinstance(part, np.ndarray) and part.shape[:1] == (number,) and part.dtype.kind in "biufc"
    )
