"""Everything that the iterations of a training run need, and how it is opened."""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from gymnasium.spaces import Space, flatdim

from maml_rl.agents.agent import Agent
from maml_rl.agents.load import load_run
from maml_rl.analysis.evaluation import evaluate_with
from maml_rl.errors import MamlRLWarning, UserError
from maml_rl.learners.base import Iteration, Learner, LearnerState
from maml_rl.learners.checks import check_after_training, check_iteration
from maml_rl.learners.make import make_learner
from maml_rl.learners.metrics import per_stage
from maml_rl.learners.trials import sample_tasks
from maml_rl.sampling.collector import Collector
from maml_rl.sampling.environments import as_task_vector_env
from maml_rl.sampling.episodes import success_of_all
from maml_rl.settings.config import Config
from maml_rl.settings.drawn_tasks import plain_task
from maml_rl.settings.engine import with_engine
from maml_rl.settings.learners import episodes_per_stage
from maml_rl.system.distributed import Ranks
from maml_rl.system.random_streams import Phase, RandomStreams
from maml_rl.system.torch_runtime import keep_freed_memory, resolve_device, torch_threads


class Training(NamedTuple):
    """Everything that iterations need."""

    agent: Agent
    """The agent that training starts from, with the learner and its state."""
    collector: Collector
    """Plays the tasks of this process."""
    ranks: Ranks
    """The processes that share the tasks."""

    def iterate(self) -> Iteration:
        """Run one iteration of the learner."""
        streams = RandomStreams(self.agent.config.seed, Phase.TRAINING, self.iteration)
        learner, state = self.agent.learner, self.agent.state
        settings = self.agent.config.learner
        result = learner.iteration(state, self.collector, streams, self.ranks)
        if settings.is_own:
            check_iteration(result, state, learner, settings.name)
        return result

    @property
    def iteration(self) -> int:
        """Iterations finished."""
        return self.agent.state.counters["iteration"]

    @property
    def num_evaluated_steps(self) -> int:
        """Adaptation steps of an evaluation in training: as many as the learner takes, or 1."""
        return max(1, self.agent.learner.num_adaptation_steps)

    def with_progress(self, progress: Callable[[str], None]) -> Training:
        """Return the same, which calls ``progress`` with what an iteration is doing."""
        return self._replace(collector=dataclasses.replace(self.collector, progress=progress))

    def continued(self, state: LearnerState) -> Training:
        """Return the same with the state after an iteration."""
        return self._replace(agent=self.agent.with_state(state))

    def ended(self) -> Training:
        """Return the same with what the learner chooses after the last iteration."""
        if self.iteration == 0:
            return self
        streams = RandomStreams(self.agent.config.seed, Phase.AFTER_TRAINING, self.iteration)
        learner, before = self.agent.learner, self.agent.state
        settings = self.agent.config.learner
        state = learner.after_training(before, self.collector, streams, self.ranks)
        if settings.is_own:
            check_after_training(state, before, learner, settings.name)
        return self.continued(state)

    def evaluation_metrics(self) -> dict[str, float]:
        """Evaluate on fresh tasks, in the training environments of all processes.

        Raises:
            TooManyFailures: if too many episodes or tasks failed.
        """
        streams = RandomStreams(self.agent.config.seed, Phase.EVALUATION, self.iteration)
        progress = self.collector.progress
        evaluating = self.with_progress(lambda text: progress(f"evaluation, {text}"))
        result = evaluate_with(
            evaluating.collector,
            self.agent,
            self.num_evaluated_steps,
            streams,
            ranks=self.ranks,
        )
        returns, success = (
            self.ranks.gather(torch.from_numpy(values).double().movedim(1, 0))
            for values in (result.returns, result.success)
        )
        rates = per_stage("evaluation/success", success_of_all(success, returns))
        return per_stage("evaluation/return", returns) | rates


@contextlib.contextmanager
def open_training(
    config: Config, ranks: Ranks | None = None, check_stop: Callable[[], None] = lambda: None
) -> Iterator[Training]:
    """Open everything that training needs, without writing a file.

    Args:
        config: settings of the run.
        ranks: the processes that share the tasks; default is this process alone.
        check_stop: called between the stages of an iteration; may raise to stop it.

    Raises:
        UserError: if the configuration is invalid.
    """
    # Device, and the tasks of this process.
    keep_freed_memory()
    device = resolve_device(config.device)
    ranks = ranks or Ranks()
    config = with_engine(config, device.type == "cuda", ranks.number)
    first_task, end = ranks.share(config.meta_batch_size)
    num_tasks = end - first_task
    num_episodes = episodes_per_stage(config.learner, config.num_episodes)
    num_envs = num_tasks * num_episodes
    # Environment, learner and collector.
    opened_env = as_task_vector_env(
        None,
        config.env,
        num_envs,
        config.horizon,
        num_tasks=num_tasks,
        device=device if config.engine == "warp" else None,
    )
    with torch_threads(config.torch_threads), opened_env as env:
        spaces = env.single_observation_space, env.single_action_space
        learner = make_learner(config, *spaces, device)
        state = _first_state(config, learner, device, spaces)
        agent = Agent(learner, state, learner.prior(state, 1), *spaces, config)
        collector = dataclasses.replace(
            agent.collector(env, num_tasks, num_episodes),
            first_task=first_task,
            num_tasks_of_all=config.meta_batch_size,
            check_stop=check_stop,
        )
        # Fail early if the final evaluation could not write the tasks.
        for task in sample_tasks(collector, RandomStreams(config.seed, Phase.INITIALISATION)):
            plain_task(task, config.env.name)
        yield Training(agent, collector, ranks)


def _first_state(
    config: Config, learner: Learner, device: torch.device, spaces: tuple[Space[Any], Space[Any]]
) -> LearnerState:
    """The state that training starts from: the initial one, or that of ``init_from``."""
    if config.init_from is None:
        return learner.initial_state()
    path = Path(config.init_from)
    source = load_run(path, device)
    old, new = (
        [flatdim(space) for space in pair]
        for pair in ((source.observation_space, source.action_space), spaces)
    )
    # Networks and learners of the user's may fit other sizes.
    if old != new and config.policy.network is None and not config.learner.is_own:
        raise UserError(
            f"{config.init_from} was trained in {source.config.env.name}, with observations and "
            f"actions of {old[0]} and {old[1]} numbers; those of {config.env.name} have {new[0]} "
            f"and {new[1]}"
        )
    state = learner.started_from(source.state, source.belief)
    _refuse_another(config, source.config, "normalize_observations")
    # PEARL has layers, nonlinearity and scale of its own.
    has_policy = not config.learner.OUTPUTS_ARE_BOUNDED
    if has_policy and config.policy.network is None:
        _refuse_another(config, source.config, "hidden_sizes")
        _refuse_another(config, source.config, "nonlinearity")
    learner.check(state, path)
    if has_policy:
        before, now = (each.policy.action_scale for each in (source.config, config))
        if before != now:
            warnings.warn(
                f"{config.init_from} was trained with policy.action_scale {before}; with {now}, "
                "the same network outputs give other actions",
                MamlRLWarning,
                stacklevel=2,
            )
    return state


def _refuse_another(config: Config, source: Config, name: str) -> None:
    """Refuse a setting of the policy that is not that of the run ``init_from``."""
    old, new = (getattr(each.policy, name) for each in (source, config))
    if old != new:
        raise UserError(
            f"{config.init_from} was trained with policy.{name} {old}: set the same value, got "
            f"{new}"
        )
