"""Make the vector environment that collection needs from any environment that Gymnasium can make."""

from __future__ import annotations

import contextlib
import copy
import functools
import gc
import importlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.wrappers.vector import FlattenObservation

from maml_rl.errors import UserError, did_you_mean, in_one_line
from maml_rl.sampling.single_env import (
    TaskSetter,
    check_arguments,
    close_env,
    make_task_setter,
    seed_global_generators,
    truth_value,
)
from maml_rl.sampling.task_in_observation import TaskObserver
from maml_rl.sampling.task_vector_env import Task, TaskVectorEnv
from maml_rl.settings.drawn_tasks import DrawnTasks
from maml_rl.settings.drawn_tasks import parse as parse_tasks
from maml_rl.settings.ranges import check_ranges
from maml_rl.system.safe_yaml import plain_values

Vectorization = Literal["sync", "async"]

_log = logging.getLogger("maml_rl")


@dataclass(frozen=True, kw_only=True)
class EnvConfig:
    """The environment."""

    name: str = "HalfCheetahVel"
    """A task family, an id registered with Gymnasium, or module:EnvId-v0."""
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    """Its arguments: --env.ARG VALUE gives one, --env.kwargs.ARG VALUE one that is called like a setting."""
    vectorization: Vectorization = "sync"
    """How an environment without a batch engine is run: in this process, or in one worker process per task."""
    observe_task: bool = False
    """Append the task's values to every observation: for an oracle, a policy that is told the task."""
    kwarg_ranges: Mapping[str, Any] = field(default_factory=dict)
    """Tasks as arguments, over kwargs: {g: [5, 15]}, {g: {low: 5, high: 15, log: true}} or {g: {choices: [5, 9]}}."""
    task_list: tuple[Mapping[str, Any], ...] = ()
    """The tasks to draw from: [{goal: 1}, {goal: 2}]; for set_task, or arguments of the constructor."""

    def __post_init__(self) -> None:
        check_ranges(self, "env.")
        if not (isinstance(self.kwargs, Mapping) and all(isinstance(name, str) for name in self.kwargs)):
            raise ValueError(f"env.kwargs must be a mapping from names to values, got {self.kwargs!r:.200}")
        object.__setattr__(self, "kwarg_ranges", plain_values(self.kwarg_ranges))
        task_list = plain_values(self.task_list)
        object.__setattr__(self, "task_list", tuple(task_list) if isinstance(task_list, list) else task_list)
        parse_tasks(self.kwarg_ranges, self.task_list)

    @property
    def drawn_tasks(self) -> DrawnTasks | None:
        """The tasks that these settings describe, if any."""
        return parse_tasks(self.kwarg_ranges, self.task_list)


ENV_SETTINGS = frozenset(field.name for field in fields(EnvConfig))
"""Names that an argument of an environment can only have within ``env.kwargs``."""


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
        except (Exception, SystemExit) as error:  # whatever the user's code raises
            problem = in_one_line(error)
            missing = isinstance(error, ModuleNotFoundError) and error.name == module.partition(".")[0]
            where = ": it is looked for in the current folder, and in what is installed" if missing else ""
            raise UserError(f"environment {name!r}: module {module!r} cannot be imported ({problem}){where}") from error
        name = name_in_module
    family_id = f"maml_rl/{name}-v0"
    if family_id in gym.registry:
        return family_id
    if name in gym.registry:
        return name
    families = [key.removeprefix("maml_rl/").removesuffix("-v0") for key in gym.registry if key.startswith("maml_rl/")]
    hint = did_you_mean(name, [*families, *gym.registry], "'")
    raise UserError(
        f"unknown environment {name!r}.{hint} Valid are our families ({', '.join(families)}), any id that Gymnasium "
        "has registered, and module:EnvId-v0."
    )


def is_family(name: str) -> bool:
    """Whether ``name`` stands for a task family, built in or added to those."""
    return resolve_env_id(name).startswith("maml_rl/")


def registered_horizon(name: str) -> int | None:
    """The ``max_episode_steps`` that an environment is registered with; ``None`` where it has none."""
    steps = gym.spec(resolve_env_id(name)).max_episode_steps
    return steps if steps is not None and steps > 0 else None


