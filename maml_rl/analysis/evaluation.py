"""Evaluate how fast an agent adapts: returns after 0, 1, ... K updates on fresh tasks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from maml_rl.agents.agent import Agent
from maml_rl.analysis.evaluation_result import Evaluation as Evaluation
from maml_rl.analysis.evaluation_result import changes_in_episodes
from maml_rl.analysis.tasks.words import value_names_of
from maml_rl.errors import UserError
from maml_rl.learners.base import Belief
from maml_rl.learners.trials import Trial, play_most_probable, play_trials, sample_tasks
from maml_rl.sampling.collector import Collector
from maml_rl.sampling.environments import as_task_vector_env
from maml_rl.sampling.episodes import Episodes, success_of_all
from maml_rl.settings.config import env_settings
from maml_rl.settings.drawn_tasks import Task, plain_task, with_fixed
from maml_rl.settings.env import EnvConfig
from maml_rl.settings.families import held_out
from maml_rl.settings.learners import episodes_per_stage
from maml_rl.settings.ranges import check_integers
from maml_rl.system.distributed import Ranks
from maml_rl.system.random_streams import Phase, RandomStreams
from maml_rl.system.torch_runtime import standard_torch, torch_threads

NUM_TASKS = 40
"""Default number of tasks."""

_FEWEST_STEPS = 3
"""Default number of adaptation steps, if training has no more."""


def evaluate_with(
    collector: Collector,
    agent: Agent,
    num_steps: int,
    streams: RandomStreams,
    env: EnvConfig | None = None,
    tasks: Sequence[Task] | None = None,
    fixed: Mapping[str, float] | None = None,
    num_trials: int = 1,
    deterministic: bool = False,
    deterministic_adaptation: bool = False,
    ranks: Ranks | None = None,
) -> Evaluation:
    """Evaluate on N tasks, in one or several independent trials of each.

    Args:
        collector: plays N · num_trials tasks, E episodes each.
        agent: the agent to adapt.
        num_steps: number of updates K. The return after update k is measured on the episodes that
            update k + 1 learns from, unless only the measured episodes are deterministic.
        streams: random streams of tasks and episodes.
        env: settings of the collector's environment, for the description; default is the agent's
            own.
        tasks: those of all processes; default is to draw fresh ones.
        fixed: values that replace those of every task, by name.
        num_trials: independent trials of each task.
        deterministic: whether to measure the return of the most probable actions.
        deterministic_adaptation: whether to play them in the episodes of updates, too.
        ranks: the processes that share the tasks; default is this process alone. The result has the
            N tasks of this one.

    Raises:
        UserError: if a task cannot be written to a file, or lacks a numeric value in ``fixed``.
        TooManyFailures: if more than ``max_failed_share`` of the episodes are discarded, or of the
            tasks failed, of all processes.
    """
    env_name = agent.config.env.name
    # Tasks; refuse what no file can hold before anything is played.
    tasks_are_given = tasks is not None
    if tasks is None:
        tasks = sample_tasks(collector, streams, collector.meta_batch_size // num_trials)
    tasks = [with_fixed(task, fixed or {}, env_name) for task in tasks]
    # The trials of a task are neighbours.
    tasks_of_trials = [task for task in tasks for _ in range(num_trials)]
    tasks = collector.of_this_process(tasks_of_trials)[::num_trials]
    plain_tasks = [plain_task(task, env_name) for task in tasks]
    # Episodes.
    stages = _measured_stages(
        collector,
        agent,
        num_steps,
        streams,
        tasks_of_trials,
        deterministic,
        deterministic_adaptation,
        ranks or Ranks(),
    )
    sizes = (num_steps + 1, len(tasks), num_trials * collector.num_episodes)
    returns = torch.stack([stage.returns for stage in stages]).reshape(sizes)
    reports = torch.stack([stage.success for stage in stages]).reshape(sizes)
    success = success_of_all(reports, returns)
    has_changes = changes_in_episodes(tasks, env_name, num_steps + 1, collector.horizon)
    return Evaluation(
        tasks=plain_tasks,
        returns=returns.cpu().numpy(),
        success=success.cpu().numpy(),
        description=_description(
            agent, collector, plain_tasks, streams.seed, env, num_trials, tasks_are_given
        )
        | actions_played(deterministic, deterministic_adaptation),
        rewards=mean_rewards(stages, len(tasks)) if has_changes else None,
        lasting=lasting_shares(stages, len(tasks)) if has_changes else None,
    )


def mean_rewards(stages: Sequence[Episodes], num_tasks: int) -> np.ndarray:
    """Return :attr:`Evaluation.rewards`.

    Args:
        stages: measured episodes; the trials of a task are neighbours.
        num_tasks: N.
    """
    means = []
    for stage in stages:
        rewards = (stage.rewards * stage.mask).reshape(num_tasks, -1, stage.rewards.shape[-1])
        is_valid = (~stage.discarded).reshape(num_tasks, -1, 1)
        means.append(rewards.sum(1) / is_valid.sum(1))
    return torch.stack(means).cpu().numpy()


def lasting_shares(stages: Sequence[Episodes], num_tasks: int) -> np.ndarray:
    """Return :attr:`Evaluation.lasting`; the arguments are those of :func:`mean_rewards`."""
    shares = []
    for stage in stages:
        lasts = stage.mask[..., -1].reshape(num_tasks, -1)
        is_valid = (~stage.discarded).reshape(num_tasks, -1)
        shares.append(lasts.sum(1) / is_valid.sum(1))
    return torch.stack(shares).cpu().numpy()


def _measured_stages(
    collector: Collector,
    agent: Agent,
    num_steps: int,
    streams: RandomStreams,
    tasks: Sequence[Task],
    deterministic: bool,
    deterministic_adaptation: bool,
    ranks: Ranks,
) -> list[Episodes]:
    """Play trials, and return the episodes to measure after 0, 1, ... updates.

    Args:
        collector: see :func:`evaluate_with`.
        agent: the agent to adapt.
        num_steps: number of updates.
        streams: of random numbers.
        tasks: one for each trial of all processes.
        deterministic: see :func:`evaluate_with`.
        deterministic_adaptation: see :func:`evaluate_with`.
        ranks: the processes.
    """
    # If only the measured episodes are deterministic, they are not those of the updates.
    has_own_episodes = deterministic and not deterministic_adaptation
    trial = play_trials(
        agent.learner,
        agent.state,
        collector,
        collector.of_this_process(tasks),
        num_adaptation_steps=num_steps,
        streams=streams,
        belief=_repeated(agent.belief, collector.num_tasks),
        num_updates_before=agent.num_adaptation_steps,
        final_episodes=not has_own_episodes,
        deterministic=deterministic_adaptation,
    )
    _check_failures(trial, tasks, agent, ranks)
    if has_own_episodes:
        trial = play_most_probable(agent.learner, agent.state, collector, trial, streams)
        _check_failures(trial, tasks, agent, ranks)
    return trial.episodes


def _check_failures(trial: Trial, tasks: Sequence[Task], agent: Agent, ranks: Ranks) -> None:
    """Raise TooManyFailures if a larger share of all processes' trials failed than is allowed."""
    failures = trial.failures.gathered(ranks)
    failures.check(failures.rows(tasks), agent.config.max_failed_share, "the evaluation")


