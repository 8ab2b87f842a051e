"""Make a vector environment with tasks from any environment that Gymnasium can make."""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import gymnasium as gym
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.wrappers.vector import FlattenObservation

from maml_rl.errors import UserError, errors_named, in_one_line
from maml_rl.sampling.gym_vector_env import GymTaskVectorEnv
from maml_rl.sampling.single_env import (
    TaskSetter,
    close_env,
    has_box_observations,
    make_task_setter,
    refuse_statistics,
)
from maml_rl.sampling.task_in_observation import TaskObserver
from maml_rl.sampling.task_vector_env import TaskVectorEnv
from maml_rl.settings.env import EnvConfig, check_arguments, named_env, resolve_env_id

_log = logging.getLogger("maml_rl")
_VECTOR_ENV_NOT_USED = "the vector environment of %s is not used, copies of the single one are: %s"


def make_task_vector_env(
    config: EnvConfig,
    num_envs: int,
    horizon: int,
    *,
    num_tasks: int | None = None,
    device: torch.device | None = None,
) -> TaskVectorEnv:
    """Make a vector environment with one task per sub-environment, truncated at ``horizon`` steps.

    A registered vector environment with tasks is used as it is. Otherwise, copies of the single
    environment run under Gymnasium's Sync or Async vector environment (:class:`GymTaskVectorEnv`).
    With ``config.observe_task`` the result is wrapped in a :class:`TaskObserver`.

    Args:
        config: the environment.
        num_envs: number of sub-environments of a registered vector environment.
        horizon: longest episode.
        num_tasks: number of copies of a single environment. Default is ``num_envs``; one per task
            is enough and saves memory.
        device: to simulate a built-in family on, by its engine ``warp``; default is the engine
            ``mujoco``.

    Raises:
        UserError: if the environment is unknown or refuses its arguments or tasks, observations
            cannot be flattened, or tasks cannot be observed.
    """
    env_id = resolve_env_id(config.name)
    with _errors_of_making(config):
        env: Any = _vector_env_with_tasks(env_id, config.kwargs, num_envs, horizon, device)
        if env is None:
            make = _maker(config, env_id, horizon)
            num_copies = num_envs if num_tasks is None else num_tasks
            env = GymTaskVectorEnv.of(make, num_copies, config.vectorization, config.drawn_tasks)
        elif config.drawn_tasks is not None:
            close_env(env, config.name)
            raise UserError(
                f"{config.drawn_tasks.setting}: environment {config.name!r} draws its tasks itself"
            )
    if not config.observe_task:
        return env
    try:
        return TaskObserver(env, config.name)
    except UserError:
        close_env(env, config.name)
        raise


def make_single_env(config: EnvConfig, horizon: int | None = None, **kwargs: Any) -> TaskSetter:
    """Make a single environment that takes tasks as in training.

    Args:
        config: the environment.
        horizon: where episodes are truncated; default is the environment's own.
        kwargs: further arguments, such as ``render_mode``.

    Raises:
        UserError: in the same cases as :func:`make_task_vector_env`.
    """
    with _errors_of_making(config):
        make = functools.partial(_maker(config, resolve_env_id(config.name), horizon), **kwargs)
        return make_task_setter(make, config.drawn_tasks)


def _errors_of_making(config: EnvConfig) -> contextlib.AbstractContextManager[None]:
    return errors_named(
        f"environment {config.name!r} could not be made with {dict(config.kwargs)}:"
    )


def _maker(config: EnvConfig, env_id: str, horizon: int | None) -> Callable[..., gym.Env]:
    if config.drawn_tasks is not None and not config.drawn_tasks.listed:
        check_arguments(env_id, config.drawn_tasks)
    # A worker process may have to import the module that registers the id.
    module = config.name.rpartition(":")[0]
    return functools.partial(_make, module, env_id, horizon, **config.kwargs)


def _make(module: str, env_id: str, horizon: int | None, /, **arguments: Any) -> gym.Env:
    """Call :func:`gymnasium.make`; ``arguments`` may have the names of its own parameters."""
    if module:
        importlib.import_module(module)
    spec = copy.copy(gym.spec(env_id))
    spec.kwargs = {**spec.kwargs, **arguments}
    return gym.make(spec, max_episode_steps=horizon)


