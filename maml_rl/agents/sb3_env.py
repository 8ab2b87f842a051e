"""Stable-Baselines3 on our environments: they as its ``VecEnv``, its PPO on one task, our policies as its models.

The only file that imports its algorithms.
"""

from __future__ import annotations

import contextlib
import inspect
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, NoReturn

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.vec_env import VecEnv, VecMonitor
from torch import nn

from maml_rl.errors import UserError, did_you_mean
from maml_rl.policies.plain_network import ACTIVATIONS, PlainNetwork
from maml_rl.sampling.collector import ActionMap, has_two_bounds
from maml_rl.sampling.environments import EnvConfig, as_task_vector_env, make_task_vector_env, resolve_env_id
from maml_rl.sampling.task_vector_env import Task, TaskVectorEnv
from maml_rl.system.random_streams import Phase, RandomStreams
from maml_rl.system.torch_runtime import torch_threads

Model = OnPolicyAlgorithm
"""A model of Stable-Baselines3 with an actor and a value network."""
SB3Env = gym.Env | VecEnv
"""An environment that it trains on."""
_ALGORITHMS: dict[str, type[Model]] = {"PPO": PPO, "A2C": A2C}
_SAID_BY_THE_ACTOR = ("policy", "policy_kwargs", "use_sde")


