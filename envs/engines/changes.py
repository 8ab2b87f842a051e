"""Dynamics that change within a task: in the middle of an episode, or between two episodes.

| parameter | meaning | unit | nominal |
| --- | --- | --- | --- |
| `changed/NAME` | value of the parameter NAME after the change | that of NAME | NAME's value |
| `change_episode` | index of the episode in which the change comes | | 0 |
| `change_step` | index of the first control step with the changed values | control steps | 0 |
| `push_velocity` | velocity along +x that the root gains at that step | m/s | 0 |

A change is undone only by a new task, or by a reset to an earlier episode of the task. Episodes
with a smaller index than `change_episode` have the values before the change, those with a larger
one have the changed values from their start. If the episode `change_episode` ends before
`change_step`, the change comes with the start of the next one.

A push needs no changed value. It comes at step `change_step` of the episode `change_episode` only;
if that episode ends before, there is none. (If the time limit ends it at that step, its last
observation includes the push.) Robots without a root that can move along x, such as the
reacher, have no push.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TypeVar

import numpy as np
from maml_envs.engines.dynamics import Parameter

CHANGED = "changed/"
"""Prefix of the parameters with the values after the change."""

CHANGE_TIMES: Mapping[str, Parameter] = {
    "change_episode": Parameter("", 0, 100_000, 0, is_integer=True),
    "change_step": Parameter("control steps", 0, 100_000, 0, is_integer=True),
}
"""Parameters that say when the dynamics change."""

PUSH = "push_velocity"
"""Parameter with the velocity that the root gains at the change."""

Value = TypeVar("Value")


def with_changes(dynamics: Mapping[str, Parameter], *, has_push: bool) -> dict[str, Parameter]:
    """Return the parameters ``dynamics``, followed by those that describe their change.

    Args:
        dynamics: parameters by name.
        has_push: whether the robot can be pushed.
    """
    changed = {f"{CHANGED}{name}": parameter for name, parameter in dynamics.items()}
    push = {PUSH: Parameter("m/s", -100.0, 100.0, 0.0)} if has_push else {}
    return {**dynamics, **CHANGE_TIMES, **push, **changed}


def lacks_change(names: Collection[str]) -> bool:
    """Whether parameters say when something changes, but not what."""
    return bool(CHANGE_TIMES.keys() & set(names)) and not _says_what_changes(names)


def has_change(names: Collection[str]) -> bool:
    """Whether a task with parameters ``names`` describes a change.

    Raises:
        ValueError: if it says when something changes, but not what.
    """
    if lacks_change(names):
        times = [name for name in CHANGE_TIMES if name in names]
        raise ValueError(
            f"{' and '.join(times)} without a changed value: add one such as {CHANGED}body_mass "
            f"(or {PUSH}, if the root can move along x)"
        )
    return _says_what_changes(names)


def _says_what_changes(names: Collection[str]) -> bool:
    return PUSH in names or any(name.startswith(CHANGED) for name in names)


def before_and_after(
    task: Mapping[str, Value], nominal: Mapping[str, Value]
) -> tuple[dict[str, Value], dict[str, Value]]:
    """Return the parameters of a task before and after its change, both with the same names.

    Args:
        task: values by name; those that describe the change are not returned.
        nominal: values of parameters of the dynamics that ``task`` changes but does not set.
    """
    changed = {
        name.removeprefix(CHANGED): value
        for name, value in task.items()
        if name.startswith(CHANGED)
    }
    before = {
        name: value
        for name, value in task.items()
        if name not in CHANGE_TIMES and name != PUSH and not name.startswith(CHANGED)
    }
    before |= {name: nominal[name] for name in changed if name not in before}
    return before, before | changed


def change_time(task: Mapping[str, float], nominal: Mapping[str, float]) -> tuple[int, int] | None:
    """Return the episode and the control step of a task's change; ``None`` if nothing changes.

    Args:
        task: values by name.
        nominal: see :func:`before_and_after`.
    """
    before, after = before_and_after(task, nominal)
    if before == after and not task.get(PUSH):
        return None
    return int(task.get("change_episode", 0)), int(task.get("change_step", 0))


class DynamicsChange:
    """The change of each simulation: whether it has come, and the values in force.

    Args:
        tasks: parameters by name, each (num_sims,); with NAME, if they have ``changed/NAME``.
    """

    def __init__(self, tasks: Mapping[str, np.ndarray]) -> None:
        self.before, self.after = before_and_after(tasks, {})
        num_sims = len(next(iter(tasks.values())))
        never = np.zeros(num_sims)
        self._change_episode = tasks.get("change_episode", never)
        self._change_step = tasks.get("change_step", never)
        self._push = tasks.get(PUSH, never)
        differs = [self.before[name] != self.after[name] for name in self.before]
        self._is_different = np.any(differs, axis=0) if differs else np.zeros(num_sims, bool)
        self._episode = np.full(num_sims, -1)
        self._num_steps = np.zeros(num_sims, int)
        self.is_changed = np.zeros(num_sims, bool)
        """Whether the changed values are in force, (num_sims,)."""

    def start(self, ids: np.ndarray, episode: int | None) -> np.ndarray:
        """Start an episode in simulations ``ids``; return those whose values in force differ now.

        Args:
            ids: indices of simulations.
            episode: index of the episode; ``None`` for the one after the last.
        """
        self._episode[ids] = self._episode[ids] + 1 if episode is None else episode
        self._num_steps[ids] = 0
        return self._switched()

    def advance(self, live: np.ndarray) -> np.ndarray:
        """Count a control step of the simulations ``live``, (num_sims,) bool; return as above."""
        self._num_steps += live
        return self._switched()

    def _switched(self) -> np.ndarray:
        """Update :attr:`is_changed`; return the simulations in which it differs."""
        in_episode = self._episode == self._change_episode
        has_come = in_episode & (self._num_steps >= self._change_step)
        has_come |= self._episode > self._change_episode
        has_come &= self._is_different
        switched = np.flatnonzero(has_come != self.is_changed)
        self.is_changed = has_come
        return switched

    def push(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return which of the simulations ``ids`` are pushed now, and by which velocity (m/s)."""
        is_now = self._episode[ids] == self._change_episode[ids]
        is_now &= self._num_steps[ids] == self._change_step[ids]
        pushed = ids[is_now & (self._push[ids] != 0)]
        return pushed, self._push[pushed]

    def in_force(self) -> dict[str, np.ndarray]:
        """Parameters of the next control step by name, each (num_sims,)."""
        return {
            name: np.where(self.is_changed, self.after[name], value)
            for name, value in self.before.items()
        }
