"""Logged episodes, for example of a robot, as input of adaptation."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from maml_rl.errors import MamlRLWarning, UserError
from maml_rl.policies.action_map import ActionMap, has_two_bounds
from maml_rl.policies.plain_network import invertible_gain_and_offset
from maml_rl.sampling.actors import Actor
from maml_rl.sampling.episodes import Episodes, zero_masked
from maml_rl.settings.config import Config
from maml_rl.settings.learners import episodes_per_stage
from maml_rl.system.untrusted_files import read_npz, user_path

_MANY_AT_BOUNDS = 0.1
"""A larger share of actions at a bound changes the adaptation noticeably."""
_ENDS = ("terminated", "truncated", "episode_ends")


@dataclass(frozen=True, kw_only=True)
class EpisodeLog:
    """N control steps of consecutive episodes on one task.

    For MAML, the agent that will adapt must have played them, with sampled actions (the default of
    ``predict``), because the policy gradient uses their probabilities. Episodes of another agent,
    or with the most probable actions, give a wrong gradient; where the actions show it, adaptation
    warns. RL² remembers any episodes, in their order; PEARL infers the task from any transitions.

    An episode ends where any of ``terminated``, ``truncated`` and ``episode_ends`` is true; at
    least one of the three is required. Steps after the last end are ignored, since the return of
    their episode is unknown.
    """

    observations: Any
    """(N, *observation_shape): raw observation from which each action was chosen."""
    actions: Any
    """(N, action_size), or (N,) if discrete: of ``predict``, before any delay or filter."""
    rewards: Any
    """(N,): reward of each action."""
    terminated: Any = None
    """(N,) bool: whether the episode terminated with this step."""
    truncated: Any = None
    """(N,) bool: whether the episode was truncated after this step."""
    episode_ends: Any = None
    """(N,) bool: whether the episode ended with this step, for either reason."""

    @classmethod
    def load(cls, path: str | Path) -> EpisodeLog:
        """Load a log from a ``.npz`` file with an array for each field.

        ``np.savez(path, observations=..., actions=..., ...)`` writes one.

        Raises:
            UserError: if the file cannot be read or is too large; or as :meth:`of`.
        """
        return cls.of(read_npz(user_path(path)))

    @classmethod
    def of(cls, log: Any) -> EpisodeLog:
        """Return a log from a mapping of its fields, or the log itself.

        Raises:
            UserError: if it is neither, or if keys are unknown or missing.
        """
        if isinstance(log, EpisodeLog):
            return log
        names = [field.name for field in dataclasses.fields(cls)]
        if not isinstance(log, Mapping):
            raise UserError(
                f"episodes must be a mapping or EpisodeLog of {', '.join(names)}; got "
                f"{type(log).__name__}"
            )
        unknown = [str(key) for key in log if key not in names]
        missing = [name for name in names[:3] if name not in log]
        for problem, keys in (("unknown", unknown), ("missing", missing)):
            if keys:
                raise UserError(
                    f"episodes have {problem} {', '.join(keys)}; valid are {', '.join(names)}"
                )
        return cls(**log)


class LoggedEpisodes(NamedTuple):
    """E complete episodes of a log, checked; N steps in all."""

    lengths: np.ndarray
    """(E,): number of steps of each."""
    observations: Tensor
    """(N, *observation_shape), raw, float64."""
    outputs: Tensor
    """(N, ...), float64: the actor's outputs, recovered by inverting the action map. A clipped
    action gives the output at the bound."""
    rewards: Tensor
    """(N,), float64."""
    is_discrete: bool
    """Whether outputs are choices."""
    at_bounds: float
    """Share of the entries of actions that are at a bound; 0 if discrete."""

    @classmethod
    def of(
        cls, log: EpisodeLog, observation_shape: tuple[int, ...], action_map: ActionMap
    ) -> LoggedEpisodes:
        """Check a log.

        Args:
            log: the log.
            observation_shape: of one observation.
            action_map: from the actor's outputs to actions.

        Raises:
            UserError: if arrays do not fit each other or the spaces, a value is not finite, or no
                episode is complete.
        """
        ends = _ends(log)
        size = len(ends)
        observations = _finite_array(log.observations, "observations", (size, *observation_shape))
        rewards = _finite_array(log.rewards, "rewards", (size,))
        outputs = _outputs(log.actions, size, action_map)
        last = np.flatnonzero(ends)
        if len(last) == 0:
            raise UserError(f"none of the {size} steps ends an episode: no episode is complete")
        num_steps = last[-1] + 1
        return cls(
            lengths=np.diff(last, prepend=-1),
            observations=torch.from_numpy(observations)[:num_steps],
            outputs=outputs[:num_steps],
            rewards=torch.from_numpy(rewards)[:num_steps],
            is_discrete=isinstance(action_map.space, spaces.Discrete),
            at_bounds=_share_at_bounds(np.asarray(log.actions)[:num_steps], action_map.space),
        )

    def parts(self, num_episodes: int) -> Iterator[LoggedEpisodes]:
        """Yield ``num_episodes`` after ``num_episodes`` of them; it divides E."""
        ends = np.cumsum(self.lengths)
        for first in range(0, len(self.lengths), num_episodes):
            start = ends[first] - self.lengths[first]
            steps = slice(start, ends[first + num_episodes - 1])
            yield self._replace(
                lengths=self.lengths[first : first + num_episodes],
                observations=self.observations[steps],
                outputs=self.outputs[steps],
                rewards=self.rewards[steps],
            )


def logged_stages(
    logs: Any, config: Config, observation_shape: tuple[int, ...], action_map: ActionMap
) -> list[LoggedEpisodes]:
    """Return the episodes of each stage; warn if they are too long, or many actions were clipped.

    Args:
        logs: a sequence of logs, each an :class:`EpisodeLog` or a mapping of its fields.
        config: settings of the agent.
        observation_shape: of the agent.
        action_map: of the agent.

    Raises:
        UserError: if they are something else or invalid, or the agent cannot learn from logs.
    """
    latent_size = config.policy.latent_size
    if latent_size > 0:
        raise UserError(
            f"episodes cannot be used with policy.latent_size {latent_size}: a log does not have "
            "the latent variable of each episode. Adapt in an environment"
        )
    if not isinstance(logs, Sequence) or len(logs) == 0:
        raise UserError(
            f"episodes must be a log, or a sequence of logs, one per adaptation step; got "
            f"{logs!r:.100}"
        )
    logged = [LoggedEpisodes.of(EpisodeLog.of(log), observation_shape, action_map) for log in logs]
    longest = max(int(log.lengths.max()) for log in logged)
    if longest > config.horizon:
        warnings.warn(
            f"the longest logged episode has {longest} control steps, but in training episodes "
            f"had at most {config.horizon}: does the log mark where its episodes end?",
            MamlRLWarning,
            stacklevel=2,
        )
    if not config.learner.OUTPUTS_ARE_BOUNDED:
        _warn_of_clipped_actions(logged)
    return [
        part
        for episodes in logged
        for part in episodes.parts(episodes_per_stage(config.learner, len(episodes.lengths)))
    ]


def _warn_of_clipped_actions(logs: Sequence[LoggedEpisodes]) -> None:
    """Warn if many logged actions are at a bound, since the actor's outputs are unknown there."""
    share = np.average([log.at_bounds for log in logs], weights=[len(log.rewards) for log in logs])
    if share > _MANY_AT_BOUNDS:
        warnings.warn(
            f"{share:.0%} of the logged actions are at a bound of the action space. Where an "
            "action was clipped, the policy's output is unknown and replaced by the bound, so the "
            "adaptation differs from one in an environment (docs/logged_episodes.md). A "
            "smaller policy.action_scale in training avoids it",
            MamlRLWarning,
            stacklevel=2,
        )