def actions_played(deterministic: bool, deterministic_adaptation: bool) -> dict[str, str]:
    """Return which actions an evaluation plays, for a description.

    Args:
        deterministic: in the measured episodes.
        deterministic_adaptation: in the episodes of updates.
    """
    return {
        "actions": "mean" if deterministic else "sampled",
        "adaptation_actions": "mean" if deterministic_adaptation else "sampled",
    }


def _repeated(belief: Belief, num_tasks: int) -> Belief:
    """A belief (1, ...) for each of T tasks, (T, ...)."""
    return {
        name: value.expand(num_tasks, *value.shape[1:]).contiguous()
        for name, value in belief.items()
    }


def _description(
    agent: Agent,
    collector: Collector,
    tasks: Sequence[Task],
    seed: int,
    env: EnvConfig | None,
    num_trials: int,
    tasks_are_given: bool,
) -> dict[str, Any]:
    """What was evaluated, as plain values for the files."""
    units = getattr(collector.env, "task_units", {})
    names = value_names_of(collector.env)
    return {
        "env": agent.config.env.name,
        "env_settings": env_settings(agent.config.env if env is None else env),
        "num_tasks": len(tasks),
        "num_episodes": num_trials * collector.num_episodes,
        "episodes_per_step": collector.num_episodes,
        "horizon": collector.horizon,
        "num_steps_in_training": agent.learner.num_adaptation_steps,
        "seed": seed,
        **origin_of(agent),
        "task_units": {name: units[name] for name in tasks[0] if name in units},
        "task_value_names": {name: names[name] for name in tasks[0] if name in names},
        "tasks_are_given": tasks_are_given,
    }


def origin_of(agent: Agent) -> dict[str, Any]:
    """Return the agent's learner, and seed and length of its training, for a description.

    The length is in iterations and control steps, ``None`` if it is not known. ``is_best`` says
    that it was chosen by evaluations in training, ``stage_is_episode`` how to name the stages.
    """
    return {
        "learner": {"name": agent.config.learner.name, **agent.learner.describe(agent.state)},
        "training_seed": agent.config.seed,
        "num_iterations": agent.num_iterations,
        "num_env_steps": agent.state.counters["num_env_steps"] or None,
        "is_best": agent.is_best,
        "stage_is_episode": agent.config.learner.STAGE_IS_EPISODE,
    }


def fresh_tasks(agent: Agent, seed: int) -> list[Task]:
    """Draw the tasks that :func:`evaluate` draws by default; values may be NumPy types.

    Args:
        agent: its environment draws the tasks.
        seed: seed of the tasks.

    Raises:
        UserError: if the environment cannot be used.
    """
    with as_task_vector_env(None, held_out(agent.config.env), 1, agent.config.horizon) as envs:
        envs.np_random = RandomStreams(seed, Phase.EVALUATION).tasks()
        return list(envs.sample_tasks(NUM_TASKS))