def _vector_env_with_tasks(
    env_id: str,
    kwargs: Mapping[str, Any],
    num_envs: int,
    horizon: int,
    device: torch.device | None,
) -> VectorEnv | None:
    """The vector environment of an id, if it has tasks, takes a horizon and has no autoreset."""
    if device is not None:
        return _device_env(env_id, kwargs, num_envs, horizon, device)
    if gym.spec(env_id).vector_entry_point is None:
        return None
    try:
        env = gym.make_vec(env_id, num_envs=num_envs, max_episode_steps=horizon, **kwargs)
    except (TypeError, gym.error.Error) as error:
        # It may not know an argument that the single environment knows, or its wrappers.
        _log.info(_VECTOR_ENV_NOT_USED, env_id, in_one_line(error))
        return None
    autoreset_mode = env.metadata.get("autoreset_mode")
    has_tasks = hasattr(env, "sample_tasks")
    has_arrays = has_box_observations(env.single_observation_space)
    if has_tasks and has_arrays and autoreset_mode is AutoresetMode.DISABLED:
        return env
    if has_tasks:
        reason = f"its autoreset_mode is {autoreset_mode}, not AutoresetMode.DISABLED"
        if not has_arrays:
            reason = f"its observations are {env.single_observation_space}, not a Box with an axis"
        _log.info(_VECTOR_ENV_NOT_USED, env_id, reason)
    close_env(env, env_id)
    return None


def _device_env(
    env_id: str, kwargs: Mapping[str, Any], num_envs: int, horizon: int, device: torch.device
) -> VectorEnv:
    """The vector environment of a task family on a device.

    Raises:
        UserError: if the family cannot be simulated there, or a package is missing.
    """
    sizes: dict[str, Any] = {"num_envs": num_envs, "max_episode_steps": horizon}
    try:
        return gym.make_vec(env_id, **sizes, engine="warp", device=device, **kwargs)
    except ValueError as error:
        raise UserError(f"engine warp: {error}") from error


@contextlib.contextmanager
def as_task_vector_env(
    env: gym.Env | VectorEnv | str | None,
    config: EnvConfig,
    num_envs: int,
    horizon: int,
    *,
    num_tasks: int | None = None,
    device: torch.device | None = None,
) -> Iterator[TaskVectorEnv]:
    """A vector environment with tasks from an environment, a vector environment or an id.

    An environment object stays open afterwards; one that is made here is closed.

    Args:
        env: an environment, a vector environment, or an id as in ``--env``. ``None`` is the
            environment of ``config``. The arguments of ``config`` apply only if the id is the same.
        config: the environment that a policy was trained on.
        num_envs: number of sub-environments to make.
        horizon: longest episode.
        num_tasks: number of copies of a single environment; see :func:`make_task_vector_env`.
        device: to simulate an environment on that is made here; see :func:`make_task_vector_env`.

    Raises:
        UserError: if the environment cannot be used.
    """
    if isinstance(env, gym.Env):
        single = SyncVectorEnv(
            [functools.partial(TaskSetter, env)], autoreset_mode=AutoresetMode.DISABLED
        )
        yield GymTaskVectorEnv(single, None, takes_tasks=True)
    elif isinstance(env, VectorEnv):
        if env.metadata.get("autoreset_mode") is not AutoresetMode.DISABLED:
            raise UserError(f"{env} must be made with autoreset_mode=AutoresetMode.DISABLED")
        for each in (env, *getattr(env.unwrapped, "envs", ())):
            refuse_statistics(each, str(env))
        if hasattr(env, "set_tasks"):
            with_tasks: Any = env
        else:
            has_box = has_box_observations(env.single_observation_space)
            with_tasks = GymTaskVectorEnv(env if has_box else FlattenObservation(env), None)
        yield with_tasks
    elif not isinstance(env, str | None):
        raise UserError(f"expected an environment id or an environment object, got {env!r:.100}")
    else:
        config = config if env is None else named_env(env, config)
        vector_env = make_task_vector_env(
            config, num_envs, horizon, num_tasks=num_tasks, device=device
        )
        try:
            yield vector_env
        finally:
            close_env(vector_env, config.name)