def warn_unless_sampled(episodes: Episodes) -> None:
    """Warn if logged actions are not as the Gaussian policy of an agent samples them.

    Over steps and dimensions, the median of abs(a − μ) / σ is 0.67 for sampled actions, and 0 for
    the most probable ones.

    Args:
        episodes: of :func:`to_episodes`, with the parameters of a Gaussian.
    """
    mean, log_std = episodes.distribution
    z = (episodes.flat(episodes.actions) - mean) * torch.exp(-log_std)
    median = float(z[episodes.flat(episodes.mask) > 0].abs().median())
    if median < 0.05:
        problem = (
            "the logged actions are the most probable ones of this agent's policy, as of "
            "predict(..., deterministic=True)"
        )
    elif median > 3:
        problem = (
            "the median distance of the logged actions from the most probable ones of this agent's "
            f"policy is {median:.3g} standard deviations; that of sampled actions is 0.67. Another "
            "policy played them, or this one after other adaptation steps"
        )
    else:
        return
    warnings.warn(
        f"{problem}. The policy gradient needs sampled actions: log those of predict(observation) "
        "of the agent that adapts (docs/logged_episodes.md)",
        MamlRLWarning,
        stacklevel=2,
    )


def to_episodes(logged: LoggedEpisodes, actor: Actor, device: torch.device) -> Episodes:
    """Convert logged episodes to episodes as the collector returns them.

    Args:
        logged: the episodes.
        actor: of the agent that played them, for one task.
        device: of the episodes.

    Returns:
        E episodes of one task, padded to the length H of the longest; axes (1, E, H, ...).
    """
    mask = torch.from_numpy(np.arange(logged.lengths.max()) < logged.lengths[:, None])

    def padded(values: Tensor, dtype: torch.dtype) -> Tensor:  # (N, ...) to (1, E, H, ...)
        out = torch.zeros(*mask.shape, *values.shape[1:], dtype=dtype)
        out[mask] = values.to(dtype)  # row by row: episode by episode
        return out[None].to(device)

    # The policy's inputs, outputs and their probabilities.
    is_real = mask.to(device, torch.float32)[None]
    inputs = actor.inputs(padded(logged.observations, torch.float32))
    zero_masked(inputs, is_real)
    actions = padded(logged.outputs, torch.int64 if logged.is_discrete else torch.float32)
    log_probs, dist = actor.densities(inputs, actions)
    shape = (1, *mask.shape)
    return Episodes(
        observations=inputs,
        actions=actions,
        rewards=padded(logged.rewards, torch.float32),
        mask=is_real,
        distribution=dist,
        log_probs=log_probs,
        cause=torch.zeros(shape[:2], dtype=torch.int8, device=device),
        success=torch.full(shape[:2], torch.nan, device=device),
        terminated=torch.zeros(shape[:2], device=device),
        last_observations=torch.full(
            (*shape[:2], *logged.observations.shape[1:]), torch.nan, device=device
        ),
        advantages=torch.zeros(shape, device=device),
        inner_advantages=torch.zeros(shape, device=device),
    )


