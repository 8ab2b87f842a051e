"""Simulations of one family with their tasks, shared by both Gymnasium environments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from maml_envs.engines.changes import DynamicsChange, before_and_after, has_change
from maml_envs.engines.engine import Engine, Task
from maml_envs.family import TaskFamily, sample_tasks, stack_tasks, unstack_tasks
from maml_envs.gym.imperfections import ActionDelay, ObservationNoise
from maml_envs.gym.seeding import task_generator


class _NamedState(dict[str, np.ndarray]):
    """State fields of a family; one that is missing is an error that says how to request it."""

    def __init__(self, state: Mapping[str, np.ndarray], family: str) -> None:
        super().__init__(state)
        self._family = family

    def __missing__(self, field: str) -> np.ndarray:
        raise ValueError(
            f"{self._family} uses the state field {field!r}, but its state has only "
            f"{', '.join(self)}; list others in its derived_fields"
        )


class Simulations:
    """``engine.num_sims`` simulations, their tasks, delayed actions and sensor noise.

    Args:
        family: the task family.
        engine: an engine of its robot.
    """

    def __init__(self, family: TaskFamily, engine: Engine) -> None:
        self.family = family
        self.engine = engine
        self.action_space = family.robot.action_space
        low = self.action_space.low
        high = self.action_space.high
        is_one_range = (low == low[0]).all() and (high == high[0]).all()
        # NumPy clips to scalars much faster than to arrays
        self._action_range = (low[0], high[0]) if is_one_range else (low, high)
        self.observation_space = spaces.Box(
            -np.inf, np.inf, (self._observation_size(),), np.float64
        )
        self._tasks: dict[str, np.ndarray] | None = None
        self._in_force: dict[str, np.ndarray] = {}
        """Parameters of the next control step, without those that describe a change."""
        self._change: DynamicsChange | None = None
        self._delay: ActionDelay | None = None
        self._noise: ObservationNoise | None = None
        self._before: Mapping[str, np.ndarray] | None = None
        """The state before the last control step; ``None`` after a reset."""
        self._is_reset = False

    def _observation_size(self) -> int:
        """Call the functions of the family, check their results, and return the observation size.

        Raises:
            ValueError: if a function returns the wrong type or shape; the message names it.
        """
        family: Any = self.family
        name = type(family).__name__
        state = _NamedState(self.engine.state, name)
        num_sims = self.engine.num_sims
        rng = np.random.default_rng(0)
        tasks = stack_tasks(family, sample_tasks(family, rng, num_sims))
        # initial state
        for field, value in family.initial_state(rng).items():
            if field not in state or np.shape(value) != state[field].shape[1:]:
                fits = {key: array.shape[1:] for key, array in state.items()}
                raise ValueError(
                    f"initial_state of {name}: {field!r} has shape {np.shape(value)}; state "
                    f"fields are {fits}"
                )
        # reward terms, termination and success
        action = np.zeros((num_sims, *self.action_space.shape))
        terms = family.reward_terms(np, state, state, action, tasks)
        if not isinstance(terms, Mapping):
            raise ValueError(
                f"reward_terms of {name} must be a mapping from names to arrays, got "
                f"{type(terms).__name__}"
            )
        results = {f"reward term {key!r}": term for key, term in terms.items()}
        results["terminated"] = family.terminated(np, state, tasks)
        if hasattr(family, "success"):
            results["success"] = family.success(np, state, tasks)
        for what, value in results.items():
            if np.shape(value) != (num_sims,):
                raise ValueError(
                    f"{what} of {name} has shape {np.shape(value)}, expected {(num_sims,)}"
                )
        # observation
        shape = np.shape(family.observation(np, state))
        if len(shape) != 2 or shape[0] != num_sims:
            raise ValueError(
                f"observation of {name} has shape {shape}, expected ({num_sims}, observation_size)"
            )
        return int(shape[1])

    @property
    def tasks(self) -> list[dict[str, float]] | None:
        """The task of each simulation; ``None`` before tasks are set."""
        return None if self._tasks is None else unstack_tasks(self._tasks, self.engine.num_sims)

    def set_tasks(self, tasks: Sequence[Task]) -> None:
        """Set the task of simulation i to ``tasks[i]``.

        Action delay and observation noise in force end at once; those of the tasks begin at the
        next reset, which starts the first episode of the tasks.

        Raises:
            ValueError: if a task is invalid for this family.
        """
        self._tasks = self._in_force = stack_tasks(self.family, tasks)
        # change of the dynamics
        self._change = None
        if has_change(self._tasks):
            self._change = DynamicsChange(self._tasks)
            self._in_force = self._change.in_force()
        # dynamics
        self.engine.set_dynamics(self._dynamics())
        # delay and noise
        self._delay = None
        if "action_delay" in self._in_force:
            delay = longest = self._in_force["action_delay"]
            if self._change is not None:
                longest = np.maximum(delay, self._change.after["action_delay"])
            self._delay = ActionDelay(delay, self.action_space.shape[0], int(longest.max()))
        self._noise = None
        if "observation_noise" in self._in_force:
            std = self._in_force["observation_noise"]
            self._noise = ObservationNoise(std, self.observation_space.shape[0])

    def _dynamics(self, ids: np.ndarray | slice = slice(None)) -> dict[str, np.ndarray]:
        """Parameters of the dynamics in force in simulations ``ids``."""
        parameters = self.family.robot.parameters
        return {name: values[ids] for name, values in self._in_force.items() if name in parameters}

    def _switch(self, change: DynamicsChange, ids: np.ndarray) -> None:
        """Set the values in force in simulations ``ids``, which have reached their change."""
        self._in_force = change.in_force()
        self.engine.set_dynamics(self._dynamics(ids), ids)
        if self._delay is not None:
            self._delay.change(ids, self._in_force["action_delay"][ids])
        if self._noise is not None:
            self._noise.change(ids, self._in_force["observation_noise"][ids])

    def _push(self, change: DynamicsChange, ids: np.ndarray) -> None:
        """Add to the root's velocity along x in those of the simulations ``ids`` to push now."""
        pushed, velocities = change.push(ids)
        if len(pushed):
            self.engine.state["qvel"][pushed, 0] += velocities
            self.engine.derive(pushed)

    @property
    def is_changed(self) -> np.ndarray:
        """Whether the changed values are in force in the next control step, (num_sims,) bool."""
        if self._change is None:
            return np.zeros(self.engine.num_sims, bool)
        return self._change.is_changed

    def before_and_after(self, task: Task) -> tuple[dict[str, float], dict[str, float]]:
        """Parameters of a task before and after its change, both with the same names.

        Raises:
            ValueError: if the task is invalid for this family.
        """
        before, after = before_and_after(stack_tasks(self.family, [task]), {})
        return unstack_tasks(before, 1)[0], unstack_tasks(after, 1)[0]

    def reset(
        self, ids: np.ndarray, rngs: Sequence[np.random.Generator], episode: int | None = None
    ) -> np.ndarray:
        """Start an episode in simulations ``ids``; return the observations of all simulations.

        Args:
            ids: indices of the simulations to start.
            rngs: one generator per simulation.
            episode: index of the episode in its task; ``None`` for the one after the last.

        Raises:
            ValueError: if ``episode`` is not a non-negative integer.
        """
        if episode is not None and not (isinstance(episode, (int, np.integer)) and episode >= 0):
            raise ValueError(f"episode must be a non-negative integer, got {episode!r}")
        # tasks, at the first reset
        if self._tasks is None:
            self.set_tasks([sample_tasks(self.family, task_generator(rng), 1)[0] for rng in rngs])
        # change of the dynamics
        if self._change is not None:
            switched = self._change.start(ids, episode)
            if len(switched):
                self._switch(self._change, switched)
        # initial states
        self._before = None
        self._is_reset = True
        initial = [self.family.initial_state(rngs[i]) for i in ids]
        self.engine.reset(
            ids, {name: np.stack([state[name] for state in initial]) for name in initial[0]}
        )
        if self._change is not None:
            self._push(self._change, ids)
        # delay and noise
        if self._delay is not None:
            self._delay.reset(ids)
        if self._noise is not None:
            self._noise.reset(ids, rngs)
        return self._observation()

    def step(
        self, actions: np.ndarray, live: np.ndarray
    ) -> tuple[np.ndarray, Mapping[str, np.ndarray], np.ndarray, np.ndarray]:
        """Advance simulations by one control step.

        Args:
            actions: (num_sims, action_size), clipped to the action space. The reward is computed
                from these actions, even if they are delayed.
            live: (num_sims,) bool, which simulations to advance.

        Returns:
            Observations (num_sims, observation_size); and, each (num_sims,), reward terms,
            terminated, and whether the simulation became unstable.
        """
        if not self._is_reset:
            raise gym.error.ResetNeeded("call reset() before step()")
        # physics
        all_live = np.count_nonzero(live) == len(live)
        actions = actions.clip(*self._action_range)
        state = self.engine.state
        before = self._before = {name: value.copy() for name, value in state.items()}
        applied = actions if self._delay is None else self._delay.delayed(actions)
        unstable = self.engine.step(None if all_live else np.flatnonzero(live), applied) & live
        # reward and termination
        terms = self.family.reward_terms(np, before, state, actions, self._in_force)
        if not all_live:
            terms = {name: np.where(live, term, 0.0) for name, term in terms.items()}
        terminated = live & ~unstable & self.family.terminated(np, state, self._in_force)
        # change of the dynamics, from the next control step on, and push
        if self._change is not None:
            continues = live & ~unstable & ~terminated
            switched = self._change.advance(continues)
            if len(switched):
                self._switch(self._change, switched)
                self.engine.derive(switched)
            self._push(self._change, np.flatnonzero(continues))
        # observation
        if self._noise is not None:
            self._noise.draw(np.flatnonzero(live))
        return self._observation(), terms, terminated, unstable

    def success(self) -> np.ndarray | None:
        """Success of each simulation, (num_sims,) bool; ``None`` if the family defines none."""
        if not hasattr(self.family, "success"):
            return None
        return self.family.success(np, self.engine.state, self._in_force)

    def caption(self) -> str:
        """The quantity that the family shows of the first simulation; empty if there is none."""
        if self._tasks is None or not hasattr(self.family, "shown_value"):
            return ""
        family: Any = self.family
        name, unit = family.shown_quantity
        state = self.engine.state
        value = float(family.shown_value(np, self._before or state, state, self._in_force)[0])
        return f"{name} {value:.2f} {unit}".strip()

    def _observation(self) -> np.ndarray:
        """Observations including noise, (num_sims, observation_size)."""
        observation = self.family.observation(np, self.engine.state)
        return observation if self._noise is None else self._noise.added_to(observation)