@standard_torch()
def evaluate(
    agent: Agent,
    *,
    env: EnvConfig | None = None,
    tasks: Sequence[Task] | None = None,
    num_tasks: int | None = None,
    num_episodes: int = 20,
    num_steps: int | None = None,
    seed: int = 0,
    fixed: Mapping[str, float] | None = None,
    deterministic: bool = False,
    deterministic_adaptation: bool = False,
    progress: Callable[[str], None] = lambda text: None,
) -> Evaluation:
    """Evaluate an agent on fresh tasks, or on tasks of your choice.

    Args:
        agent: the agent to adapt.
        env: the environment, for example
            ``maml_rl.load_config(env={"name": ..., "low": ..., "dynamics": {...}}).env``; default
            is the agent's own environment, with held-out tasks if the family has some.
        tasks: mappings such as ``{"goal_velocity": 1.5}``; default is to draw ``num_tasks``.
        num_tasks: number of tasks to draw; default is 40.
        num_episodes: measured episodes per task and adaptation step.
        num_steps: number of adaptation steps; default is as many as in training, at least 3.
        seed: seed of tasks and episodes.
        fixed: values that replace those of every task, such as ``{"goal_velocity": 1.5}``.
        deterministic: measure the return of mean actions (of discrete actions, the most probable
            ones) instead of sampled ones. Adaptation still plays sampled actions, in as many
            episodes of its own.
        deterministic_adaptation: play mean actions while adapting, too.
        progress: called before each control step with a text that names it and its stage.

    Raises:
        UserError: if an argument is invalid, or the environment cannot be used.
    """
    if not isinstance(agent, Agent):
        raise UserError(
            f"evaluate takes an agent, such as maml_rl.load(run) returns; got {agent!r:.100}"
        )
    if env is not None and not isinstance(env, EnvConfig):
        raise UserError(
            f"env must be an EnvConfig, such as maml_rl.load_config(env=...).env, got {env!r:.99}: "
            "an environment object can be adapted to by agent.adapt(env) and played with predict"
        )
    if deterministic_adaptation and not deterministic:
        raise UserError("deterministic_adaptation needs deterministic: set both to True")
    check_tasks(tasks, num_tasks)
    if num_tasks is None:
        num_tasks = NUM_TASKS if tasks is None else len(tasks)
    num_steps = default_num_steps(agent) if num_steps is None else num_steps
    check_integers(1, num_tasks=num_tasks, num_episodes=num_episodes)
    check_integers(0, num_steps=num_steps, seed=seed)
    # NumPy's integers would overflow.
    num_tasks, num_episodes, num_steps, seed = map(int, (num_tasks, num_episodes, num_steps, seed))
    horizon = agent.config.horizon
    config = held_out(agent.config.env) if env is None else env
    # A learner whose stage has fewer episodes plays several trials of each task.
    per_stage = episodes_per_stage(agent.config.learner, num_episodes)
    num_trials = num_episodes // per_stage
    num_envs = num_tasks * num_episodes
    threads = torch_threads(agent.config.torch_threads)
    opened = as_task_vector_env(None, config, num_envs, horizon, num_tasks=num_tasks * num_trials)
    with threads, opened as envs:
        agent.check_spaces(envs.single_observation_space, envs.single_action_space)
        if tasks is not None and not all(tasks):
            envs.np_random = np.random.default_rng(0)
            refuse_empty_task(envs.sample_tasks(1))
        collector = agent.collector(envs, num_tasks * num_trials, per_stage)
        collector = dataclasses.replace(collector, progress=progress)
        return evaluate_with(
            collector,
            agent,
            num_steps,
            RandomStreams(seed, Phase.EVALUATION),
            env=config,
            tasks=tasks,
            fixed=fixed,
            num_trials=num_trials,
            deterministic=deterministic,
            deterministic_adaptation=deterministic_adaptation,
        )


def refuse_empty_task(drawn: Sequence[Task]) -> None:
    """Refuse an empty task if those that the environment draws have names.

    Raises:
        UserError: if so; the environment would keep a task that nobody chose.
    """
    if any(drawn):
        raise UserError(f"a task must be a mapping with the names {', '.join(drawn[0])}, got {{}}")


def default_num_steps(agent: Agent) -> int:
    """Return the number of adaptation steps of an evaluation: as in training, at least 3."""
    return max(_FEWEST_STEPS, agent.learner.num_adaptation_steps)


def check_tasks(tasks: Sequence[Task] | None, num_tasks: int | None) -> None:
    """Check the arguments that choose tasks.

    Raises:
        UserError: if ``tasks`` is not a list of tasks, or ``num_tasks`` is set too.
    """
    if tasks is None:
        return
    is_list = isinstance(tasks, Sequence) and len(tasks) > 0
    if not (is_list and all(isinstance(task, Mapping) for task in tasks)):
        raise UserError(
            f"tasks must be a list of at least one task, each a mapping, got {tasks!r:.100}"
        )
    if num_tasks is not None:
        raise UserError(
            f"pass tasks or num_tasks, got both: {len(tasks)} tasks and num_tasks {num_tasks}"
        )
