"""A policy as a user holds it: predict with it, adapt it, save it."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from maml_rl.agents.episode_log import EpisodeLog, to_episodes
from maml_rl.errors import MamlRLWarning, UserError
from maml_rl.learners.maml.inner_step import initial_theta, with_context
from maml_rl.learners.trials import collect_through_adaptation, contained_step, usable
from maml_rl.policies.action_map import ActionMap
from maml_rl.policies.export import PlainPolicy, export
from maml_rl.policies.mlp import MLPPolicy, action_size, distribution, initial_context
from maml_rl.policies.normalizer import ObservationNormalizer
from maml_rl.policies.parameters import Params, make_stack
from maml_rl.policies.plain_network import PlainNetwork, folded
from maml_rl.runs.checkpoint import Checkpoint, load_newest, save_checkpoint
from maml_rl.runs.run_folder import create_run_folder
from maml_rl.sampling.collector import Collector
from maml_rl.sampling.environments import as_task_vector_env
from maml_rl.sampling.failures import Failures
from maml_rl.settings.config import Config, origin, to_mapping
from maml_rl.settings.drawn_tasks import Task
from maml_rl.settings.maml import InnerConfig
from maml_rl.settings.policy import PolicyConfig
from maml_rl.settings.ranges import check_integers
from maml_rl.system.atomic_files import unwritable_refused
from maml_rl.system.random_streams import Phase, RandomStreams
from maml_rl.system.torch_runtime import standard_torch, torch_threads
from maml_rl.system.user_paths import user_path

if TYPE_CHECKING:
    from maml_rl.agents.sb3_env import SB3Env
    from maml_rl.agents.sb3_models import Model


MOST_OBSERVATION_ENTRIES = 2000
"""Of an observation after flattening: the linear baseline's normal equations grow with their square, its time with the
cube."""


def make_policy(
    config: PolicyConfig,
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    seed: int,
) -> MLPPolicy:
    """The policy that the settings describe, for these spaces, with the initial weights of ``seed``.

    Raises:
        UserError: no policy exists for the spaces.
    """
    if not (isinstance(observation_space, spaces.Box) and len(observation_space.shape) == 1):
        raise UserError(
            f"observation space {observation_space} is not supported: expected a one-dimensional "
            f"Box"
        )
    num_entries = observation_space.shape[0]
    if num_entries > MOST_OBSERVATION_ENTRIES:
        raise UserError(
            f"observations of {num_entries} entries (flattened) are not supported: at most "
            f"{MOST_OBSERVATION_ENTRIES}, "
            "since the linear baseline solves a system of 2 x entries + 5 unknowns for every "
            "task; images are too large"
        )
    size, discrete = action_size(action_space)
    return MLPPolicy(
        observation_space.shape[0],
        size,
        discrete=discrete,
        hidden_sizes=config.hidden_sizes,
        nonlinearity=config.nonlinearity,
        init_std=config.init_std,
        rng=RandomStreams(seed, Phase.INITIALISATION).parameters(),
        context_size=config.context_size,
    ).requires_grad_(False)


@dataclass(frozen=True)
class MetaPolicy:
    """Meta-trained parameters, or ones adapted from them, with all that is needed to act and to adapt.

    Args:
        policy: the architecture.
        theta: the parameters.
        normalizer: of observations, or ``None``.
        observation_space: of one environment.
        action_space: of one environment.
        config: of the run that the parameters come from.
        num_adaptation_steps: inner steps that lie behind ``theta``.
        num_iterations: meta-iterations that lie behind it; ``None`` where that is not known.
    """

    policy: MLPPolicy
    theta: Params
    normalizer: ObservationNormalizer | None
    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    config: Config
    num_adaptation_steps: int = 0
    num_iterations: int | None = None

    def __repr__(self) -> str:
        """What it is, without its numbers."""
        return (
            f"MetaPolicy({self.config.env.name}, observations {self.observation_space.shape}, "
            f"actions "
            f"{self.action_space}, {self.num_adaptation_steps} adaptation "
            f"step{'s' * (self.num_adaptation_steps != 1)})"
        )

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        return next(iter(self.theta.values())).device

    @property
    def action_map(self) -> ActionMap:
        """From the policy's outputs to the environment's actions."""
        return ActionMap(self.action_space, self.config.policy.action_scale)

    @standard_torch()
    @torch.no_grad()
    def predict(
        self,
        observation: np.ndarray,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
        rng: np.random.Generator | None = None,
    ) -> tuple[np.ndarray, Any]:
        """The action at an observation, with the signature of Stable-Baselines3's ``predict``.

        Args:
            observation: (observation_size,), or (N, observation_size) for N environments.
            state: passed through; the policy has no memory.
            episode_start: ignored.
            deterministic: the most probable action in place of a draw.
            rng: of the draw; default is a fresh, unseeded one.

        Returns:
            The action (action_size,) or actions (N, action_size), as the environment takes them,
            and ``state``.

        Raises:
            UserError: the observation has another size than the policy's, is no array, or is not
                finite.
        """
        size = self.policy.observation_size
        if isinstance(observation, (Mapping, tuple)):
            raise UserError(
                f"expected an array of observations ({size},) or (N, {size}), got a "
                f"{type(observation).__name__}: "
                "gymnasium.spaces.flatten(env.observation_space, observation) makes it one, as in "
                "training"
            )
        observation = np.asarray(observation)
        if observation.ndim not in (1, 2) or observation.shape[-1] != size:
            raise UserError(
                f"expected observations of shape ({size},) or (N, {size}), got {observation.shape}"
            )
        batch = np.atleast_2d(observation)
        if not np.isfinite(batch).all():
            raise UserError(
                f"the observation is not finite: {batch[~np.isfinite(batch).all(axis=1)][0]}"
            )
        seen = torch.from_numpy(batch).to(self.device, torch.float32)
        if self.normalizer is not None:
            seen = self.normalizer.normalize(seen)
        dist = distribution(self.policy, make_stack(self.theta, 1), seen[None])
        if deterministic:
            action = dist.mode()[0]
        else:
            noise = self.policy.draw_noise(rng or np.random.default_rng(), (1, len(batch)))
            action = dist.sample(torch.from_numpy(noise).to(self.device))[0]
        actions = self.action_map(action.cpu().numpy())
        return (actions if observation.ndim == 2 else actions[0]), state

    @standard_torch()
    def adapt(
        self,
        env: gym.Env | gym.vector.VectorEnv | str | None = None,
        *,
        task: Task | None = None,
        num_steps: int | None = None,
        num_episodes: int | None = None,
        seed: int = 0,
        episodes: EpisodeLog
        | Mapping[str, Any]
        | Sequence[EpisodeLog | Mapping[str, Any]]
        | None = None,
    ) -> MetaPolicy:
        """Adapt by policy gradient to the task that an environment poses, or that episodes played elsewhere show.

        Args:
            env: an environment, a vector environment (autoreset disabled, all on the same task, of
                a size that divides ``num_episodes``), or what ``--env`` takes; default is the
                family that the policy was trained on. One that is handed in is left open.
            task: the task to set; default is the one that the environment has.
            num_steps: inner steps; default as in training.
            num_episodes: episodes per step; default as in training.
            seed: of the episodes. Those in an environment that is handed in are others than those
                of a task.
            episodes: what this policy has played already, in place of an environment: an
                :class:`~maml_rl.agents.episode_log.EpisodeLog` or a mapping of its fields, for one
                inner step, or one for each inner step in turn, played by the policy that the steps
                before it lead to.

        Returns:
            The adapted policy; this one is unchanged.

        Raises:
            UserError: the environment's spaces differ from the policy's, a number is out of range,
                or the episodes cannot be used.
            FloatingPointError: there is no valid episode to learn from, or the inner step is not
                finite.
        """
        if episodes is not None:
            beside = {
                "env": env,
                "task": task,
                "num_steps": num_steps,
                "num_episodes": num_episodes,
            }
            given = [name for name, value in beside.items() if value is not None]
            if given:
                raise UserError(
                    f"{', '.join(given)} cannot be given beside episodes, which say it: leave out "
                    f"one of them"
                )
            return self._adapted_to(
                [episodes] if isinstance(episodes, (EpisodeLog, Mapping)) else episodes
            )
        if isinstance(env, Mapping):
            raise UserError(
                f"a task is given as task={dict(env)!r}; the first argument is an environment"
            )
        num_steps = self.config.inner.num_steps if num_steps is None else num_steps
        num_episodes = self.config.num_episodes if num_episodes is None else num_episodes
        check_integers(1, num_episodes=num_episodes)
        check_integers(0, num_steps=num_steps, seed=seed)
        inner = dataclasses.replace(self.config.inner, num_steps=num_steps)
        sizes = (num_episodes, self.config.horizon)
        threads = torch_threads(self.config.torch_threads)
        with threads, as_task_vector_env(env, self.config.env, *sizes, num_tasks=1) as envs:
            self.check_spaces(envs.single_observation_space, envs.single_action_space)
            collector = Collector(
                envs,
                self.policy,
                1,
                num_episodes,
                self.config.horizon,
                self.action_map,
                self.device,
            )
            _, stacks, failures = collect_through_adaptation(
                collector,
                self.theta,
                None if task is None else [task],
                inner,
                self.config.baseline,
                streams=RandomStreams(seed, Phase.ADAPTATION),
                normalizer=self.normalizer,
                first_step=self.num_adaptation_steps,
                final_episodes=False,
            )
        failures.refuse_failed_tasks()
        return self._with(stacks[-1], inner.num_steps)

    @torch.no_grad()
    def _adapted_to(self, logs: Any) -> MetaPolicy:
        """One inner step on each log."""
        self.check_plain_actions()
        if not isinstance(logs, Sequence) or len(logs) == 0:
            raise UserError(
                f"episodes must be one log, or a sequence of one for each inner step; got "
                f"{logs!r:.100}"
            )
        stack: Params = with_context(self.policy, make_stack(self.theta, 1))
        failures = Failures([{}], 0)
        for k, log in enumerate(logs):
            played = to_episodes(
                EpisodeLog.of(log), self.policy, stack, self.normalizer, self.action_map
            )
            step = self.num_adaptation_steps + k
            support = usable(played, self.config.baseline, step, failures)
            stack = contained_step(self.policy, stack, support, self.config.inner, step, failures)
            failures.refuse_failed_tasks()
        return self._with(stack, len(logs))

    def _with(self, stack: Params, num_steps: int) -> MetaPolicy:
        """This policy ``num_steps`` inner steps later, with the parameters (1, ...) that they lead to."""
        theta_prime = {name: value[0] for name, value in stack.items()}
        return dataclasses.replace(
            self, theta=theta_prime, num_adaptation_steps=self.num_adaptation_steps + num_steps
        )

    @property
    def plain_network(self) -> PlainNetwork:
        """The policy with normalisation, context and action map folded into its layers.

        Raises:
            UserError: see :meth:`check_plain_actions`.
        """
        self.check_plain_actions()
        return folded(self.policy, self.theta, self.normalizer, self.action_map)

    @standard_torch()
    def module(self, with_distribution: bool = False) -> PlainPolicy:
        """A plain ``nn.Module`` on the CPU: raw observations (N, observation_size) to the most probable actions.

        Args:
            with_distribution: give the parameters of the action distribution instead; see
                :class:`~maml_rl.policies.export.PlainPolicy`.
        """
        return PlainPolicy(self.plain_network, self.action_space, with_distribution)

    @standard_torch()
    def export(self, path: str | Path, with_distribution: bool = False) -> Path:
        """Write :meth:`module` to a file: ``.onnx``, ``.ts`` (TorchScript) or ``.pt2`` (torch.export).

        Raises:
            UserError: another ending, no such folder, or packages that are missing.
        """
        path = user_path(path)
        export(self.module(with_distribution), self.policy.observation_size, path)
        return path

    @standard_torch()
    def to_sb3(
        self,
        env: SB3Env | str | None = None,
        algorithm: str | type[Model] = "PPO",
        *,
        task: Task | None = None,
        num_envs: int = 1,
        **settings: Any,
    ) -> Model:
        """A Stable-Baselines3 model whose actor is this policy, to be trained on; its value network is new.

        On the same observation an action has the same distribution, before it is clipped.

        Args:
            env: a Gymnasium environment, a ``VecEnv``, or what ``--env`` takes, which the batch
                engine plays; default is the environment that the policy was trained on.
            algorithm: PPO or A2C, by name or class.
            task: of an environment that is made here; default is one drawn for each simulation.
            num_envs: simulations of an environment that is made here.
            settings: of the algorithm, as ``learning_rate``.

        Raises:
            UserError: another algorithm, or an environment that does not fit.
        """
        # Imported here: Stable-Baselines3 is slow to import.
        from maml_rl.agents.sb3_env import as_sb3_env, make_vec_env
        from maml_rl.agents.sb3_models import model_of

        self.check_plain_actions()
        check_integers(1, num_envs=num_envs)
        if env is None or isinstance(env, str):
            env = make_vec_env(
                env,
                self.config.env,
                self.config.horizon,
                num_envs=num_envs,
                task=task,
                seed=settings.get("seed"),
            )
        elif task is not None or num_envs != 1:
            raise UserError(
                "task and num_envs are for an environment that is made here: leave them out, or env"
            )
        env = as_sb3_env(env)
        self.check_spaces(env.observation_space, env.action_space)
        return model_of(self.plain_network, env, algorithm, {"device": self.device, **settings})

    def check_plain_actions(self) -> None:
        """Refuse actions that logs, exported policies and Stable-Baselines3's cannot have here.

        Raises:
            UserError: they are neither a Box of one axis nor Discrete from 0.
        """
        space = self.action_space
        if not (
            (isinstance(space, spaces.Box) and len(space.shape) == 1)
            or (isinstance(space, spaces.Discrete) and space.start == 0)
        ):
            raise UserError(
                "logs, export and Stable-Baselines3 are for actions in a Box of one axis, or "
                "Discrete from 0; "
                f"this policy's are {space}"
            )

    def check_spaces(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        given: str = "the environment",
        own: str = "the policy",
    ) -> None:
        """Refuse an environment that the policy was not made for.

        The bounds of actions must be the policy's: they say what an output of it means. Those of
        observations may differ.

        Args:
            observation_space: of the environment.
            action_space: of the environment.
            given: what has these spaces, for the message.
            own: what has the policy's.

        Raises:
            UserError: the spaces differ; both pairs are named.
        """
        pairs = ((observation_space, self.observation_space), (action_space, self.action_space))
        is_other = any(
            one.shape != other.shape or type(one) is not type(other) for one, other in pairs
        )
        if is_other or not _same_actions(action_space, self.action_space):
            told = (
                ": it is told the task (env.observe_task)" if self.config.env.observe_task else ""
            )
            raise UserError(
                f"{given} has observations {observation_space} and actions {action_space}; "
                f"{own} expects {self.observation_space} and {self.action_space}{told}"
            )

    def save(self, folder: str | Path) -> Path:
        """Write the policy as a run folder that :func:`maml_rl.load` reads.

        Raises:
            UserError: the folder exists and is not empty, or cannot be written.
        """
        folder = user_path(folder)
        create_run_folder(folder, to_mapping(self.config))
        values = {
            "iteration": 0,
            "num_env_steps": 0,
            "num_adaptation_steps": self.num_adaptation_steps,
            "run": origin(self.config),
        }
        tensors = policy_tensors(self.theta, self.normalizer)
        with unwritable_refused(folder):
            save_checkpoint(folder / "checkpoints", 0, tensors, values)
        return folder


def _same_actions(one: spaces.Space[Any], other: spaces.Space[Any]) -> bool:
    """Whether two spaces of one type hold the same actions; the type of a Box's numbers may differ."""
    if isinstance(one, spaces.Box) and isinstance(other, spaces.Box):
        return np.array_equal(one.low, other.low) and np.array_equal(one.high, other.high)
    return one == other


