"""Simulations of one task family, each on a task of its own: what the single and the vector environment share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from maml_envs.family import Engine, Task, TaskFamily, sample_tasks, stack_tasks, task_parameters, unstack_tasks
from maml_envs.imperfections import ActionDelay, ObservationNoise


class Simulations:
    """``engine.num_sims`` simulations, their tasks, and what delays commands and disturbs sensors.

    Args:
        family: the task family.
        engine: that simulates its body.
    """

    def __init__(self, family: TaskFamily, engine: Engine) -> None:
        self.family = family
        self.engine = engine
        size = family.observation(np, engine.state).shape[-1]
        self.observation_space = spaces.Box(-np.inf, np.inf, (size,), np.float64)
        self.action_space = family.body.action_space
        self._tasks: dict[str, np.ndarray] | None = None
        self._delay: ActionDelay | None = None
        self._noise: ObservationNoise | None = None

    @property
    def tasks(self) -> list[dict[str, float]] | None:
        """The task of each simulation; ``None`` before the first is set."""
        return None if self._tasks is None else unstack_tasks(self._tasks, self.engine.num_sims)

    @property
    def task_units(self) -> dict[str, str]:
        """Unit of each parameter that a task may hold, empty for a pure number."""
        return {name: parameter.unit for name, parameter in task_parameters(self.family).items()}

    def set_tasks(self, tasks: Sequence[Task]) -> None:
        """Give simulation i the task ``tasks[i]``, body included. Delay and noise begin at the next reset.

        Raises:
            ValueError: a task that is none of this family.
        """
        self._tasks = stack_tasks(self.family, tasks)
        parameters = self.family.body.parameters
        self.engine.set_dynamics({name: values for name, values in self._tasks.items() if name in parameters})
        delay, noise = self._tasks.get("action_delay"), self._tasks.get("observation_noise")
        self._delay = None if delay is None else ActionDelay(delay, self.action_space.shape[0])
        self._noise = None if noise is None else ObservationNoise(noise, self.observation_space.shape[0])

    def reset(self, ids: np.ndarray, rngs: Sequence[np.random.Generator]) -> np.ndarray:
        """Start an episode in simulations ``ids``; returns the observations of all.

        Args:
            ids: which to start.
            rngs: a generator per simulation, of those in ``ids`` and of the others.
        """
        if self._tasks is None:
            self.set_tasks([sample_tasks(self.family, rng, 1)[0] for rng in rngs])
        initial = [self.family.initial_state(rngs[i]) for i in ids]
        self.engine.reset(ids, {name: np.stack([state[name] for state in initial]) for name in initial[0]})
        if self._delay is not None:
            self._delay.reset(ids)
        if self._noise is not None:
            self._noise.reset(ids, rngs)
        return self._observation()

    def step(
        self, actions: np.ndarray, live: np.ndarray
    ) -> tuple[np.ndarray, Mapping[str, np.ndarray], np.ndarray, np.ndarray]:
        """Advance the simulations in ``live`` (num_sims,) bool by one control step.

        Args:
            actions: (num_sims, action_size), clipped to the action space. The reward is that of the actions given,
                also where they arrive late.
            live: which to advance.

        Returns:
            Observations (num_sims, observation_size), reward terms, terminated, and void, each (num_sims,).
        """
        if self._tasks is None:
            raise gym.error.ResetNeeded("call reset() before step()")
        all_live = bool(live.all())
        actions = np.clip(actions, self.action_space.low, self.action_space.high)
        state = self.engine.state
        before = {name: value.copy() for name, value in state.items()}
        arriving = actions if self._delay is None else self._delay.delayed(actions)
        void = self.engine.step(None if all_live else np.flatnonzero(live), arriving) & live
        terms = self.family.reward_terms(np, before, state, actions, self._tasks)
        if not all_live:
            terms = {name: np.where(live, term, 0.0) for name, term in terms.items()}
        terminated = live & ~void & self.family.terminated(np, state, self._tasks)
        if self._noise is not None:
            self._noise.draw(np.flatnonzero(live))
        return self._observation(), terms, terminated, void

    def _observation(self) -> np.ndarray:
        """What the sensors show, (num_sims, observation_size)."""
        observation = self.family.observation(np, self.engine.state)
        return observation if self._noise is None else self._noise.added_to(observation)
