"""Make the vector environment that collection needs from any environment that Gymnasium can make."""

from __future__ import annotations

import contextlib
import difflib
import functools
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from maml_rl.errors import UserError
from maml_rl.protocols import Task, TaskVectorEnv

Vectorization = Literal["sync", "async"]


@dataclass(frozen=True, kw_only=True)
class EnvConfig:
    """The environment."""

    name: str = "HalfCheetahVel"
    """A task family, an id registered with Gymnasium, or module:EnvId-v0."""
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    """Its arguments."""
    vectorization: Vectorization = "sync"
    """How an environment without a batch engine is run: in this process, or in one worker process per task."""
    observe_task: bool = False
    """Append the task's values to every observation: for an oracle, a policy that is told the task."""

    def side_by_side(self, num_episodes: int) -> int:
        """Episodes of one task that are played at the same time: all, or one where each takes a process."""
        return num_episodes if self.vectorization == "sync" else 1


def resolve_env_id(name: str) -> str:
    """The registered id that ``name`` stands for.

    Args:
        name: a family of ours (``HalfCheetahVel``), a registered id (``Pendulum-v1``), or ``module:EnvId-v0``, whose
            module is imported first.

    Raises:
        UserError: nothing of that name is registered, or its module cannot be imported.
    """
    if ":" in name:
        module, _, name_in_module = name.partition(":")
        try:
            importlib.import_module(module)
        except Exception as error:  # whatever the user's code raises
            problem = f"{type(error).__name__}: {error}"
            raise UserError(f"environment {name!r}: module {module!r} cannot be imported ({problem})") from error
        name = name_in_module
    family_id = f"maml_rl/{name}-v0"
    if family_id in gym.registry:
        return family_id
    if name in gym.registry:
        return name
    families = [key.removeprefix("maml_rl/").removesuffix("-v0") for key in gym.registry if key.startswith("maml_rl/")]
    close = difflib.get_close_matches(name, [*families, *gym.registry], n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise UserError(
        f"unknown environment {name!r}.{hint} Valid are our families ({', '.join(families)}), any id that Gymnasium "
        "has registered, and module:EnvId-v0."
    )


def make_task_vector_env(config: EnvConfig, num_envs: int, horizon: int) -> TaskVectorEnv:
    """``num_envs`` sub-environments, truncated at ``horizon`` steps, each on a task of its own.

    An environment that registers a vector environment with tasks is used as it is. Any other one is run under
    Gymnasium's Sync or Async vector environment; see :class:`GymTaskVectorEnv`. With ``config.observe_task`` it is
    seen through a :class:`TaskObserver`.

    Raises:
        UserError: unknown environment, arguments that it refuses, spaces that policies cannot handle, or tasks that
            cannot be observed.
    """
    name, kwargs = config.name, config.kwargs
    env_id = resolve_env_id(name)
    try:
        env: Any = _own_vector_env(env_id, kwargs, num_envs, horizon)
        if env is None:
            # A worker process may have to import the module that registers the id, so the name goes there whole.
            gym_name = name if ":" in name else env_id
            make = functools.partial(gym.make, gym_name, max_episode_steps=horizon, **kwargs)
            env = GymTaskVectorEnv.of(make, num_envs, config.vectorization)
    except (TypeError, ValueError, ImportError, gym.error.Error) as error:
        raise UserError(f"environment {name!r} could not be made with {dict(kwargs)}: {error}") from error
    space = env.single_observation_space
    if not (isinstance(space, spaces.Box) and len(space.shape) == 1):
        env.close()
        raise UserError(f"observation space {space} of {name!r} is not supported: expected a one-dimensional Box")
    if not config.observe_task:
        return env
    try:
        return TaskObserver(env, name)
    except UserError:
        env.close()
        raise


def _own_vector_env(env_id: str, kwargs: Mapping[str, Any], num_envs: int, horizon: int) -> VectorEnv | None:
    """The vector environment that an id registers, if it has tasks, takes a horizon, and leaves resets to us."""
    if gym.spec(env_id).vector_entry_point is None:
        return None
    try:
        env = gym.make_vec(env_id, num_envs=num_envs, max_episode_steps=horizon, **kwargs)
    except TypeError:  # arguments that it does not take; where they are wrong, the single environment says so
        return None
    if hasattr(env, "sample_tasks") and env.metadata.get("autoreset_mode") is AutoresetMode.DISABLED:
        return env
    env.close()
    return None


@contextlib.contextmanager
def as_task_vector_env(
    env: gym.Env | VectorEnv | str | None, config: EnvConfig, num_envs: int, horizon: int
) -> Iterator[TaskVectorEnv]:
    """Whatever a user has at hand, as what collection needs.

    Args:
        env: an environment or vector environment, which stays open, or what ``--env`` takes, made with the arguments
            of ``config`` if it is the same one, and closed at the end. ``None`` stands for ``config`` itself.
        config: the environment that a policy was trained on.
        num_envs: sub-environments to make.
        horizon: longest episode.

    Raises:
        UserError: the environment cannot be used.
    """
    if isinstance(env, gym.Env):
        single = SyncVectorEnv([lambda: TaskSetter(env)], autoreset_mode=AutoresetMode.DISABLED)
        yield GymTaskVectorEnv(single, None, takes_tasks=True)
    elif isinstance(env, VectorEnv):
        if env.metadata.get("autoreset_mode") is not AutoresetMode.DISABLED:
            raise UserError(f"{env} must be made with autoreset_mode=AutoresetMode.DISABLED")
        with_tasks: Any = env if hasattr(env, "set_tasks") else GymTaskVectorEnv(env, None)
        yield with_tasks
    else:
        same = env is None or resolve_env_id(env) == resolve_env_id(config.name)
        wanted = config if same or env is None else EnvConfig(name=env)
        made = make_task_vector_env(wanted, num_envs, horizon)
        try:
            yield made
        finally:
            made.close()


class TaskObserver:
    """Shows the task: its values follow every observation, in the alphabetical order of their names.

    They are appended as they are, in their own units. Where they are far from 1, ``policy.normalize_observations``
    brings them to the scale of the others.

    Args:
        env: with one-dimensional Box observations.
        name: what the user calls it.

    Raises:
        UserError: the environment draws no tasks, or a task holds something other than numbers.
    """

    def __init__(self, env: TaskVectorEnv, name: str) -> None:
        space = env.single_observation_space
        assert isinstance(space, spaces.Box), "make_task_vector_env refuses other spaces"
        self._env = env
        self._name = name
        self.num_envs = env.num_envs
        self.single_action_space = env.single_action_space
        generator, env.np_random = env.np_random, np.random.default_rng(0)
        (task,) = env.sample_tasks(1)
        env.np_random = generator
        if not task:
            raise UserError(f"env.observe_task: {name!r} draws no tasks, so there is none to observe")
        self._names = sorted(task)
        self._numbers(task)
        self._values: np.ndarray | None = None
        self._dtype = np.result_type(space.dtype, np.float32)
        unbounded = np.full(len(self._names), np.inf)
        self.single_observation_space: spaces.Space = spaces.Box(
            np.concatenate([space.low, -unbounded]).astype(self._dtype),
            np.concatenate([space.high, unbounded]).astype(self._dtype),
            dtype=self._dtype.type,
        )

    def _numbers(self, task: Task) -> list[float]:
        try:
            if set(task) != set(self._names):
                raise KeyError
            return [float(task[name]) for name in self._names]
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"env.observe_task: a task of {self._name!r} must hold one number for each of {self._names}, "
                f"got {dict(task)!r:.200}"
            ) from error

    @property
    def np_random(self) -> np.random.Generator:
        """What tasks are drawn with."""
        return self._env.np_random

    @np_random.setter
    def np_random(self, generator: np.random.Generator) -> None:
        self._env.np_random = generator

    def sample_tasks(self, num_tasks: int) -> Sequence[Task]:
        """Draw tasks with ``self.np_random``."""
        return self._env.sample_tasks(num_tasks)

    def set_tasks(self, tasks: Sequence[Task]) -> None:
        """Give sub-environment i the task ``tasks[i]``, and show it from the next observation on.

        Raises:
            UserError: a task does not hold the numbers that are shown.
        """
        values = np.array([self._numbers(task) for task in tasks], self._dtype)
        self._env.set_tasks(tasks)
        self._values = values

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start episodes; tasks must have been set before.

        Raises:
            UserError: they have not.
        """
        if self._values is None or any(name in (options or {}) for name in ("task", "tasks")):
            raise UserError(f"env.observe_task: {self._name!r} must be given its tasks by set_tasks before a reset")
        observation, info = self._env.reset(seed=seed, options=options)
        return self._with_task(observation), info

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step every unfinished sub-environment."""
        observation, *rest = self._env.step(actions)
        return self._with_task(observation), *rest

    def _with_task(self, observation: np.ndarray) -> np.ndarray:
        assert self._values is not None, "reset comes first, and asks for them"
        return np.concatenate([observation, self._values], axis=1, dtype=self._dtype)

    def close(self) -> None:
        """Close the environment."""
        self._env.close()


