"""What users hold: an agent that predicts, adapts, and is saved or exported."""

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
from torch import Tensor

from maml_rl.agents.episode_log import (
    EpisodeLog,
    logged_stages,
    to_episodes,
    warn_unless_sampled,
)
from maml_rl.agents.learner_checkpoint import ACTIONS, agent_content
from maml_rl.agents.predict_arguments import (
    checked_flags,
    checked_memory,
    checked_observations,
    checked_rewards,
    continued_memory,
)
from maml_rl.errors import UserError
from maml_rl.learners.base import BELIEF, Belief, Learner, LearnerState
from maml_rl.learners.trials import contained_update, play_trials, usable_episodes
from maml_rl.policies.action_map import ActionMap, actions_text, have_same_actions
from maml_rl.policies.export import PlainPolicy, export, plain_policy
from maml_rl.policies.plain_network import PlainNetwork, check_plain_actions
from maml_rl.runs.checkpoint import save_checkpoint
from maml_rl.runs.run_folder import create_run_folder
from maml_rl.sampling.actors import Actor, Memory, PolicyActor, check_actor, checked_outputs
from maml_rl.sampling.collector import Collector
from maml_rl.sampling.environments import as_task_vector_env
from maml_rl.sampling.failures import FailedTasks, TrialFailures
from maml_rl.sampling.task_vector_env import TaskVectorEnv
from maml_rl.settings.config import Config, origin, to_mapping
from maml_rl.settings.drawn_tasks import Task
from maml_rl.settings.learners import episodes_per_stage
from maml_rl.settings.ranges import check_integers
from maml_rl.system.atomic_files import unwritable_refused
from maml_rl.system.distributed import Ranks
from maml_rl.system.random_streams import Phase, RandomStreams
from maml_rl.system.text import counted
from maml_rl.system.torch_runtime import standard_torch, torch_threads
from maml_rl.system.untrusted_files import user_path

if TYPE_CHECKING:
    from maml_rl.agents.sb3_env import SB3Env
    from maml_rl.agents.sb3_models import Model
    from maml_rl.analysis.evaluation import Evaluation