def policy_tensors(
    theta: Params, normalizer: ObservationNormalizer | None
) -> dict[str, dict[str, Tensor]]:
    """Groups of tensors for a checkpoint."""
    return {"theta": dict(theta), "normalizer": {} if normalizer is None else normalizer._asdict()}


def check_parameters(
    policy: MLPPolicy, inner: InnerConfig, theta: Params, source: Path
) -> list[str]:
    """Refuse parameters that do not fit the policy.

    Returns:
        Their names, in order.

    Raises:
        UserError: names or shapes differ.
    """
    fitting = initial_theta(policy, inner)
    if "context" in theta:  # the policy has adapted
        fitting |= {name: value[0] for name, value in initial_context(policy, 1).items()}
    expected = {name: f"{tuple(value.shape)} {value.dtype}" for name, value in fitting.items()}
    got = {name: f"{tuple(value.shape)} {value.dtype}" for name, value in theta.items()}
    if expected != got:
        differing = sorted(
            name for name in expected.keys() | got.keys() if expected.get(name) != got.get(name)
        )
        name = differing[0]
        raise UserError(
            f"the parameters in {source} do not fit the policy: {name} is "
            f"{got.get(name, 'missing')}, expected "
            f"{expected.get(name, 'none of that name')}"
            + (f" (and {len(differing) - 1} more)" if differing[1:] else "")
        )
    return list(expected)