class TaskSetter(gym.Wrapper):
    """Gives a single environment the task assigned to ``assigned_task``, at its next reset at the latest."""

    _task: Task | None = None

    @property
    def assigned_task(self) -> Task | None:
        """The task in force."""
        return self._task

    @assigned_task.setter
    def assigned_task(self, task: Task) -> None:
        self._task = task
        if task and hasattr(self.unwrapped, "set_task"):
            self.unwrapped.set_task(task)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset; a task that the environment takes by ``options`` goes there."""
        if self._task and not hasattr(self.unwrapped, "set_task"):
            options = {**(options or {}), "task": self._task}
        return super().reset(seed=seed, options=options)


class GymTaskVectorEnv:
    """Single environments under Gymnasium's Sync or Async vector environment, one task each.

    Tasks come from ``sample_tasks(n)`` of the environment, and reach it by its ``set_task(task)`` or by
    ``reset(options={"task": task})``. An environment without ``sample_tasks`` is a family of one task.

    Gymnasium's vector environments always step every sub-environment: finished ones are reset and their steps
    thrown away.

    Args:
        envs: with autoreset disabled.
        sampler: a single environment that draws tasks, or ``None`` where none are drawn.
        takes_tasks: whether every sub-environment is a :class:`TaskSetter`.
    """

    def __init__(self, envs: VectorEnv, sampler: gym.Env | None, takes_tasks: bool = False) -> None:
        self.envs: Any = envs
        self.num_envs = envs.num_envs
        self.single_observation_space = envs.single_observation_space
        self.single_action_space = envs.single_action_space
        self.np_random = np.random.default_rng()
        self._sampler = sampler
        self._takes_tasks = takes_tasks
        self._observation: Any = None
        self._terminated, self._truncated, self._to_reset = np.zeros((3, self.num_envs), bool)

    @classmethod
    def of(cls, make: Callable[[], gym.Env], num_envs: int, vectorization: Vectorization) -> GymTaskVectorEnv:
        """``num_envs`` environments from ``make``, in this process or in one worker process each."""
        functions = [functools.partial(_make_with_task_setter, make)] * num_envs
        vector_class = SyncVectorEnv if vectorization == "sync" else AsyncVectorEnv
        return cls(vector_class(functions, autoreset_mode=AutoresetMode.DISABLED), make(), takes_tasks=True)

    def sample_tasks(self, num_tasks: int) -> list[Task]:
        """Draw tasks with ``self.np_random``; empty mappings from an environment without tasks."""
        if self._sampler is None or not hasattr(self._sampler.unwrapped, "sample_tasks"):
            return [{} for _ in range(num_tasks)]
        self._sampler.unwrapped.np_random = self.np_random
        return list(self._sampler.unwrapped.sample_tasks(num_tasks))

    def set_tasks(self, tasks: Sequence[Task]) -> None:
        """Give sub-environment i the task ``tasks[i]``; empty mappings leave it alone.

        Raises:
            UserError: the sub-environments have no way to take a task.
        """
        if any(tasks):
            if not self._takes_tasks:
                raise UserError(f"{self.envs} takes no tasks: set them before you hand it over, and give none here")
            self.envs.set_attr("assigned_task", list(tasks))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode in every sub-environment, or in those of ``options["reset_mask"]``; i gets ``seed + i``."""
        mask = np.asarray((options or {}).get("reset_mask", np.ones(self.num_envs, bool)))
        observation, info = self.envs.reset(seed=seed, options=None if options is None else dict(options))
        self._observation = observation if mask.all() else np.where(mask[:, None], observation, self._observation)
        self._terminated, self._truncated = self._terminated & ~mask, self._truncated & ~mask
        self._to_reset = self._to_reset & ~mask
        return self._observation.copy(), info

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step every unfinished sub-environment."""
        if self._to_reset.any():
            self.envs.reset(options={"reset_mask": self._to_reset})
        live = ~(self._terminated | self._truncated)
        observation, reward, terminated, truncated, info = self.envs.step(actions)
        self._to_reset = terminated | truncated
        self._observation = np.where(live[:, None], observation, self._observation)
        self._terminated = np.where(live, terminated, self._terminated)
        self._truncated = np.where(live, truncated, self._truncated)
        info = {**info, "void": live & info.get("void", False)}
        return self._observation.copy(), np.where(live, reward, 0.0), self._terminated, self._truncated, info

    def close(self) -> None:
        """Close every sub-environment and the sampler."""
        self.envs.close()
        if self._sampler is not None:
            self._sampler.close()


def _make_with_task_setter(make: Callable[[], gym.Env]) -> TaskSetter:
    return TaskSetter(make())
