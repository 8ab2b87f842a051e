"""Episodes that were played elsewhere, on a robot say, in the form that adaptation takes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from maml_rl.errors import UserError
from maml_rl.policies.action_map import ActionMap, has_two_bounds
from maml_rl.policies.mlp import MLPPolicy, distribution
from maml_rl.policies.normalizer import ObservationNormalizer
from maml_rl.policies.parameters import Params
from maml_rl.policies.plain_network import gain_and_offset
from maml_rl.sampling.episodes import Episodes
from maml_rl.system.untrusted_files import read_npz
from maml_rl.system.user_paths import user_path

_ENDS = ("terminated", "truncated", "episode_ends")


@dataclass(frozen=True, kw_only=True)
class EpisodeLog:
    """N control steps of episodes one after the other, all of one task, played by the policy that is to adapt.

    Its actions must have been drawn (``predict`` as it is by default), since adaptation follows
    what chance has tried: the policy gradient asks how likely the policy was to act as it did.
    Episodes of another policy, or of the most probable actions, give a wrong gradient without any
    sign of it.

    An episode ends where any of ``terminated``, ``truncated`` and ``episode_ends`` is true; at
    least one of the three must be there. Steps after the last end belong to an episode whose return
    nobody knows, and are left out.
    """

    observations: Any
    """(N, observation_size): what each action was chosen by, not normalised."""
    actions: Any
    """(N, action_size), or (N,) where discrete, as the environment took them."""
    rewards: Any
    """(N,): of each action."""
    terminated: Any = None
    """(N,) bool: the episode ended with this step."""
    truncated: Any = None
    """(N,) bool: the episode was cut after this step."""
    episode_ends: Any = None
    """(N,) bool: either of the two."""

    @classmethod
    def load(cls, path: str | Path) -> EpisodeLog:
        """A log from a ``.npz`` file that holds an array for each field (``np.savez(path, observations=..., ...)``).

        Raises:
            UserError: it cannot be read, or is larger than a log (see
                :func:`maml_rl.system.untrusted_files.read_npz`); or as :meth:`of`.
        """
        return cls.of(read_npz(user_path(path)))

    @classmethod
    def of(cls, given: Any) -> EpisodeLog:
        """A log from a mapping, or the log itself.

        Raises:
            UserError: it is neither, or has other keys.
        """
        if isinstance(given, EpisodeLog):
            return given
        names = [field.name for field in dataclasses.fields(cls)]
        if not isinstance(given, Mapping):
            raise UserError(
                f"episodes must be a mapping or EpisodeLog of {', '.join(names)}; got "
                f"{type(given).__name__}"
            )
        wrong = [str(key) for key in given if key not in names] or [
            name for name in names[:3] if name not in given
        ]
        if wrong:
            kind = "unknown" if wrong[0] not in names else "missing"
            raise UserError(
                f"episodes have {kind} {', '.join(wrong)}; valid are {', '.join(names)}"
            )
        return cls(**given)


def to_episodes(
    log: EpisodeLog,
    policy: MLPPolicy,
    stack: Params,
    normalizer: ObservationNormalizer | None,
    action_map: ActionMap,
) -> Episodes:
    """The complete episodes of a log as one task's, as if the policy had been collecting.

    Outputs of the policy are told from actions by inverting the action map. What an output beyond
    the bounds was,
    clipping has taken away: there the bound stands for it.

    Args:
        log: what was played.
        policy: the architecture.
        stack: the parameters that played it, each (1, ...).
        normalizer: of observations.
        action_map: from the policy's outputs to actions.

    Raises:
        UserError: arrays that do not fit each other or the spaces, numbers that are none, or no
            complete episode.
    """
    like = next(iter(stack.values()))
    ends = _ends(log)
    size = len(ends)
    observations = _numbers(log.observations, "observations", (size, policy.observation_size))
    rewards = _numbers(log.rewards, "rewards", (size,))
    outputs = _outputs(log.actions, size, action_map)
    last = np.flatnonzero(ends)
    if len(last) == 0:
        raise UserError(f"none of the {size} steps of episodes is an end: no episode is complete")
    lengths = np.diff(last, prepend=-1)
    mask = torch.from_numpy(np.arange(lengths.max()) < lengths[:, None])

    def padded(values: Tensor, dtype: torch.dtype) -> Tensor:  # (N, ...) to (1, E, H, ...)
        out = torch.zeros(*mask.shape, *values.shape[1:], dtype=dtype)
        out[mask] = values[: last[-1] + 1].to(dtype)  # episodes stand one after the other in both
        return out[None].to(like.device)

    seen = torch.from_numpy(observations).to(like)
    seen = padded((seen if normalizer is None else normalizer.normalize(seen)).cpu(), like.dtype)
    actions = padded(outputs, torch.int64 if policy.discrete else like.dtype)
    dist = distribution(policy, stack, seen.flatten(1, 2))
    shape = (1, *mask.shape)
    return Episodes(
        observations=seen,
        actions=actions,
        rewards=padded(torch.from_numpy(rewards), like.dtype),
        mask=mask.to(like)[None],
        distribution=tuple(dist),
        log_probs=dist.log_prob(actions.flatten(1, 2)).reshape(shape),
        void=torch.zeros(shape[:2], dtype=torch.bool, device=like.device),
        success=torch.full(shape[:2], torch.nan, device=like.device),
        advantages=torch.zeros(shape, dtype=like.dtype, device=like.device),
    )


def _ends(log: EpisodeLog) -> np.ndarray:
    """Whether an episode ends with a step, (N,) bool."""
    given = {name: _truths(getattr(log, name)) for name in _ENDS if getattr(log, name) is not None}
    if not given:
        raise UserError(f"episodes need one of {', '.join(_ENDS)}: where an episode ends")
    shapes = {values.shape for values in given.values()}
    for name, values in given.items():
        if values.ndim != 1 or len(shapes) > 1 or values.dtype != bool:
            raise UserError(
                f"{name} of episodes must be (N,) bool (or 0 and 1), got {values.shape} "
                f"{values.dtype}"
            )
    return np.logical_or.reduce(list(given.values()))


def _truths(given: Any) -> np.ndarray:
    """Zeros and ones, as a log may write them, for what they mean; anything else as it is."""
    values = np.asarray(given)
    is_number = values.dtype.kind in "iuf"
    return values.astype(bool) if is_number and np.isin(values, (0, 1)).all() else values


def _numbers(given: Any, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A finite array of the wanted shape, float64."""
    try:
        values = np.asarray(given, np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(f"{name} of episodes are no array of numbers: {error}") from error
    if values.shape != shape:
        raise UserError(f"{name} of episodes must have shape {shape}, got {values.shape}")
    if not np.isfinite(values).all():
        raise UserError(
            f"{name} of episodes are not finite at step "
            f"{int(np.argwhere(~np.isfinite(values))[0][0])}"
        )
    return values


def _outputs(given: Any, size: int, action_map: ActionMap) -> Tensor:
    """The policy's outputs from the environment's actions, (N, action_size) float64 or (N,)."""
    space = action_map.space
    if isinstance(space, spaces.Discrete):
        choices = _numbers(given, "actions", (size,))
        wrong = (choices != choices.round()) | (choices < 0) | (choices >= space.n)
    else:
        assert isinstance(space, spaces.Box), "a policy has Box or Discrete actions"
        choices = _numbers(given, "actions", (size, *space.shape))
        # Bounds may have been rounded on their way through a log.
        low, high = space.low.astype(np.float64), space.high.astype(np.float64)
        slack = 1e-4 * np.where(has_two_bounds(space), high - low, 1.0)
        wrong = ((choices < low - slack) | (choices > high + slack)).any(-1)
    if wrong.any():
        step = int(wrong.argmax())
        raise UserError(
            f"the action of step {step} of episodes, {choices[step]}, is none of {space}"
        )
    actions = torch.from_numpy(choices)
    if isinstance(space, spaces.Discrete):
        return actions
    gain, offset = gain_and_offset(action_map)
    return (actions - offset) / gain
