"""Open everything that a training run needs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from maml_rl.agents.agent import MetaPolicy
from maml_rl.agents.load import load_run
from maml_rl.agents.policy_checkpoint import check_parameters
from maml_rl.analysis.evaluation import plain_task
from maml_rl.errors import UserError
from maml_rl.learners.maml.inner_step import initial_theta
from maml_rl.learners.maml.learner import MetaTrainer, TrainingState
from maml_rl.learners.trials import sample_tasks
from maml_rl.policies.mlp import make_policy
from maml_rl.policies.normalizer import ObservationNormalizer
from maml_rl.sampling.collector import Collector
from maml_rl.sampling.environments import as_task_vector_env
from maml_rl.sampling.task_vector_env import TaskVectorEnv
from maml_rl.settings.config import Config
from maml_rl.system.distributed import Ranks
from maml_rl.system.random_streams import Phase, RandomStreams
from maml_rl.system.torch_runtime import keep_freed_memory, resolve_device, torch_threads


class OpenedTrainer(NamedTuple):
    """A trainer, with the state and the policy to start from."""

    trainer: MetaTrainer
    state: TrainingState
    """The state before the first meta-iteration."""
    policy: MetaPolicy
    """The policy of that state."""


@contextlib.contextmanager
def open_trainer(
    config: Config, ranks: Ranks | None = None, check_stop: Callable[[], None] = lambda: None
) -> Iterator[OpenedTrainer]:
    """Open everything that training needs, without writing a file.

    Args:
        config: settings of the run.
        ranks: the processes that share the tasks; default is this process alone.
        check_stop: called between the stages of a meta-iteration; may raise to stop it.

    Raises:
        UserError: if the configuration is invalid.
    """
    # Device, and the tasks of this process.
    keep_freed_memory()
    device = resolve_device(config.device)
    ranks = ranks or Ranks()
    first_task, end = ranks.share(config.meta_batch_size)
    num_tasks = end - first_task
    num_envs = num_tasks * config.num_episodes
    # Environment, policy and collector.
    opened_env = as_task_vector_env(None, config.env, num_envs, config.horizon, num_tasks=num_tasks)
    with torch_threads(config.torch_threads), opened_env as env:
        policy = _initial_policy(config, env, device)
        collector = Collector(
            env=env,
            policy=policy.policy,
            num_tasks=num_tasks,
            num_episodes=config.num_episodes,
            horizon=config.horizon,
            action_map=policy.action_map,
            device=device,
            first_task=first_task,
            num_tasks_of_all=config.meta_batch_size,
            check_stop=check_stop,
        )
        # Fail early if the final evaluation could not write the tasks.
        for task in sample_tasks(collector, RandomStreams(config.seed, Phase.INITIALISATION)):
            plain_task(task, config.env.name)
        # Trainer and initial state.
        trainer = MetaTrainer(
            collector=collector,
            inner=config.training_inner,
            outer=config.outer,
            baseline=config.baseline,
            seed=config.seed,
            max_failed_share=config.max_failed_share,
            ranks=ranks,
            tasks_per_block=config.tasks_per_block,
        )
        state = TrainingState(theta=policy.theta, outer_state={}, normalizer=policy.normalizer)
        yield OpenedTrainer(trainer, state, policy)


def _initial_policy(config: Config, env: TaskVectorEnv, device: torch.device) -> MetaPolicy:
    """The policy that training starts from: new parameters, or those of ``init_from``."""
    observation_space = env.single_observation_space
    action_space = env.single_action_space
    policy = make_policy(config.policy, observation_space, action_space, config.seed).to(device)
    theta = initial_theta(policy, config.inner)
    normalizer = None
    if config.policy.normalize_observations:
        normalizer = ObservationNormalizer.empty(policy.observation_size, device)
    if config.init_from is not None:
        source = load_run(Path(config.init_from), device)
        check_parameters(policy, config.inner, source.theta, Path(config.init_from))
        if (source.normalizer is not None) != config.policy.normalize_observations:
            raise UserError(
                f"{config.init_from} was trained with policy.normalize_observations "
                f"{source.config.policy.normalize_observations}: set the same value"
            )
        theta = dict(source.theta)
        normalizer = source.normalizer
    return MetaPolicy(
        policy=policy,
        theta=theta,
        normalizer=normalizer,
        observation_space=observation_space,
        action_space=action_space,
        config=config,
    )
