"""Train PPO of Stable-Baselines3 from scratch on single tasks."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger

from maml_rl.agents.sb3_env import TaskVecEnv, check_bounded
from maml_rl.sampling.environments import as_task_vector_env
from maml_rl.sampling.task_vector_env import assign_tasks
from maml_rl.settings.drawn_tasks import Task
from maml_rl.settings.env import EnvConfig
from maml_rl.system.random_streams import Phase, RandomStreams
from maml_rl.system.torch_runtime import torch_threads


@dataclass(frozen=True, kw_only=True)
class PPOSettings:
    """Settings of PPO.

    The defaults are Stable-Baselines3's, except that the 2048 steps of an update are collected by
    16 simulations.
    """

    num_envs: int = 16
    """Number of parallel simulations."""
    n_steps: int = 128
    """Control steps of each simulation between two updates."""
    learning_rate: float = 3e-4
    """Learning rate of Adam."""
    batch_size: int = 64
    """Steps per gradient."""
    n_epochs: int = 10
    """Passes over the steps of an update."""
    gamma: float = 0.99
    """Discount."""
    gae_lambda: float = 0.95
    """Lambda of the generalised advantage estimate."""
    clip_range: float = 0.2
    """Clipping range of the probability ratio."""
    ent_coef: float = 0.0
    """Weight of the entropy bonus."""

    def whole_updates(self, num_env_steps: int) -> int:
        """Return ``num_env_steps`` rounded up to a multiple of the steps per update."""
        per_update = self.num_envs * self.n_steps
        return -(-num_env_steps // per_update) * per_update


DEFAULT_PPO = PPOSettings()


class LearningCurve(NamedTuple):
    """Mean return of a policy during training."""

    num_env_steps: list[int]
    """Control steps of training before each point."""
    returns: list[float]
    """Mean undiscounted return of stochastic episodes at each point."""


def ppo_learning_curve(
    config: EnvConfig,
    task: Task,
    horizon: int,
    *,
    num_env_steps: int,
    seed: int,
    settings: PPOSettings = DEFAULT_PPO,
    num_points: int = 10,
    num_episodes: int = 20,
    progress: Callable[[int], object] = lambda num_env_steps: None,
) -> LearningCurve:
    """Train Stable-Baselines3's PPO from scratch on one task, on the CPU.

    PPO's actions are in [−1, 1], scaled to the environment's action range. Results depend only on
    the seed. Stable-Baselines3 seeds the global generators of Python, NumPy and torch; their states
    are restored at the end.

    Args:
        config: the environment.
        task: the task; an empty one keeps the environment's current task.
        horizon: maximum length of an episode, control steps.
        num_env_steps: control steps of training, rounded up to a multiple of the steps per update.
        seed: seed of all random draws.
        settings: settings of PPO.
        num_points: evaluations after the initial one, evenly spaced.
        num_episodes: episodes of each evaluation.
        progress: called after each rollout with its number of control steps.

    Raises:
        UserError: if PPO does not support the action space, or the task is invalid.
        FloatingPointError: if an observation or reward is not finite, or every episode of an
            evaluation had an unstable simulation.
    """
    streams = RandomStreams(seed, Phase.EVALUATION)
    with (
        _global_generators_restored(),
        torch_threads(1),
        as_task_vector_env(None, config, settings.num_envs, horizon) as training,
        as_task_vector_env(None, config, num_episodes, horizon) as evaluation,
    ):
        for env in (training, evaluation):
            assign_tasks(env, [task] * env.num_envs)
        training_envs = TaskVecEnv(training, normalize_actions=True)
        evaluation_envs = TaskVecEnv(evaluation, normalize_actions=True)
        model = _new_ppo(training_envs, settings, seed)
        callback = _Progress(progress)
        # Evaluate before training, then after each part of it. With fewer updates than points, some
        # parts are empty.
        initial = _mean_return(model, evaluation_envs, streams.reset_seed(0, num_episodes))
        curve = LearningCurve(num_env_steps=[0], returns=[initial])
        for point in range(1, num_points + 1):
            num_missing = num_env_steps * point // num_points - model.num_timesteps
            if num_missing > 0:
                model.learn(num_missing, callback, reset_num_timesteps=False)
                reset_seed = streams.reset_seed(point, num_episodes)
                curve.num_env_steps.append(model.num_timesteps)
                curve.returns.append(_mean_return(model, evaluation_envs, reset_seed))
    return curve


class _Progress(BaseCallback):
    """Report the number of control steps of each rollout."""

    def __init__(self, report: Callable[[int], object]) -> None:
        super().__init__()
        self._report = report
        self._num_reported = 0

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        self._report(self.num_timesteps - self._num_reported)
        self._num_reported = self.num_timesteps


def _new_ppo(envs: TaskVecEnv, settings: PPOSettings, seed: int) -> PPO:
    check_bounded(envs.action_space)
    options = asdict(settings)
    del options["num_envs"]
    # Stable-Baselines3's generators take seeds of at most 32 bits.
    seed_32 = int(np.random.SeedSequence(seed).generate_state(1)[0])
    model = PPO("MlpPolicy", envs, seed=seed_32, device="cpu", **options)
    model.set_logger(Logger(folder=None, output_formats=[]))
    return model


def _mean_return(model: PPO, envs: TaskVecEnv, seed: int) -> float:
    """Return the mean undiscounted return of a stochastic episode in each sub-environment.

    Episodes whose simulation became unstable do not count.
    """
    envs.seed(seed)
    observation: Any = envs.reset()
    total = np.zeros(envs.num_envs)
    unstable = np.zeros(envs.num_envs, bool)
    live = np.ones(envs.num_envs, bool)
    while live.any():
        actions, _ = model.predict(observation)
        observation, reward, ended, infos = envs.step(actions)
        total += live * reward
        unstable |= live & [bool(info.get("unstable", False)) for info in infos]
        live &= ~ended
    if unstable.all():
        raise FloatingPointError("every episode of an evaluation failed in the simulator")
    return float(total[~unstable].mean())


@contextlib.contextmanager
def _global_generators_restored() -> Iterator[None]:
    """Restore the global generators, which Stable-Baselines3 seeds: Python's, NumPy's, torch's."""
    python_state = random.getstate()
    numpy_state = np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)  # noqa: NPY002
