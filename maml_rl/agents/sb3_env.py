"""Vector environments with tasks as Stable-Baselines3's ``VecEnv``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv, VecMonitor, unwrap_vec_normalize

from maml_rl.errors import UserError
from maml_rl.policies.action_map import ActionMap, has_two_bounds
from maml_rl.sampling.environments import make_task_vector_env
from maml_rl.sampling.single_env import close_env
from maml_rl.sampling.task_vector_env import TaskVectorEnv, assign_tasks
from maml_rl.settings.drawn_tasks import Task
from maml_rl.settings.env import EnvConfig, named_env
from maml_rl.settings.ranges import check_integers

SB3Env = gym.Env | VecEnv
"""An environment on which Stable-Baselines3 can train."""


class TaskVecEnv(VecEnv):
    """Adapt a vector environment with tasks to Stable-Baselines3's ``VecEnv``.

    A sub-environment whose episode ends is reset within the same step. Its info then has
    ``terminal_observation`` (the last observation), ``TimeLimit.truncated`` and the reward terms.
    The infos of other sub-environments are empty.

    If a simulation fails, its episode is truncated: the step returns the previous observation and
    reward 0, and its info has ``unstable``.

    Observations are flattened. Set tasks on ``env`` before the first reset.

    Args:
        env: a vector environment with autoreset disabled, whose ``reset`` takes the option
            ``reset_mask``. :meth:`close` closes it.
        normalize_actions: take actions in [−1, 1] and scale them to the action range of ``env``.
    """

    def __init__(self, env: TaskVectorEnv, normalize_actions: bool = False) -> None:
        self.env = env
        space = env.single_action_space
        self._action_map: Callable[[np.ndarray], np.ndarray] = lambda actions: actions
        if isinstance(space, spaces.Box):
            low, high = space.low, space.high
            self._action_map = lambda actions: np.clip(actions, low, high)
            if normalize_actions and has_two_bounds(space).all():
                self._action_map = ActionMap(space, 1.0)
                space = spaces.Box(-1.0, 1.0, space.shape, np.float32)
        observation_space = spaces.flatten_space(env.single_observation_space)
        super().__init__(env.num_envs, observation_space, space)

    def reset(self) -> np.ndarray:
        """Reset all sub-environments; return observations (num_envs, observation_size)."""
        if any(self._options):
            raise NotImplementedError("TaskVecEnv takes no reset options; set tasks on its env")
        # Sub-environment i gets the first seed plus i.
        observation, _ = self.env.reset(seed=self._seeds[0])
        self._reset_seeds()
        self._observation = self._observations(observation)
        return self._observation.copy()

    def step_async(self, actions: np.ndarray) -> None:
        """Set the actions of the next step: (num_envs, action_size), or (num_envs,) if discrete."""
        self._actions = actions

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Advance by one control step, and reset sub-environments whose episode ended.

        Returns:
            Observations (num_envs, observation_size); rewards (num_envs,) float32; whether the
            episode ended, (num_envs,) bool; and a list of num_envs infos.

        Raises:
            FloatingPointError: if an observation or reward is not finite.
        """
        observation, reward, terminated, truncated, info = self.env.step(
            self._action_map(self._actions)
        )
        # Hide unstable simulations behind the last observation and reward 0.
        unstable = np.broadcast_to(info.get("unstable", False), (self.num_envs,))
        flat = np.reshape(observation, (self.num_envs, -1))
        observation = self._observations(np.where(unstable[:, None], self._observation, flat))
        reward = _finite(np.where(unstable, 0.0, reward), "reward", np.float32)
        ended = terminated | truncated | unstable
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        if ended.any():
            # Infos of the episodes that ended: values per sub-environment, without their masks.
            terms = {
                name: value
                for name, value in info.items()
                if np.shape(value)[:1] == (self.num_envs,) and not name.startswith("_")
            }
            for i in np.flatnonzero(ended):
                infos[i] = {name: value[i] for name, value in terms.items()}
                if np.isnan(infos[i].get("is_success", 0.0)):  # it is not reported
                    del infos[i]["is_success"]
                infos[i]["terminal_observation"] = observation[i].copy()
                infos[i]["TimeLimit.truncated"] = bool(unstable[i] or not terminated[i])
            # Their next episodes.
            started, _ = self.env.reset(options={"reset_mask": ended})
            observation[ended] = self._observations(started)[ended]
        self._observation = observation
        return observation.copy(), reward, ended, infos

    def _observations(self, observation: Any) -> np.ndarray:
        """Return a flattened copy in the space's dtype, after checking that it is finite."""
        copy = _finite(observation, "observation", self.observation_space.dtype)
        return copy.reshape(self.num_envs, -1)

    def close(self) -> None:
        """Close the environment."""
        self.env.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Return an attribute of the vector environment, the same for each sub-environment."""
        value = None if attr_name == "render_mode" else getattr(self.env, attr_name)
        return [value for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> NoReturn:
        """Raise: sub-environments have no attributes of their own."""
        raise NotImplementedError(
            f"cannot set {attr_name!r}: sub-environments of a batch have no attributes; use env"
        )

    def env_method(
        self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any
    ) -> NoReturn:
        """Raise: sub-environments have no methods of their own."""
        raise NotImplementedError(
            f"cannot call {method_name!r}: sub-environments of a batch have no methods; use env"
        )

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        """Return False for each: sub-environments of a batch have no wrappers."""
        return [False for _ in self._get_indices(indices)]


def _finite(values: Any, what: str, dtype: Any) -> np.ndarray:
    """Return a copy of this type, after checking that it is finite."""
    with np.errstate(over="ignore"):  # too large a value becomes infinite
        copy = np.array(values, dtype)
    if not np.isfinite(copy).all():
        raise FloatingPointError(
            f"{what} of sub-environment {np.argwhere(~np.isfinite(copy))[0][0]} is not finite"
        )
    return copy


def make_vec_env(
    name: str | None,
    config: EnvConfig,
    horizon: int,
    *,
    num_envs: int,
    task: Task | None,
    seed: int | None,
) -> VecEnv:
    """Make a ``VecEnv`` of parallel simulations, whose episodes Stable-Baselines3 logs.

    Args:
        name: name of the environment, as for ``--env``; default is that of ``config``.
        config: settings of the environment; ignored if ``name`` is another environment.
        horizon: maximum length of an episode, control steps.
        num_envs: number of simulations.
        task: task of all simulations; ``None`` samples one for each.
        seed: seed for sampling tasks; ``None`` for a random one.

    Raises:
        UserError: if ``num_envs`` is below 1, or the environment or the task is invalid.
    """
    check_integers(1, num_envs=num_envs)
    if seed is not None:
        check_integers(0, seed=seed)
    config = config if name is None else named_env(name, config)
    env = make_task_vector_env(config, num_envs, horizon)
    env.np_random = np.random.default_rng(seed)
    try:
        tasks = list(env.sample_tasks(num_envs)) if task is None else [task] * num_envs
        assign_tasks(env, tasks)
    except UserError:
        close_env(env, config.name)
        raise
    return VecMonitor(TaskVecEnv(env))


def as_sb3_env(
    env: object,
    config: EnvConfig,
    horizon: int,
    *,
    num_envs: int,
    task: Task | None,
    seed: int | None,
) -> SB3Env:
    """Return an environment on which Stable-Baselines3 can train, with flat observations.

    Args:
        env: an environment; or a name or ``None``, to make one by :func:`make_vec_env`, which takes
            the other arguments.
        config: see :func:`make_vec_env`.
        horizon: see :func:`make_vec_env`.
        num_envs: see :func:`make_vec_env`; 1 for an environment that is not made here.
        task: see :func:`make_vec_env`; ``None`` for an environment that is not made here.
        seed: see :func:`make_vec_env`.

    Raises:
        UserError: if it is neither a Gymnasium environment nor a ``VecEnv``, cannot be made, or
            normalises observations, which the agent does itself.
    """
    if env is None or isinstance(env, str):
        return make_vec_env(env, config, horizon, num_envs=num_envs, task=task, seed=seed)
    if task is not None or num_envs != 1:
        raise UserError(
            "task and num_envs apply only to an environment that to_sb3 makes: leave them out, or "
            "leave out env"
        )
    if _normalizes_observations(env):
        raise UserError(
            "env normalises observations, but the policy reads raw ones: leave out "
            "NormalizeObservation, or set norm_obs=False for VecNormalize"
        )
    if isinstance(env, gym.Env) and not (
        isinstance(env.observation_space, spaces.Box) and len(env.observation_space.shape) == 1
    ):
        return gym.wrappers.FlattenObservation(env)
    if not isinstance(env, SB3Env):
        raise UserError(
            "env must be a Gymnasium environment, a VecEnv of Stable-Baselines3 or an id, got "
            f"{env!r:.100}; maml_rl.agents.sb3_env.TaskVecEnv converts a vector environment with "
            "tasks to a VecEnv"
        )
    return env


def _normalizes_observations(env: object) -> bool:
    """Whether an environment has a wrapper that normalises observations."""
    if isinstance(env, VecEnv):
        normalizer = unwrap_vec_normalize(env)
        is_normalized = normalizer is not None and normalizer.norm_obs
        return is_normalized or any(env.env_is_wrapped(gym.wrappers.NormalizeObservation))
    while isinstance(env, gym.Wrapper):
        if isinstance(env, gym.wrappers.NormalizeObservation):
            return True
        env = env.env
    return False


def check_bounded(space: spaces.Space[Any]) -> None:
    """Check that Stable-Baselines3's PPO and A2C support an action space.

    Raises:
        UserError: if a dimension of a Box lacks a bound.
    """
    if isinstance(space, spaces.Box) and not has_two_bounds(space).all():
        raise UserError(f"Stable-Baselines3's PPO and A2C need bounded actions, got {space}")