def policy_state(
    checkpoint: Checkpoint, policy: MLPPolicy, config: Config, path: Path
) -> tuple[Params, ObservationNormalizer | None]:
    """The parameters and the normaliser that a checkpoint holds.

    Raises:
        UserError: they do not fit the policy or the configuration.
    """
    theta = checkpoint.tensors.get("theta", {})
    ordered = {name: theta[name] for name in check_parameters(policy, config.inner, theta, path)}
    _check_finite(ordered, path)
    if not config.policy.normalize_observations:
        return ordered, None
    empty = ObservationNormalizer.empty(
        policy.observation_size, next(iter(ordered.values())).device
    )
    tensors = checkpoint.tensors.get("normalizer", {})
    expected = {name: (value.shape, value.dtype) for name, value in empty._asdict().items()}
    if {name: (value.shape, value.dtype) for name, value in tensors.items()} != expected:
        raise UserError(f"checkpoint {path} is damaged: its normalizer must hold {expected}")
    _check_finite(tensors, path)
    if any((tensors[name] < 0).any() for name in ("num_states", "squares")):
        raise UserError(
            f"checkpoint {path} is damaged: its normalizer has negative counts or squares"
        )
    return ordered, ObservationNormalizer(**tensors)


def _check_finite(tensors: Params, path: Path) -> None:
    for name, value in tensors.items():
        if not value.isfinite().all():
            raise UserError(f"checkpoint {path} cannot be used: {name} is not finite")


def load_policy(run: Path, config: Config, device: torch.device) -> MetaPolicy:
    """The policy of a run's last checkpoint.

    Raises:
        UserError: there is no checkpoint, or it does not fit the run's configuration.
    """
    found = load_newest(run / "checkpoints", device)
    if found is None:
        raise UserError(f"{run} has no checkpoint yet")
    path, checkpoint, damaged = found
    for error in damaged:
        warnings.warn(f"{error}; {path.name} is used", MamlRLWarning, stacklevel=2)
    checkpoint.check_run(origin(config), path)
    with as_task_vector_env(None, config.env, 1, config.horizon) as env:
        observation_space, action_space = env.single_observation_space, env.single_action_space
    policy = make_policy(config.policy, observation_space, action_space, config.seed)
    theta, normalizer = policy_state(checkpoint, policy, config, path)
    steps = (
        checkpoint.counter("num_adaptation_steps", path)
        if "num_adaptation_steps" in checkpoint.values
        else 0
    )
    iterations = checkpoint.counter("iteration", path) or None  # MetaPolicy.save begins at 0 again
    spaces = observation_space, action_space
    return MetaPolicy(policy, theta, normalizer, *spaces, config, steps, iterations)
