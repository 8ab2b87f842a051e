"""Open everything that a training run needs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

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
from maml_rl.settings.config import Config
from maml_rl.system.distributed import Ranks
from maml_rl.system.random_streams import Phase, RandomStreams
from maml_rl.system.torch_runtime import keep_freed_memory, resolve_device, torch_threads


@contextlib.contextmanager
def open_trainer(
    config: Config, ranks: Ranks | None = None
) -> Iterator[tuple[MetaTrainer, TrainingState, MetaPolicy]]:
    """Open everything that training needs, without writing anything.

    Args:
        config: of the run.
        ranks: the processes that share its tasks; default is this one alone.

    Raises:
        UserError: something in the configuration cannot be used.
    """
    keep_freed_memory()
    device = resolve_device(config.device)
    ranks = ranks or Ranks()
    first_task, end = ranks.share(config.meta_batch_size)
    num_tasks = end - first_task
    num_envs = num_tasks * config.num_episodes
    made = as_task_vector_env(None, config.env, num_envs, config.horizon, num_tasks=num_tasks)
    with torch_threads(config.torch_threads), made as env:
        spaces = env.single_observation_space, env.single_action_space
        policy = make_policy(config.policy, *spaces, config.seed).to(device)
        theta, normalizer = initial_theta(policy, config.inner), None
        if config.policy.normalize_observations:
            normalizer = ObservationNormalizer.empty(policy.observation_size, device)
        if config.init_from is not None:
            start = load_run(Path(config.init_from), device)
            check_parameters(policy, config.inner, start.theta, Path(config.init_from))
            if (start.normalizer is not None) != config.policy.normalize_observations:
                raise UserError(
                    f"{config.init_from} was trained with policy.normalize_observations "
                    f"{start.config.policy.normalize_observations}: set it likewise"
                )
            theta, normalizer = dict(start.theta), start.normalizer
        meta_policy = MetaPolicy(policy, theta, normalizer, *spaces, config)
        collector = Collector(
            env=env,
            policy=policy,
            num_tasks=num_tasks,
            num_episodes=config.num_episodes,
            horizon=config.horizon,
            action_map=meta_policy.action_map,
            device=device,
            first_task=first_task,
            num_tasks_of_all=config.meta_batch_size,
        )
        for task in sample_tasks(collector, RandomStreams(config.seed, Phase.INITIALISATION)):
            plain_task(task, config.env.name)  # else the evaluation at the end could not be written
        settings = (
            config.training_inner,
            config.outer,
            config.baseline,
            config.seed,
            config.max_failed_share,
            ranks,
        )
        trainer = MetaTrainer(collector, *settings, config.tasks_per_block)
        yield trainer, TrainingState(theta, {}, normalizer), meta_policy