def make_task_vector_env(
    config: EnvConfig, num_envs: int, horizon: int, *, num_tasks: int | None = None
) -> TaskVectorEnv:
    """``num_envs`` sub-environments, truncated at ``horizon`` steps, each on a task of its own.

    An environment that registers a vector environment with tasks is used as it is. Any other one is run under
    Gymnasium's Sync or Async vector environment; see :class:`GymTaskVectorEnv`. With ``config.observe_task`` it is
    seen through a :class:`TaskObserver`.

    Args:
        config: the environment.
        num_envs: sub-environments of a vector environment that steps them together.
        horizon: longest episode.
        num_tasks: sub-environments under Gymnasium's, which steps one after the other: further copies would cost memory
            and gain nothing. Default is ``num_envs``.

    Raises:
        UserError: unknown environment, arguments or tasks that it refuses, observations that cannot be flattened, or
            tasks that cannot be observed.
    """
    env_id = resolve_env_id(config.name)
    with _told_as_user_error(config):
        env: Any = _own_vector_env(env_id, config.kwargs, num_envs, horizon)
        if env is None:
            make = _maker(config, env_id, horizon)
            num_copies = num_envs if num_tasks is None else num_tasks
            env = GymTaskVectorEnv.of(make, num_copies, config.vectorization, config.drawn_tasks)
        elif config.drawn_tasks is not None:
            close_env(env, config.name)
            raise UserError(f"{config.drawn_tasks.setting}: environment {config.name!r} draws its tasks itself")
    if not config.observe_task:
        return env
    try:
        return TaskObserver(env, config.name)
    except UserError:
        close_env(env, config.name)
        raise


def make_single_env(config: EnvConfig, horizon: int | None = None, **kwargs: Any) -> TaskSetter:
    """One environment, as training runs many of them.

    Args:
        config: the environment.
        horizon: where episodes are truncated; default is the environment's own.
        kwargs: further arguments, such as ``render_mode``.

    Raises:
        UserError: as :func:`make_task_vector_env`.
    """
    with _told_as_user_error(config):
        make = functools.partial(_maker(config, resolve_env_id(config.name), horizon), **kwargs)
        return make_task_setter(make, config.drawn_tasks)


@contextlib.contextmanager
def _told_as_user_error(config: EnvConfig) -> Iterator[None]:
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:  # whatever the user's code raises
        problem = in_one_line(error)
        raise UserError(
            f"environment {config.name!r} could not be made with {dict(config.kwargs)}: {problem}"
        ) from error


def _maker(config: EnvConfig, env_id: str, horizon: int | None) -> Callable[..., gym.Env]:
    if config.drawn_tasks is not None:
        check_arguments(env_id, config.drawn_tasks)
    # A worker process may have to import the module that registers the id, so the module goes there too.
    return functools.partial(_make, config.name.rpartition(":")[0], env_id, horizon, **config.kwargs)


def _make(module: str, env_id: str, horizon: int | None, /, **arguments: Any) -> gym.Env:
    """As :func:`gymnasium.make`, whose own arguments (id, max_episode_steps, ...) an environment may have too."""
    if module:
        importlib.import_module(module)
    spec = copy.copy(gym.spec(env_id))
    spec.kwargs = {**spec.kwargs, **arguments}
    return gym.make(spec, max_episode_steps=horizon)


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
    close_env(env, env_id)
    return None


@contextlib.contextmanager
def as_task_vector_env(
    env: gym.Env | VectorEnv | str | None,
    config: EnvConfig,
    num_envs: int,
    horizon: int,
    *,
    num_tasks: int | None = None,
) -> Iterator[TaskVectorEnv]:
    """Whatever a user has at hand, as what collection needs.

    Args:
        env: an environment or vector environment, which stays open, or what ``--env`` takes, made with the arguments
            of ``config`` if it is the same one, and closed at the end. ``None`` stands for ``config`` itself.
        config: the environment that a policy was trained on.
        num_envs: sub-environments to make.
        horizon: longest episode.
        num_tasks: sub-environments to make of an environment that steps them one after the other; see
            :func:`make_task_vector_env`.

    Raises:
        UserError: the environment cannot be used.
    """
    if isinstance(env, gym.Env):
        single = SyncVectorEnv([functools.partial(TaskSetter, env)], autoreset_mode=AutoresetMode.DISABLED)
        yield GymTaskVectorEnv(single, None, takes_tasks=True)
    elif isinstance(env, VectorEnv):
        if env.metadata.get("autoreset_mode") is not AutoresetMode.DISABLED:
            raise UserError(f"{env} must be made with autoreset_mode=AutoresetMode.DISABLED")
        with_tasks: Any = env if hasattr(env, "set_tasks") else GymTaskVectorEnv(_with_vector_observations(env), None)
        yield with_tasks
    elif not isinstance(env, str | None):
        raise UserError(f"an environment is given as an id, or as one that is made already; got {env!r:.100}")
    else:
        same = env is None or resolve_env_id(env) == resolve_env_id(config.name)
        wanted = config if same or env is None else EnvConfig(name=env)
        made = make_task_vector_env(wanted, num_envs, horizon, num_tasks=num_tasks)
        try:
            yield made
        finally:
            close_env(made, wanted.name)


