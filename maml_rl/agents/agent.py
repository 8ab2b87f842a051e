"""The policy that users hold: it predicts, adapts, and is saved or exported."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces

from maml_rl.agents.episode_log import EpisodeLog, to_episodes
from maml_rl.agents.policy_checkpoint import policy_tensors
from maml_rl.errors import UserError
from maml_rl.learners.maml.inner_loop import collect_through_adaptation
from maml_rl.learners.maml.inner_step import inner_step, with_context
from maml_rl.learners.trials import contained_update, usable_episodes
from maml_rl.policies.action_map import ActionMap, have_same_actions
from maml_rl.policies.export import PlainPolicy, export
from maml_rl.policies.mlp import MLPPolicy, distribution
from maml_rl.policies.normalizer import ObservationNormalizer
from maml_rl.policies.parameters import Params, make_stack
from maml_rl.policies.plain_network import PlainNetwork, check_plain_actions, folded
from maml_rl.runs.checkpoint import save_checkpoint
from maml_rl.runs.run_folder import create_run_folder
from maml_rl.sampling.collector import Collector
from maml_rl.sampling.environments import as_task_vector_env
from maml_rl.sampling.failures import FailedTasks, TrialFailures
from maml_rl.settings.config import Config, origin, to_mapping
from maml_rl.settings.drawn_tasks import Task
from maml_rl.settings.ranges import check_integers
from maml_rl.system.atomic_files import unwritable_refused
from maml_rl.system.random_streams import Phase, RandomStreams
from maml_rl.system.text import counted
from maml_rl.system.torch_runtime import standard_torch, torch_threads
from maml_rl.system.untrusted_files import user_path

if TYPE_CHECKING:
    from maml_rl.agents.sb3_env import SB3Env
    from maml_rl.agents.sb3_models import Model


@dataclass(frozen=True)
class MetaPolicy:
    """A meta-trained or adapted policy, with everything that acting and adapting need.

    It is immutable: :meth:`adapt` returns a new policy.
    """

    policy: MLPPolicy
    """The architecture."""
    theta: Params
    """The parameters."""
    normalizer: ObservationNormalizer | None
    """Observation normaliser, or ``None``."""
    observation_space: spaces.Space[Any]
    """Flattened observation space of a single environment."""
    action_space: spaces.Space[Any]
    """Action space of a single environment."""
    config: Config
    """Settings of the run that trained the parameters."""
    num_adaptation_steps: int = 0
    """Inner steps taken since meta-training; 0 for the meta-trained policy."""
    num_iterations: int | None = None
    """Meta-iterations of training, or ``None`` if that is not known."""

    def __repr__(self) -> str:
        """Show environment, spaces and number of adaptation steps, without the parameters."""
        return (
            f"MetaPolicy({self.config.env.name}, observations {self.observation_space.shape}, "
            f"actions {self.action_space}, {counted(self.num_adaptation_steps, 'adaptation step')})"
        )

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return next(iter(self.theta.values())).device

    @property
    def action_map(self) -> ActionMap:
        """Map from the policy's outputs to the environment's actions."""
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
        """Return actions at observations; the signature is Stable-Baselines3's ``predict``.

        Args:
            observation: raw observation (observation_size,), or N of them (N, observation_size).
            state: returned unchanged; the policy is not recurrent.
            episode_start: ignored.
            deterministic: return the most probable action instead of sampling.
            rng: generator for sampling; default is a new, unseeded one.

        Returns:
            Actions and ``state``. Actions are (action_size,) or (N, action_size) in the
            environment's units; discrete ones are an integer or (N,).

        Raises:
            UserError: if the observation has the wrong type or shape, or is not finite.
        """
        observation = self._checked_observation(observation)
        batch = torch.from_numpy(np.atleast_2d(observation)).to(self.device, torch.float32)
        if self.normalizer is not None:
            batch = self.normalizer.normalize(batch)
        dist = distribution(self.policy, make_stack(self.theta, 1), batch[None])
        if deterministic:
            outputs = dist.mode()[0]
        else:
            noise = self.policy.draw_noise(rng or np.random.default_rng(), (1, len(batch)))
            outputs = dist.sample(torch.from_numpy(noise).to(self.device))[0]
        actions = self.action_map(outputs.cpu().numpy())
        return (actions if observation.ndim == 2 else actions[0]), state

    def _checked_observation(self, observation: Any) -> np.ndarray:
        """Return an observation, or N of them, as an array; refuse wrong shapes and values."""
        size = self.policy.observation_size
        if isinstance(observation, (Mapping, tuple)):
            raise UserError(
                f"expected an array of observations ({size},) or (N, {size}), got a "
                f"{type(observation).__name__}: flatten it as in training, by "
                "gymnasium.spaces.flatten(env.observation_space, observation)"
            )
        array = np.asarray(observation)
        if array.ndim not in (1, 2) or array.shape[-1] != size:
            raise UserError(
                f"expected observations of shape ({size},) or (N, {size}), got {array.shape}"
            )
        batch = np.atleast_2d(array)
        is_finite = np.isfinite(batch).all(axis=1)
        if not is_finite.all():
            raise UserError(f"the observation is not finite: {batch[~is_finite][0]}")
        return array

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
        """Adapt by policy gradient to the task of an environment, or to logged episodes.

        Args:
            env: a Gymnasium environment; a vector environment; or a name, as for ``--env``. Default
                is the environment that the policy was trained on. A vector environment must have
                autoreset disabled, the same task in all sub-environments, and a number of them that
                divides ``num_episodes``. An environment that you pass stays open.
            task: the task to set; default is the environment's current one.
            num_steps: inner steps; default as in training.
            num_episodes: episodes per inner step; default as in training.
            seed: seed of the episodes; the same task and seed give the same policy.
            episodes: logged episodes to use instead of an environment: an
                :class:`~maml_rl.agents.episode_log.EpisodeLog`, or a mapping of its fields, for one
                inner step; or a sequence of logs, one per inner step. This policy must have played
                the first log, the policy after one step the second, and so on.

        Returns:
            The adapted policy; this one does not change.

        Raises:
            UserError: if the environment's spaces differ from the policy's, an argument is out of
                range, or the episodes are invalid.
            FloatingPointError: if no episode is valid, or an inner step is not finite.
        """
        if episodes is not None:
            others = {
                "env": env,
                "task": task,
                "num_steps": num_steps,
                "num_episodes": num_episodes,
            }
            conflicting = [name for name, value in others.items() if value is not None]
            if conflicting:
                raise UserError(
                    f"{', '.join(conflicting)} cannot be combined with episodes: leave out one of "
                    "them"
                )
            is_one_log = isinstance(episodes, (EpisodeLog, Mapping))
            return self._adapted_to([episodes] if is_one_log else episodes)
        if isinstance(env, Mapping):
            raise UserError(
                f"pass the task as task={dict(env)!r}; the first argument is the environment"
            )
        return self._adapted_in(env, task, num_steps, num_episodes, seed)

    def _adapted_in(
        self,
        env: gym.Env | gym.vector.VectorEnv | str | None,
        task: Task | None,
        num_steps: int | None,
        num_episodes: int | None,
        seed: int,
    ) -> MetaPolicy:
        """Return the policy after inner steps on episodes that it plays in an environment."""
        num_steps = self.config.inner.num_steps if num_steps is None else num_steps
        num_episodes = self.config.num_episodes if num_episodes is None else num_episodes
        check_integers(1, num_episodes=num_episodes)
        check_integers(0, num_steps=num_steps, seed=seed)
        inner = dataclasses.replace(self.config.inner, num_steps=num_steps)
        horizon = self.config.horizon
        with (
            torch_threads(self.config.torch_threads),
            as_task_vector_env(env, self.config.env, num_episodes, horizon, num_tasks=1) as envs,
        ):
            self.check_spaces(envs.single_observation_space, envs.single_action_space)
            collector = Collector(
                env=envs,
                policy=self.policy,
                num_tasks=1,
                num_episodes=num_episodes,
                horizon=self.config.horizon,
                action_map=self.action_map,
                device=self.device,
            )
            trial = collect_through_adaptation(
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
        trial.failures.refuse_failed_tasks([{} if task is None else task])
        return self._with(trial.stacks[-1], inner.num_steps)

    @torch.no_grad()
    def _adapted_to(self, logs: Any) -> MetaPolicy:
        """Return the policy after one inner step on each log."""
        check_plain_actions(self.action_space)
        if not isinstance(logs, Sequence) or len(logs) == 0:
            raise UserError(
                f"episodes must be a log, or a sequence of logs, one per inner step; got "
                f"{logs!r:.100}"
            )
        stack: Params = with_context(self.policy, make_stack(self.theta, 1))
        failed = FailedTasks.none_of(1, self.device)
        for k, log in enumerate(logs):
            # The episodes, as the collector would return them.
            played = to_episodes(
                EpisodeLog.of(log), self.policy, stack, self.normalizer, self.action_map
            )
            # The inner step; refuse a failed one.
            step = self.num_adaptation_steps + k
            support, failed = usable_episodes(played, self.config.baseline, step, failed)
            updated = inner_step(self.policy, stack, support, self.config.inner, step)
            stack, failed = contained_update(stack, updated, step, failed)
            TrialFailures(support.cause[:, None], failed, step).refuse_failed_tasks([{}])
        return self._with(stack, len(logs))

    def _with(self, stack: Params, num_steps: int) -> MetaPolicy:
        """Return the policy with the parameters ``stack`` (1, ...), ``num_steps`` steps later."""
        theta_prime = {name: value[0] for name, value in stack.items()}
        return dataclasses.replace(
            self, theta=theta_prime, num_adaptation_steps=self.num_adaptation_steps + num_steps
        )

    @property
    def plain_network(self) -> PlainNetwork:
        """The policy with normalisation, context and action map folded into its layers.

        Raises:
            UserError: as :func:`~maml_rl.policies.plain_network.check_plain_actions`.
        """
        check_plain_actions(self.action_space)
        return folded(self.policy, self.theta, self.normalizer, self.action_map)

    @standard_torch()
    def module(self, with_distribution: bool = False) -> PlainPolicy:
        """Return a plain ``nn.Module`` on the CPU that computes actions and needs only torch.

        It maps raw observations (N, observation_size) to the most probable actions.

        Args:
            with_distribution: return the parameters of the action distribution instead; see
                :class:`~maml_rl.policies.export.PlainPolicy`.

        Raises:
            UserError: as :func:`~maml_rl.policies.plain_network.check_plain_actions`.
        """
        return PlainPolicy(self.plain_network, self.action_space, with_distribution)

    @standard_torch()
    def export(self, path: str | Path, with_distribution: bool = False) -> Path:
        """Write :meth:`module` to a file.

        Args:
            path: ends in ``.onnx``, ``.ts`` (TorchScript) or ``.pt2`` (torch.export).
            with_distribution: as :meth:`module`.

        Returns:
            The path.

        Raises:
            UserError: if the suffix is not one of these, the folder does not exist, the file cannot
                be written, or packages are missing; or as :meth:`module`.
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
        """Return a Stable-Baselines3 model whose actor is this policy.

        Before clipping, its actions have the same distribution as this policy's. Its value network
        has new parameters.

        Args:
            env: a Gymnasium environment, a ``VecEnv``, or a name, as for ``--env``; default is the
                environment that the policy was trained on. From a name or the default, this method
                makes a ``VecEnv``.
            algorithm: PPO or A2C, by name or class.
            task: the task of an environment made here; default is a random one per simulation.
            num_envs: number of simulations of an environment made here.
            settings: settings of the algorithm, such as ``learning_rate``.

        Raises:
            UserError: if the algorithm, a setting or the environment does not fit.
        """
        # Imported here: Stable-Baselines3 is slow to import.
        from maml_rl.agents.sb3_env import as_sb3_env, make_vec_env
        from maml_rl.agents.sb3_models import model_of

        check_plain_actions(self.action_space)
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
                "task and num_envs apply only to an environment that to_sb3 makes: leave them out, "
                "or leave out env"
            )
        env = as_sb3_env(env)
        self.check_spaces(env.observation_space, env.action_space)
        return model_of(self.plain_network, env, algorithm, {"device": self.device, **settings})

    def check_spaces(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        subject: str = "the environment",
        reference: str = "the policy",
    ) -> None:
        """Check that spaces are those of the policy.

        The bounds of actions must be equal, since they scale the policy's outputs. The bounds of
        observations may differ.

        Args:
            observation_space: the environment's observation space.
            action_space: the environment's action space.
            subject: owner of these spaces, for the message.
            reference: owner of the policy's spaces, for the message.

        Raises:
            UserError: if the spaces differ; the message names both pairs.
        """
        pairs = ((observation_space, self.observation_space), (action_space, self.action_space))
        is_different = any(
            one.shape != other.shape or type(one) is not type(other) for one, other in pairs
        )
        if is_different or not have_same_actions(action_space, self.action_space):
            reason = ""
            if self.config.env.observe_task:
                reason = ": its observations include the task (env.observe_task)"
            raise UserError(
                f"{subject} has observations {observation_space} and actions {action_space}; "
                f"{reference} expects {self.observation_space} and {self.action_space}{reason}"
            )

    def save(self, folder: str | Path) -> Path:
        """Write the policy as a run folder, which :func:`maml_rl.load` reads.

        Returns:
            The folder.

        Raises:
            UserError: if the folder exists and is not empty, or cannot be written.
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