@dataclass(frozen=True)
class Agent:
    """A meta-trained or adapted agent, with everything that acting and adapting need.

    It is immutable: :meth:`adapt` returns a new agent.
    """

    learner: Learner
    """How it acts and adapts."""
    state: LearnerState
    """What the learner has learned in meta-training."""
    belief: Belief
    """What it believes about its task, (1, ...): for MAML, the adapted parameters."""
    observation_space: spaces.Space[Any]
    """Observation space of a single environment: a Box."""
    action_space: spaces.Space[Any]
    """Action space of a single environment."""
    config: Config
    """Settings of the run that trained it."""
    num_adaptation_steps: int = 0
    """Updates of the belief since meta-training; 0 for the meta-trained agent."""
    is_best: bool = False
    """Whether evaluations in training chose its iteration (``load(run, iteration="best")``)."""
    is_final: bool = False
    """Whether its run had ended when its checkpoint was written; true if the checkpoint does not
    say it, as a saved agent or one of earlier versions."""

    def __repr__(self) -> str:
        """Show environment, spaces and number of adaptation steps, without the parameters."""
        return (
            f"Agent({self.config.env.name}, observations {self.observation_space.shape}, "
            f"actions {self.action_space}, {counted(self.num_adaptation_steps, 'adaptation step')})"
        )

    def with_state(self, state: LearnerState) -> Agent:
        """Return the agent that has learned ``state`` and has not adapted."""
        return dataclasses.replace(
            self, state=state, belief=self.learner.prior(state, 1), num_adaptation_steps=0
        )

    @property
    def acting_tensors(self) -> dict[str, Mapping[str, Tensor]]:
        """All tensors on which acting and adapting depend, in groups: state and belief."""
        tensors = {name: self.state.tensors.get(name, {}) for name in self.learner.ACTING}
        return {**tensors, BELIEF: self.belief}

    @property
    def num_iterations(self) -> int | None:
        """Iterations of training, or ``None`` if that is not known."""
        return self.state.counters["iteration"] or None

    @property
    def device(self) -> torch.device:
        """Device of the belief."""
        return next(iter(self.belief.values())).device

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
        *,
        reward: Any = None,
        ended: Any = None,
    ) -> tuple[np.ndarray, Any]:
        """Return actions at observations; the signature is Stable-Baselines3's ``predict``.

        A learner that remembers rewards, such as RL², needs ``reward`` from the second call on.
        Others ignore ``reward`` and ``ended``.

        Args:
            observation: raw observation (*observation_shape), or N of them (N, *observation_shape).
            state: what the agent remembers of each environment, as returned by the last call;
                ``None`` at first, and in every first call of a task: without it, an agent with a
                memory has none. It stays ``None`` for a learner without memory, such as MAML
                without a latent variable.
            episode_start: (N,) bool: where to begin with the agent's belief instead of ``state``.
            deterministic: return the most probable action instead of sampling.
            rng: generator for sampling; default is a new, unseeded one.
            reward: of the last action, a number or (N,), in the units of training.
            ended: (N,) bool: where the last action ended an episode, and the observation is the
                first one of the next, in the same task; needs ``reward``. The agent keeps its
                memory; in a new task set ``episode_start``. Default is nowhere.

        Returns:
            Actions and the new ``state``. Actions have the shape of the action space, or
            (N, *shape), in the environment's units; discrete ones are an integer or (N,).

        Raises:
            UserError: if an argument has the wrong type or shape, the observation or the reward is
                not finite, or a reward that the learner or ``ended`` needs is missing.
        """
        shape = self.observation_space.shape
        assert shape is not None, "the space is a Box"
        batch, is_single = checked_observations(observation, shape)
        number = len(batch)
        starts = checked_flags(episode_start, number, "episode_start")
        ends = checked_flags(ended, number, "ended")
        rewards = None if reward is None else checked_rewards(reward, number)
        if ends.any() and reward is None:
            raise UserError("ended needs reward, the reward of the action that ended the episode")
        if rng is not None and not isinstance(rng, np.random.Generator):
            raise UserError(
                f"rng must be a generator such as numpy.random.default_rng(0), got {rng!r:.100}"
            )
        if np.ndim(deterministic) > 0 or deterministic not in (False, True):
            raise UserError(f"deterministic must be true or false, got {deterministic!r:.100}")
        noise = None
        if not deterministic:
            generator = np.random.default_rng() if rng is None else rng
            samples = self.learner.draw_noise(generator, (1, number, 1))
            noise = torch.from_numpy(samples).to(self.device)

        def started(memory: Memory | None) -> Actor:
            actor = self._actor(self.belief, noise, memory)
            actor.start(slice(0, number))
            return actor

        # An actor plays one step of N episodes.
        actor = started(None)
        if state is not None:
            fresh = actor.memory or ()
            before = started(checked_memory(state, fresh, starts))
            if rewards is not None:
                before.observe(rewards, ends)
            actor = started(continued_memory(before.memory or (), fresh, starts))
        action_map = self.action_map
        actions = action_map(checked_outputs(actor.act(batch, 0), number, action_map))
        return (actions[0] if is_single else actions), actor.memory

    def _actor(
        self, belief: Belief, noise: Tensor | None = None, memory: Memory | None = None
    ) -> Actor:
        """Return the learner's actor; the arguments are those of ``Learner.actor``."""
        actor = self.learner.actor(self.state, belief, noise, memory)
        check_actor(actor)
        return actor

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
    ) -> Agent:
        """Adapt to the task of an environment, or to logged episodes.

        Args:
            env: a Gymnasium environment; a vector environment; or a name, as for ``--env``. Default
                is the environment that the agent was trained on. A vector environment must have
                autoreset disabled, the same task in all sub-environments, and a number of them that
                divides ``num_episodes``. An environment that you pass stays open. Episodes are at
                most as long as in training, even if the environment's own are longer.
            task: the task to set; default is the current one of the environment that you pass. If
                the environment is made from a name, and has tasks, it is required. An environment
                object without ``set_task`` or ``sample_tasks`` takes none: its arguments are fixed.
            num_steps: adaptation steps (for MAML, inner steps); default as in training.
            num_episodes: episodes per adaptation step; default as in training.
            seed: seed of the episodes that it plays; the same task and seed give the same agent.
            episodes: logged episodes to use instead of an environment: an
                :class:`~maml_rl.agents.episode_log.EpisodeLog`, or a mapping of its fields, for one
                adaptation step; or a sequence of logs, one per step. This agent must have played
                the first log, the agent after one step the second, and so on. If a step of the
                learner takes one episode, as RL²'s, every episode of a log is a step; RL² and PEARL
                take episodes from any controller.

        Returns:
            The adapted agent; this one does not change.

        Raises:
            UserError: if the environment's spaces differ from the agent's, the task is missing, an
                argument is out of range, or the episodes are invalid.
            FloatingPointError: if no episode is valid, or an adaptation step is not finite.
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
    ) -> Agent:
        """Return the agent after adaptation steps on episodes that it plays in an environment."""
        num_steps = self.learner.num_adaptation_steps if num_steps is None else num_steps
        num_episodes = self.config.num_episodes if num_episodes is None else num_episodes
        check_integers(1, num_episodes=num_episodes)
        check_integers(0, num_steps=num_steps, seed=seed)
        num_episodes = episodes_per_stage(self.config.learner, num_episodes)
        horizon = self.config.horizon
        with (
            torch_threads(self.config.torch_threads),
            as_task_vector_env(env, self.config.env, num_episodes, horizon, num_tasks=1) as envs,
        ):
            self.check_spaces(envs.single_observation_space, envs.single_action_space)
            if task is None and (env is None or isinstance(env, str)):
                _refuse_tasks(envs)
            trial = play_trials(
                self.learner,
                self.state,
                self.collector(envs, num_tasks=1, num_episodes=num_episodes),
                None if task is None else [task],
                num_adaptation_steps=num_steps,
                streams=RandomStreams(seed, Phase.ADAPTATION),
                belief=self.belief,
                first_stage=self.num_adaptation_steps,
                final_episodes=False,
            )
        trial.failures.refuse_failed_tasks([{} if task is None else task])
        return self._with(trial.beliefs[-1], num_steps)

    @standard_torch()
    def with_chosen_step_sizes(self, num_tasks: int = 40, seed: int = 0) -> Agent:
        """Choose step sizes for use outside training, as training does at its end.

        For an agent whose training did not choose them, for example by an earlier version. The
        choice is kept by :meth:`save`. It plays ``num_episodes`` of the settings per task and step.

        Args:
            num_tasks: number of fresh training tasks.
            seed: seed of tasks and episodes; the same seed gives the same agent.

        Returns:
            The meta-trained agent with the choice; this one does not change.

        Raises:
            UserError: if this agent has adapted, its learner or settings leave nothing to choose,
                or an argument is out of range.
        """
        check_integers(1, num_tasks=num_tasks)
        check_integers(0, seed=seed)
        if self.num_adaptation_steps:
            raise UserError(
                f"this agent has taken {counted(self.num_adaptation_steps, 'adaptation step')}: "
                "choose step sizes before it adapts"
            )
        num_episodes = episodes_per_stage(self.config.learner, self.config.num_episodes)
        num_envs = num_tasks * num_episodes
        opened = as_task_vector_env(
            None, self.config.env, num_envs, self.config.horizon, num_tasks=num_tasks
        )
        with torch_threads(self.config.torch_threads), opened as envs:
            collector = self.collector(envs, num_tasks, num_episodes)
            streams = RandomStreams(seed, Phase.AFTER_TRAINING)
            state = self.learner.after_training(self.state, collector, streams, Ranks())
        if state is self.state:
            raise UserError(
                "there is nothing to choose for this agent: that needs learner maml, "
                "inner.num_steps of at least 1, inner.test_step_sizes [] and "
                "inner.choose_test_step_sizes true"
            )
        return self.with_state(state)

    def evaluate(self, **arguments: Any) -> Evaluation:
        """Measure the return after 0, 1, ... K adaptation steps on fresh tasks, or on given ones.

        Args:
            arguments: those of :func:`maml_rl.evaluate`, such as ``num_tasks``, ``num_steps`` and
                ``deterministic``.

        Returns:
            Returns of each task after each step.

        Raises:
            UserError: as :func:`maml_rl.evaluate`.
        """
        # Imported here: that module evaluates agents, so it imports this one.
        from maml_rl.analysis.evaluation import evaluate

        return evaluate(self, **arguments)

    def collector(self, env: TaskVectorEnv, num_tasks: int, num_episodes: int) -> Collector:
        """Return a collector that plays this agent.

        Args:
            env: with the agent's spaces.
            num_tasks: T.
            num_episodes: E, per task.
        """
        return Collector(
            env=env,
            num_tasks=num_tasks,
            num_episodes=num_episodes,
            horizon=self.config.horizon,
            action_map=self.action_map,
            device=self.device,
        )

    @torch.no_grad()
    def _adapted_to(self, logs: Any) -> Agent:
        """Return the agent after one adaptation step on each log, or stage of a log."""
        check_plain_actions(self.action_space)
        shape = self.observation_space.shape or ()
        stages = logged_stages(logs, self.config, shape, self.action_map)
        belief = self.belief
        failed = FailedTasks.none_of(1, self.device)
        for stage, episodes in enumerate(stages, self.num_adaptation_steps):
            # The episodes, as the collector would return them.
            actor = self._actor(belief)
            played = to_episodes(episodes, actor, self.device)
            if isinstance(actor, PolicyActor) and not episodes.is_discrete:
                warn_unless_sampled(played)
            # The update; refuse a failed one.
            usable, failed = usable_episodes(self.learner, played, stage, failed)
            updated = self.learner.update(self.state, belief, usable, stage)
            belief, failed = contained_update(belief, updated, stage, failed)
            TrialFailures(usable.cause[:, None], failed, stage).refuse_failed_tasks([{}])
        return self._with(belief, len(stages))

    def _with(self, belief: Belief, num_steps: int) -> Agent:
        """Return the agent with another belief, ``num_steps`` steps later."""
        return dataclasses.replace(
            self, belief=belief, num_adaptation_steps=self.num_adaptation_steps + num_steps
        )

    @property
    def plain_network(self) -> PlainNetwork:
        """The policy with normalisation, context and action map folded into its layers.

        Raises:
            UserError: as :func:`~maml_rl.policies.plain_network.check_plain_actions`, or if the
                policy is not a multilayer perceptron.
        """
        check_plain_actions(self.action_space)
        return self.learner.plain_network(self.state, self.belief, self.action_map)

    @standard_torch()
    def module(self, with_distribution: bool = False) -> PlainPolicy:
        """Return a plain ``nn.Module`` on the CPU that computes actions and needs only torch.

        It maps raw observations (N, *observation_shape), float32, to the most probable actions. If
        the agent has a memory, such as RL²'s, that is an input and an output; see
        :class:`~maml_rl.policies.export.PlainMemoryPolicy`.

        Args:
            with_distribution: return the parameters of the action distribution instead; see
                :class:`~maml_rl.policies.export.PlainPolicy`. Not for an agent with a memory.

        Raises:
            UserError: as :func:`~maml_rl.policies.plain_network.check_plain_actions`, or as
                :func:`~maml_rl.policies.export.plain_policy`.
        """
        check_plain_actions(self.action_space)
        plain = self.learner.plain_module(self.state, self.belief, self.action_map)
        return plain_policy(plain, self.observation_space, self.action_space, with_distribution)

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
        export(self.module(with_distribution), path)
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
        """Return a Stable-Baselines3 model whose actor is this agent's policy.

        Before clipping, its actions have the same distribution as the agent's. Its value network
        has new parameters.

        Args:
            env: a Gymnasium environment, a ``VecEnv``, or a name, as for ``--env``; default is the
                environment that the agent was trained on. From a name or the default, this method
                makes a ``VecEnv``.
            algorithm: PPO or A2C, by name or class.
            task: the task of an environment made here; default is a random one per simulation.
            num_envs: number of simulations of an environment made here.
            settings: settings of the algorithm, such as ``learning_rate``.

        Raises:
            UserError: if the algorithm, a setting or the environment does not fit, or the policy is
                not a multilayer perceptron.
        """
        # Imported here: Stable-Baselines3 is slow to import.
        from maml_rl.agents.sb3_env import as_sb3_env
        from maml_rl.agents.sb3_models import model_of

        network = self.plain_network
        is_own = env is None or isinstance(env, str)
        sb3_env = as_sb3_env(
            env,
            self.config.env,
            self.config.horizon,
            num_envs=num_envs,
            task=task,
            seed=settings.get("seed"),
        )
        flat = dataclasses.replace(
            self, observation_space=spaces.flatten_space(self.observation_space)
        )
        try:
            flat.check_spaces(sb3_env.observation_space, sb3_env.action_space)
            return model_of(network, sb3_env, algorithm, {"device": self.device, **settings})
        except BaseException:
            if is_own:
                sb3_env.close()
            raise

    def check_spaces(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        subject: str = "the environment",
        reference: str = "the policy",
    ) -> None:
        """Check that spaces are those of the agent.

        The bounds of actions must be equal, since they scale the policy's outputs. The bounds of
        observations may differ.

        Args:
            observation_space: the environment's observation space.
            action_space: the environment's action space.
            subject: owner of these spaces, for the message.
            reference: owner of the agent's spaces, for the message.

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
        """Write the agent as a run folder, which :func:`maml_rl.load` reads.

        Returns:
            The folder.

        Raises:
            UserError: if the folder exists and is not empty, or cannot be written.
        """
        folder = user_path(folder)
        create_run_folder(folder, to_mapping(self.config))
        tensors, values = agent_content(
            self.learner, self.state, self.belief, self.num_adaptation_steps
        )
        run = {**origin(self.config), ACTIONS: actions_text(self.action_space)}
        with unwritable_refused(folder):
            save_checkpoint(folder / "checkpoints", 0, tensors, {**values, "run": run})
        return folder


def _refuse_tasks(env: TaskVectorEnv) -> None:
    """Check that an environment without a chosen task has no tasks.

    Raises:
        UserError: if it draws tasks; it would adapt to one that nobody knows.
    """
    env.np_random = np.random.default_rng(0)
    (example,) = env.sample_tasks(1)
    if example:
        raise UserError(
            f"there is no task to adapt to: pass one as task={dict(example)!r:.200}, or "
            "pass an environment whose task is set"
        )