class TaskVecEnv(VecEnv):
    """A vector environment with tasks as Stable-Baselines3 knows one.

    A sub-environment that ends is reset within the same step; its last observation is ``terminal_observation`` in its
    info, beside ``TimeLimit.truncated`` and the reward terms. The infos of the others are empty.

    An episode whose simulation broke down is cut before the step that broke it: that step's reward is zero, its
    observation the one before, it counts as truncated, and its info holds ``void``.

    Tasks are set on ``env`` before the first reset.

    Args:
        env: with autoreset disabled, whose ``reset`` takes a ``reset_mask``. It is closed with this one.
        normalize_actions: take actions in [−1, 1], which span the range of the environment's.
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
        super().__init__(env.num_envs, env.single_observation_space, space)

    def reset(self) -> np.ndarray:
        """Start an episode everywhere; returns observations (num_envs, observation_size)."""
        if any(self._options):
            raise NotImplementedError("TaskVecEnv takes no reset options; set tasks on its env")
        observation, _ = self.env.reset(seed=self._seeds[0])  # the others count up from it
        self._reset_seeds()
        self._observation = self._observations(observation)
        return self._observation.copy()

    def step_async(self, actions: np.ndarray) -> None:
        """Take the actions (num_envs, action_size), or (num_envs,) where discrete, of the step to come."""
        self._actions = actions

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Step, and reset what ended.

        Returns:
            Observations (num_envs, observation_size), rewards (num_envs,) float32, whether an episode ended
            (num_envs,), and infos.

        Raises:
            FloatingPointError: an observation or reward is not finite.
        """
        observation, reward, terminated, truncated, info = self.env.step(self._action_map(self._actions))
        void = np.broadcast_to(info.get("void", False), (self.num_envs,))
        observation = self._observations(np.where(void[:, None], self._observation, observation))
        reward = _finite(np.where(void, 0.0, reward), "reward")
        ended = terminated | truncated | void
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        if ended.any():
            terms = {name: value for name, value in info.items() if np.shape(value)[:1] == (self.num_envs,)}
            for i in np.flatnonzero(ended):
                infos[i] = {name: value[i] for name, value in terms.items() if not name.startswith("_")}
                infos[i]["terminal_observation"] = observation[i].copy()
                infos[i]["TimeLimit.truncated"] = bool(void[i] or not terminated[i])
            started, _ = self.env.reset(options={"reset_mask": ended})
            observation[ended] = self._observations(started)[ended]
        self._observation = observation
        return observation.copy(), reward.astype(np.float32), ended, infos

    def _observations(self, observation: Any) -> np.ndarray:
        """A copy of finite observations, of the space's type."""
        return np.array(_finite(observation, "observation"), self.observation_space.dtype)

    def close(self) -> None:
        """Close the environment."""
        self.env.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """An attribute of the vector environment, the same for every sub-environment: they have none of their own."""
        value = None if attr_name == "render_mode" else getattr(self.env, attr_name)
        return [value for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> NoReturn:
        """Refused: sub-environments have no attributes of their own."""
        raise NotImplementedError(f"cannot set {attr_name!r}: sub-environments of a batch have no attributes; use env")

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> NoReturn:
        """Refused: sub-environments have no methods of their own."""
        raise NotImplementedError(f"cannot call {method_name!r}: sub-environments of a batch have no methods; use env")

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        """False for each: sub-environments of a batch have no wrappers."""
        return [False for _ in self._get_indices(indices)]


def _finite(values: np.ndarray, what: str) -> np.ndarray:
    if not np.isfinite(values).all():
        raise FloatingPointError(f"{what} of sub-environment {np.argwhere(~np.isfinite(values))[0][0]} is not finite")
    return values


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
        curve = LearningCurve([0], [_mean_return(model, episodes, streams.reset_seed(0, num_episodes))])
        for point in range(1, num_points + 1):
            missing = num_env_steps * point // num_points - model.num_timesteps
            if missing > 0:
                model.learn(missing, callback, reset_num_timesteps=False)
                curve.num_env_steps.append(model.num_timesteps)
                curve.returns.append(_mean_return(model, episodes, streams.reset_seed(point, num_episodes)))
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
    seed_32 = int(np.random.SeedSequence(seed).generate_state(1)[0])  # the largest that its generators take
    model = PPO("MlpPolicy", envs, seed=seed_32, device="cpu", **options)
    model.set_logger(Logger(folder=None, output_formats=[]))
    return model


def _check_bounded(space: spaces.Space[Any]) -> None:
    if isinstance(space, spaces.Box) and not has_two_bounds(space).all():
        raise UserError(f"Stable-Baselines3's PPO and A2C need actions that are bounded, got {space}")


def _mean_return(model: PPO, envs: TaskVecEnv, seed: int) -> float:
    """Mean undiscounted return of one stochastic episode in every sub-environment, without those that broke down."""
    envs.seed(seed)
    observation: Any = envs.reset()
    total, void, live = np.zeros(envs.num_envs), np.zeros(envs.num_envs, bool), np.ones(envs.num_envs, bool)
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


def make_vec_env(
    name: str | None, config: EnvConfig, horizon: int, *, num_envs: int, task: Task | None, seed: int | None
) -> VecEnv:
    """Simulations side by side, whose episodes Stable-Baselines3 logs.

    Args:
        name: what ``--env`` takes; ``None`` stands for ``config``, which also gives the arguments if it is the same.
        config: of an environment.
        horizon: longest episode.
        num_envs: simulations.
        task: of all; ``None`` draws one for each.
        seed: of the tasks drawn; ``None`` for fresh ones.

    Raises:
        UserError: the environment or the task cannot be used.
    """
    if num_envs < 1:
        raise UserError(f"num_envs must be at least 1, got {num_envs}")
    same = name is None or resolve_env_id(name) == resolve_env_id(config.name)
    env = make_task_vector_env(config if same or name is None else EnvConfig(name=name), num_envs, horizon)
    env.np_random = np.random.default_rng(seed)
    env.set_tasks(list(env.sample_tasks(num_envs)) if task is None else [task] * num_envs)
    return VecMonitor(TaskVecEnv(env))


def as_sb3_env(env: object) -> SB3Env:
    """What Stable-Baselines3 can train on; observations that a policy has seen flattened are so here too.

    Raises:
        UserError: it is none of its environments.
    """
    if isinstance(env, gym.Env) and not (
        isinstance(env.observation_space, spaces.Box) and len(env.observation_space.shape) == 1
    ):
        return gym.wrappers.FlattenObservation(env)
    if not isinstance(env, SB3Env):
        raise UserError(
            f"env must be a Gymnasium environment, a VecEnv of Stable-Baselines3 or an id, got {env!r:.100}; "
            "maml_rl.agents.sb3_env.TaskVecEnv makes a VecEnv of a vector environment with tasks"
        )
    return env


def model_of(
    network: PlainNetwork, env: SB3Env, algorithm: str | type[Model], settings: Mapping[str, Any]
) -> OnPolicyAlgorithm:
    """A model whose actor is ``network``, with a new value network of the same hidden sizes.

    Raises:
        UserError: another algorithm than PPO and A2C, or settings that would give it another actor.
    """
    chosen = _ALGORITHMS.get(algorithm) if isinstance(algorithm, str) else algorithm
    if chosen is None or chosen not in _ALGORITHMS.values():
        name = getattr(algorithm, "__name__", algorithm)
        raise UserError(f"algorithm {name} is not supported: a meta-policy can become the actor of PPO or A2C")
    _check_bounded(env.action_space)
    _check_settings(chosen, settings)
    hidden = [len(bias) for _, bias in network.layers[:-1]]
    policy_kwargs = {"net_arch": {"pi": hidden, "vf": hidden}, "activation_fn": ACTIVATIONS[network.nonlinearity]}
    model = chosen("MlpPolicy", env, policy_kwargs=policy_kwargs, **settings)
    with torch.no_grad():
        for linear, (weight, bias) in zip(_actor_layers(model.policy), network.layers, strict=True):
            linear.weight.copy_(weight.T)
            linear.bias.copy_(bias)
        if network.log_std is not None:
            model.policy.log_std.copy_(network.log_std)
    return model


def _check_settings(algorithm: type[Model], settings: Mapping[str, Any]) -> None:
    refused = [name for name in settings if name in _SAID_BY_THE_ACTOR]
    if refused:
        raise UserError(f"{', '.join(refused)}: the meta-policy says what the actor is")
    valid = [name for name in inspect.signature(algorithm).parameters if name not in ("env", *_SAID_BY_THE_ACTOR)]
    for name in settings:
        if name not in valid:
            hint = did_you_mean(name, valid, "'")
            raise UserError(f"{algorithm.__name__} has no setting {name!r}.{hint} Valid are {', '.join(valid)}")


def network_of(model: object) -> PlainNetwork:
    """The actor of a model.

    Raises:
        UserError: it is no PPO or A2C with a multilayer perceptron; what does not fit is named.
    """
    if type(model) not in _ALGORITHMS.values():
        raise UserError(f"a policy can be taken from PPO or A2C, not from {type(model).__name__}")
    policy: Any = model.policy  # type: ignore[attr-defined]
    normalized = model.get_vec_normalize_env()  # type: ignore[attr-defined]
    names = {activation: name for name, activation in ACTIVATIONS.items()}
    obstacles = {
        f"its policy is a {type(policy).__name__}, not an MlpPolicy": type(policy) is not ActorCriticPolicy,
        "its exploration depends on the state (use_sde)": policy.use_sde,
        f"its features come from a {type(policy.features_extractor).__name__}": type(policy.features_extractor)
        is not FlattenExtractor,
        f"its activation {policy.activation_fn} is none of {', '.join(names.values())}": policy.activation_fn
        not in names,
        "its observations are normalised by VecNormalize": normalized is not None and normalized.norm_obs,
    }
    for obstacle, applies in obstacles.items():
        if applies:
            raise UserError(f"this {type(model).__name__} model cannot become a meta-policy: {obstacle}")
    return PlainNetwork(
        layers=tuple(
            (linear.weight.detach().cpu().T.clone(), linear.bias.detach().cpu().clone())
            for linear in _actor_layers(policy)
        ),
        log_std=policy.log_std.detach().cpu().clone() if hasattr(policy, "log_std") else None,
        nonlinearity=names[policy.activation_fn],
    )


def _actor_layers(policy: Any) -> list[nn.Linear]:
    return [layer for layer in [*policy.mlp_extractor.policy_net, policy.action_net] if isinstance(layer, nn.Linear)]
