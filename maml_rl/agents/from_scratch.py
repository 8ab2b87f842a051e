"""PPO from scratch on single tasks, by Stable-Baselines3."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger

from maml_rl.agents.sb3_env import TaskVecEnv
from maml_rl.errors import UserError
from maml_rl.policies.action_map import has_two_bounds
from maml_rl.sampling.environments import as_task_vector_env
from maml_rl.settings.drawn_tasks import Task
from maml_rl.settings.env import EnvConfig
from maml_rl.system.random_streams import Phase, RandomStreams
from maml_rl.system.torch_runtime import torch_threads


@dataclass(frozen=True, kw_only=True)
class PPOSettings:
    """How PPO trains: Stable-Baselines3's defaults, except that its 2048 steps per update come from 16 simulations."""

    num_envs: int = 16
    """Simulations side by side."""
    n_steps: int = 128
    """Control steps of each between two updates."""
    learning_rate: float = 3e-4
    """Adam's."""
    batch_size: int = 64
    """Steps per gradient."""
    n_epochs: int = 10
    """Passes over the steps of an update."""
    gamma: float = 0.99
    """Discount."""
    gae_lambda: float = 0.95
    """Of the generalised advantage estimate."""
    clip_range: float = 0.2
    """Of the probability ratio."""
    ent_coef: float = 0.0
    """Weight of the entropy bonus."""

    def whole_updates(self, num_env_steps: int) -> int:
        """``num_env_steps``, rounded up to whole updates."""
        per_update = self.num_envs * self.n_steps
        return -(-num_env_steps // per_update) * per_update


class LearningCurve(NamedTuple):
    """How a policy got better."""

    num_env_steps: list[int]
    """Control steps of training behind each point."""
    returns: list[float]
    """Mean undiscounted return of stochastic episodes at each point."""


def ppo_learning_curve(
    config: EnvConfig,
    task: Task,
    horizon: int,
    *,
    num_env_steps: int,
    seed: int,
    settings: PPOSettings | None = None,
    num_points: int = 10,
    num_episodes: int = 20,
    progress: Callable[[int], object] = lambda num_env_steps: None,
) -> LearningCurve:
    """Train Stable-Baselines3's PPO from scratch on one task, on the CPU.

    It acts in [−1, 1], which spans the range of the actions. Results depend on the seed alone.

    Args:
        config: the environment.
        task: of its tasks; an empty one leaves it alone.
        horizon: longest episode.
        num_env_steps: control steps to train for, rounded up to whole updates.
        seed: of all random draws.
        settings: of PPO.
        num_points: evaluations after the one at the start, spread evenly.
        num_episodes: of each evaluation.
        progress: called after each rollout with its control steps.

    Raises:
        UserError: PPO cannot handle the action space.
        FloatingPointError: a number is none, or every episode of an evaluation broke down.
    """
    settings = settings or PPOSettings()
    streams = RandomStreams(seed, Phase.EVALUATION)
    with (
        _global_generators_kept(),
        torch_threads(1),
        as_task_vector_env(None, config, settings.num_envs, horizon) as training,
        as_task_vector_env(None, config, num_episodes, horizon) as evaluation,
    ):
        for env in (training, evaluation):
            env.set_tasks([task] * env.num_envs)
        envs, episodes = (TaskVecEnv(env, normalize_actions=True) for env in (training, evaluation))
        model = _new_ppo(envs, settings, seed)
        callback = _Progress(progress)
        curve = LearningCurve(
            [0], [_mean_return(model, episodes, streams.reset_seed(0, num_episodes))]
        )
        for point in range(1, num_points + 1):
            missing = num_env_steps * point // num_points - model.num_timesteps
            if missing > 0:
                model.learn(missing, callback, reset_num_timesteps=False)
                curve.num_env_steps.append(model.num_timesteps)
                curve.returns.append(
                    _mean_return(model, episodes, streams.reset_seed(point, num_episodes))
                )
    return curve


class _Progress(BaseCallback):
    """Tells how many control steps each rollout took."""

    def __init__(self, report: Callable[[int], object]) -> None:
        super().__init__()
        self._report = report
        self._told = 0

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        self._report(self.num_timesteps - self._told)
        self._told = self.num_timesteps


def _new_ppo(envs: TaskVecEnv, settings: PPOSettings, seed: int) -> PPO:
    _check_bounded(envs.action_space)
    options = asdict(settings)
    del options["num_envs"]
    seed_32 = int(
        np.random.SeedSequence(seed).generate_state(1)[0]
    )  # the largest that its generators take
    model = PPO("MlpPolicy", envs, seed=seed_32, device="cpu", **options)
    model.set_logger(Logger(folder=None, output_formats=[]))
    return model


def _check_bounded(space: spaces.Space[Any]) -> None:
    if isinstance(space, spaces.Box) and not has_two_bounds(space).all():
        raise UserError(
            f"Stable-Baselines3's PPO and A2C need actions that are bounded, got {space}"
        )


def _mean_return(model: PPO, envs: TaskVecEnv, seed: int) -> float:
    """Mean undiscounted return of one stochastic episode in every sub-environment, without those that broke down."""
    envs.seed(seed)
    observation: Any = envs.reset()
    total, void, live = (
        np.zeros(envs.num_envs),
        np.zeros(envs.num_envs, bool),
        np.ones(envs.num_envs, bool),
    )
    while live.any():
        actions, _ = model.predict(observation)
        observation, reward, ended, infos = envs.step(actions)
        total += live * reward
        void |= live & [bool(info.get("void", False)) for info in infos]
        live &= ~ended
    if void.all():
        raise FloatingPointError("every episode of an evaluation broke down in the simulator")
    return float(total[~void].mean())


@contextlib.contextmanager
def _global_generators_kept() -> Iterator[None]:
    """Give back the global generators of Python, NumPy and torch, which Stable-Baselines3 seeds, as they were."""
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)  # noqa: NPY002