def _ends(log: EpisodeLog) -> np.ndarray:
    """Return whether an episode ends with each step, (N,) bool."""
    flags = {
        name: _flags(getattr(log, name), name) for name in _ENDS if getattr(log, name) is not None
    }
    if not flags:
        raise UserError(f"episodes need one of {', '.join(_ENDS)} to mark where they end")
    sizes = {name: len(values) for name, values in flags.items()}
    if len(set(sizes.values())) > 1:
        raise UserError(f"{' and '.join(sizes)} of episodes must have equal lengths, got {sizes}")
    return np.logical_or.reduce(list(flags.values()))


def _flags(flags: Any, name: str) -> np.ndarray:
    """Return flags (N,) bool, of Booleans or numbers 0 and 1."""
    try:
        values = np.asarray(flags)
    except (TypeError, ValueError) as error:  # a tensor on a GPU, lists of different lengths
        raise UserError(f"{name} of episodes are not an array of Booleans: {error}") from error
    if values.dtype.kind in "iuf" and np.isin(values, (0, 1)).all():
        values = values.astype(bool)
    if values.ndim != 1 or values.dtype != bool:
        raise UserError(
            f"{name} of episodes must be (N,) bool (or 0 and 1), got {values.shape} {values.dtype}"
        )
    return values


def _finite_array(array: Any, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return a float64 array after checking its shape, and that it is finite as float32."""
    try:
        values = np.asarray(array)
    except (TypeError, ValueError) as error:
        raise UserError(f"{name} of episodes are not an array of numbers: {error}") from error
    if values.dtype.kind not in "biuf" or np.ma.is_masked(array):
        what = "masked values" if np.ma.is_masked(array) else values.dtype
        raise UserError(f"{name} of episodes must be an array of numbers, got {what}")
    values = values.astype(np.float64)
    if values.shape != shape:
        raise UserError(f"{name} of episodes must have shape {shape}, got {values.shape}")
    with np.errstate(over="ignore"):
        is_finite = np.isfinite(values.astype(np.float32))
    if not is_finite.all():
        raise UserError(
            f"{name} of episodes are not finite at step {int(np.argwhere(~is_finite)[0][0])}"
        )
    return values


def _share_at_bounds(actions: np.ndarray, space: spaces.Space[Any]) -> float:
    """Share of the entries of actions that are at a bound, (N, *space.shape) to a number."""
    if not isinstance(space, spaces.Box):
        return 0.0
    low, high, slack = _bounds(space)
    return float(((actions <= low + slack) | (actions >= high - slack)).mean())


def _bounds(space: spaces.Box) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Low, high, and how far an action at a bound may be from it: a log may have rounded it."""
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    return low, high, 1e-4 * np.where(has_two_bounds(space), high - low, 1.0)


def _outputs(actions: Any, size: int, action_map: ActionMap) -> Tensor:
    """Invert the action map: outputs (N, action_size), or (N,) if discrete, in float64."""
    space = action_map.space
    if isinstance(space, spaces.Discrete):
        values = _finite_array(actions, "actions", (size,))
        is_invalid = (values != values.round()) | (values < 0) | (values >= space.n)
    else:
        assert isinstance(space, spaces.Box), "a policy has Box or Discrete actions"
        values = _finite_array(actions, "actions", (size, *space.shape))
        low, high, slack = _bounds(space)
        is_invalid = ((values < low - slack) | (values > high + slack)).any(-1)
    if is_invalid.any():
        step = int(is_invalid.argmax())
        raise UserError(f"the action of step {step} of episodes, {values[step]}, is not in {space}")
    outputs = torch.from_numpy(values)
    if isinstance(space, spaces.Discrete):
        return outputs
    gain, offset = invertible_gain_and_offset(action_map)
    return (outputs - offset) / gain