def _with_vector_observations(envs: VectorEnv) -> VectorEnv:
    space = envs.single_observation_space
    return envs if isinstance(space, spaces.Box) and len(space.shape) == 1 else FlattenObservation(envs)


class GymTaskVectorEnv:
    """Single environments under Gymnasium's Sync or Async vector environment, one task each.

    :class:`TaskSetter` says how they draw and take tasks. An environment without tasks is a family of one.

    Gymnasium's vector environments always step every sub-environment: finished ones are reset and their steps
    thrown away. So are those that showed an observation or a reward that is not finite, which is handed on as it is.

    Of the infos, ``is_success`` and ``void`` are handed on.

    Args:
        envs: with autoreset disabled.
        sampler: draws tasks, or ``None`` where none are drawn.
        takes_tasks: whether every sub-environment is a :class:`TaskSetter`.
    """

    def __init__(self, envs: VectorEnv, sampler: TaskSetter | None, takes_tasks: bool = False) -> None:
        self.envs: Any = envs
        self.num_envs = envs.num_envs
        self.single_observation_space = envs.single_observation_space
        self.single_action_space = envs.single_action_space
        self.np_random = np.random.default_rng()
        self._name = str(envs) if sampler is None else sampler.name
        self._sampler = sampler
        self._takes_tasks = takes_tasks
        self._failed = False
        self._observation: Any = None
        self._terminated, self._truncated, self._broken, self._to_reset = np.zeros((4, self.num_envs), bool)

    @classmethod
    def of(
        cls,
        make: Callable[..., gym.Env],
        num_envs: int,
        vectorization: Vectorization,
        drawn: DrawnTasks | None = None,
    ) -> GymTaskVectorEnv:
        """``num_envs`` environments from ``make``, in this process or in one worker process each.

        Args:
            make: with the arguments that a task of ``drawn`` holds.
            num_envs: how many.
            vectorization: where they run.
            drawn: tasks in place of the environment's own.
        """
        sampler = make_task_setter(make, drawn)  # the first one that is made, so that what is wrong is told here
        functions = [functools.partial(_make_sub_environment, make, drawn, os.getpid(), i) for i in range(num_envs)]
        if num_envs > 1:
            where = "in this process" if vectorization == "sync" else "in worker processes"
            _log.info("making %d copies of environment %r %s, and one to draw tasks", num_envs, sampler.name, where)
        try:
            if vectorization == "sync":
                return cls(SyncVectorEnv(functions, autoreset_mode=AutoresetMode.DISABLED), sampler, takes_tasks=True)
            with _quiet_gymnasium():
                return cls(_WorkersVectorEnv(functions), sampler, takes_tasks=True)
        except (EOFError, OSError) as error:
            sampler.close()
            raise UserError(
                f"environment {sampler.name!r} could not be made in a worker process; what it says of the reason "
                'stands above. A script that starts workers does so under `if __name__ == "__main__":`'
            ) from error
        except BaseException:
            sampler.close()
            raise

    def sample_tasks(self, num_tasks: int) -> list[Task]:
        """Draw tasks with ``self.np_random``; empty mappings from an environment without tasks.

        Raises:
            UserError: what the environment draws are no tasks.
        """
        return [{}] * num_tasks if self._sampler is None else self._sampler.draw_tasks(self.np_random, num_tasks)

    def set_tasks(self, tasks: Sequence[Task]) -> None:
        """Give sub-environment i the task ``tasks[i]``; empty mappings leave it alone.

        Raises:
            UserError: the sub-environments have no way to take a task, or refuse theirs.
        """
        if any(tasks):
            if not self._takes_tasks:
                raise UserError(f"{self.envs} takes no tasks: set them before you hand it over, and give none here")
            if len(tasks) != self.num_envs:
                raise ValueError(f"got `{len(tasks)}` values for {self.num_envs} environments")
            with self._errors("set_task"):
                self.envs.set_attr("assigned_task", list(tasks))

    def reset(
        self, *, seed: int | Sequence[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode in every sub-environment, or in those of ``options["reset_mask"]``.

        Sub-environment i gets ``seed + i``, or ``seed[i]``.

        Raises:
            UserError: an environment raises.
        """
        mask = np.asarray((options or {}).get("reset_mask", np.ones(self.num_envs, bool)))
        with self._errors("reset"):
            observation, info = self.envs.reset(seed=seed, options=None if options is None else dict(options))
        self._observation = observation if mask.all() else np.where(mask[:, None], observation, self._observation)
        self._terminated, self._truncated = self._terminated & ~mask, self._truncated & ~mask
        self._broken = np.where(mask, ~np.isfinite(observation).all(1), self._broken)
        self._to_reset = self._to_reset & ~mask | mask & self._broken
        return self._observation.copy(), info

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step every unfinished sub-environment.

        Raises:
            UserError: an environment raises.
        """
        with self._errors("step"):
            if self._to_reset.any():
                self.envs.reset(options={"reset_mask": self._to_reset})
            observation, reward, terminated, truncated, info = self.envs.step(actions)
        live = ~(self._terminated | self._truncated | self._broken)
        void = live & (self._reports(info, "void") == 1)
        is_success = self._reports(info, "is_success")
        broken = ~(np.isfinite(observation).all(1) & np.isfinite(reward))
        self._broken = self._broken | live & broken
        self._to_reset = terminated | truncated | broken
        self._observation = np.where(live[:, None], observation, self._observation)
        self._terminated = np.where(live, terminated, self._terminated)
        self._truncated = np.where(live, truncated, self._truncated)
        reports = {"void": void, "is_success": is_success}
        return self._observation.copy(), np.where(live, reward, 0.0), self._terminated, self._truncated, reports

    def _reports(self, info: Mapping[str, Any], name: str) -> np.ndarray:
        """An entry of the infos, 1 or 0 for each sub-environment, NaN where it does not report it, (num_envs,).

        Raises:
            UserError: it is not one truth value for each.
        """
        if name not in info:
            return np.full(self.num_envs, np.nan)
        values, is_there = info[name], info.get(f"_{name}", np.ones(self.num_envs, bool))
        try:
            pairs = zip(values, is_there, strict=True)
            return np.array([truth_value(value) if there else np.nan for value, there in pairs])
        except (TypeError, ValueError) as error:
            raise UserError(f"{name!r} in the infos of {self._name}: {error}") from error

    @contextlib.contextmanager
    def _errors(self, doing: str) -> Iterator[None]:
        """Tell whatever goes wrong in the sub-environments, or with their processes, in one line."""
        is_async = isinstance(self.envs.unwrapped, AsyncVectorEnv)
        try:
            # Gymnasium prints the tracebacks of workers, and raises what they raised besides.
            with _quiet_gymnasium() if is_async else contextlib.nullcontext():
                yield
        except (UserError, MemoryError):
            self._failed = True
            raise
        except Exception as error:
            self._failed = True
            if is_async and isinstance(error, (EOFError, OSError)):
                raise UserError(f"a worker process of environment {self._name!r} died in {doing}") from error
            raise UserError(f"environment {self._name!r} failed in {doing}: {in_one_line(error)}") from error
        except BaseException:  # Ctrl-C: workers may be in the middle of a step
            self._failed = True
            raise

    def close(self) -> None:
        """Close every sub-environment and the sampler, once; workers that something went wrong with are ended."""
        if self._failed and isinstance(self.envs, _WorkersVectorEnv):
            self.envs.end()
        else:
            self.envs.close()
        sampler, self._sampler = self._sampler, None
        if sampler is not None:
            sampler.close()


class _WorkersVectorEnv(AsyncVectorEnv):
    """Leaves no worker process behind, whatever happens."""

    def __init__(self, functions: Sequence[Callable[[], gym.Env]]) -> None:
        gc.collect()  # in a forked process, to free what has threads here would wait for them for ever
        try:
            super().__init__(functions, autoreset_mode=AutoresetMode.DISABLED)
        except BaseException:
            self.end()
            raise

    def end(self) -> None:
        """End the processes without asking them."""
        for process in getattr(self, "processes", []):
            if process.pid is not None:
                process.terminate()
                process.join()
        self.closed = True


@contextlib.contextmanager
def _quiet_gymnasium() -> Iterator[None]:
    level = gym.logger.min_level
    gym.logger.min_level = gym.logger.ERROR + 1
    try:
        yield
    finally:
        gym.logger.min_level = level


def _make_sub_environment(
    make: Callable[..., gym.Env], drawn: DrawnTasks | None, parent: int, index: int
) -> TaskSetter:
    """Sub-environment ``index``, in the process ``parent`` or in a worker of its own."""
    is_worker = os.getpid() != parent
    if is_worker:
        gc.freeze()  # what the parent leaves behind is freed there
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle: it ends its workers
        _use_one_torch_thread()
        seed_global_generators(index)  # until the first reset
    setter = make_task_setter(make, drawn)
    setter.has_own_process = is_worker
    return setter


def _use_one_torch_thread() -> None:
    """Keep torch to one thread: a forked process has none of its parent's threads, and would wait for them for ever."""
    os.environ["OMP_NUM_THREADS"] = "1"  # where it is imported later
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
