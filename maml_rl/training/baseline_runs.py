"""The baselines of a meta-trained run (Finn et al. 2017, figures 4 and 5).

Each has a folder in RUN/baselines. Those of :data:`~maml_rl.runs.baselines.POLICIES` are run
folders.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from maml_rl.agents.agent import Agent
from maml_rl.agents.from_scratch import DEFAULT_PPO, PPOSettings, ppo_learning_curve
from maml_rl.agents.load import load
from maml_rl.analysis.evaluation import NUM_TASKS, fresh_tasks
from maml_rl.analysis.tasks.words import number_text
from maml_rl.errors import UserError, value_errors_refused
from maml_rl.runs.baselines import baseline_folder
from maml_rl.runs.checkpoint import load_newest
from maml_rl.runs.run_folder import locked, run_config
from maml_rl.sampling.environments import as_task_vector_env
from maml_rl.settings.config import Config, LoggingConfig
from maml_rl.settings.drawn_tasks import Task, plain_task
from maml_rl.settings.families import held_out
from maml_rl.settings.learners import JointConfig, ReptileConfig, TRPOConfig
from maml_rl.system.atomic_files import unwritable_refused, write_whole
from maml_rl.system.text import counted
from maml_rl.system.untrusted_files import LONGEST_TABLE, read_json
from maml_rl.training.compose import open_training
from maml_rl.training.reporting import log, progress_bar
from maml_rl.training.start import resume, train
from maml_rl.training.stdout_log import default_stdout_log

_FLAGS = {"num_env_steps": "--ppo_env_steps", "seed": "--seed"}
"""Flags that set values in PPO's results.json, for messages."""


def baseline_config(
    run: Path, name: str, *, num_iterations: int | None = None, seed: int = 0, device: str = "auto"
) -> Config:
    """Return the configuration of a baseline: the run's without ``init_from``, changed as follows.

    ``random`` is not trained. ``pretrained`` trains one policy on all tasks without adaptation, by
    the run's outer step, or by TRPO instead of Reptile, which needs adaptation. It is fine-tuned
    afterwards with the run's inner settings, except that learned step sizes keep their initial
    value. ``oracle`` is the same, but its observation includes the task.

    Args:
        run: the meta-trained run.
        name: one of :data:`~maml_rl.runs.baselines.POLICIES`.
        num_iterations: number of iterations; by default, training collects as many episodes as the
            run has collected; after a learner without inner steps as many control steps, rounded up
            to whole iterations, and fewer if episodes end early.
        seed: seed of all random streams.
        device: device of the policy.

    Raises:
        UserError: if the run does not exist or was trained without adaptation; if it has no
            checkpoint to take ``num_iterations`` from; if an argument is out of range; or if an
            oracle cannot observe its tasks.
    """
    meta = run_config(run)
    if isinstance(meta.learner, JointConfig):
        raise UserError(
            f"{run} was trained without adaptation, as baselines are: name a meta-trained run"
        )
    logging = LoggingConfig(
        checkpoint_every=meta.logging.checkpoint_every, final_evaluation=False, final_video=False
    )
    with value_errors_refused():
        config = replace(
            meta,
            output=str(baseline_folder(run, name)),
            seed=seed,
            device=device,
            init_from=None,
            max_env_steps=None,
            max_hours=None,
            callbacks=(),
            logging=logging,
        )
    if name == "random":
        return config
    outer = TRPOConfig() if isinstance(meta.outer, ReptileConfig) else meta.outer
    if num_iterations is None:
        num_iterations = _equal_iterations(run, meta)
    with value_errors_refused():
        if "inner" in meta.learner.GROUPS:
            # As many iterations more: the step falls at the same number of episodes.
            num_iterations_of_fall = outer.decay_iterations * (meta.inner.num_steps + 1)
            outer = replace(outer, decay_iterations=num_iterations_of_fall)
        config = replace(
            config,
            learner=JointConfig(),
            inner=replace(meta.inner, **JointConfig.REQUIRED["inner"]),
            outer=outer,
            num_iterations=num_iterations,
        )
    if name == "oracle":
        config = replace(config, env=replace(meta.env, observe_task=True))
        with as_task_vector_env(None, config.env, 1, config.horizon):
            pass  # refuses tasks that cannot be observed
    return config


def _equal_iterations(run: Path, meta: Config) -> int:
    """Iterations without adaptation that collect as much as the run up to its newest checkpoint.

    Control steps are counted as if no episode ended early.
    """
    newest = load_newest(run / "checkpoints", torch.device("cpu"))
    if newest is None:
        raise UserError(f"{run} has no checkpoint yet: set the length by --num_iterations")
    num_finished = newest.checkpoint.counter("iteration")
    if num_finished == 0:  # as of a saved agent
        raise UserError(
            f"{run} does not say how long it was trained: set the length by --num_iterations"
        )
    if "inner" in meta.learner.GROUPS:
        # An iteration collects once, instead of once more than it has inner steps.
        return num_finished * (meta.inner.num_steps + 1)
    num_env_steps = newest.checkpoint.counter("num_env_steps")
    return math.ceil(num_env_steps / (meta.meta_batch_size * meta.num_episodes * meta.horizon))


@default_stdout_log()
def make_policy_baseline(name: str, config: Config, num_iterations: int | None = None) -> Path:
    """Train a baseline, or resume it; a finished one is kept.

    Args:
        name: one of :data:`~maml_rl.runs.baselines.POLICIES`.
        config: from :func:`baseline_config`.
        num_iterations: total number of iterations if the baseline exists; default is the configured
            one.

    Returns:
        The run folder of the baseline.

    Raises:
        UserError: if it exists with another seed.
        Interrupted: on Ctrl-C, after the last finished iteration has been saved.
    """
    assert config.output is not None, "baseline_config sets it"
    # Resume or keep a baseline that exists.
    folder = Path(config.output)
    if (folder / "config.yaml").exists():
        seed = run_config(folder).seed
        if seed != config.seed:
            raise UserError(
                f"{folder} exists with seed {seed}, not {config.seed}: delete the folder to train "
                "again"
            )
        if name != "random":
            return resume(folder, num_iterations)
        log(f"{folder} exists and is kept")
        return folder
    if name != "random":
        return train(config)
    # Save new parameters; the folder appears when it is complete.
    with open_training(config) as training, unwritable_refused(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
            os.replace(training.agent.save(Path(temporary) / "run"), folder)
    log(f"new parameters, not trained, written to {folder}")
    return folder


def check_ppo(
    run: Path,
    *,
    num_tasks: int,
    num_env_steps: int,
    seed: int,
    settings: PPOSettings = DEFAULT_PPO,
) -> Agent:
    """Check, before any training, that :func:`train_ppo` can use the run and the results file.

    Args:
        run: the meta-trained run.
        num_tasks: see :func:`train_ppo`.
        num_env_steps: see :func:`train_ppo`.
        seed: see :func:`train_ppo`.
        settings: see :func:`train_ppo`.

    Returns:
        The agent of the run.

    Raises:
        UserError: as :func:`train_ppo`.
    """
    agent = load(run)
    if num_tasks > NUM_TASKS:
        raise UserError(
            f"num_tasks must be at most {NUM_TASKS}, the tasks of an evaluation, got {num_tasks}"
        )
    description = _ppo_description(agent.config, num_env_steps, seed, settings)
    _finished_tasks(baseline_folder(run, "ppo") / "results.json", description)
    return agent


def _ppo_description(
    config: Config, num_env_steps: int, seed: int, settings: PPOSettings
) -> dict[str, Any]:
    """Settings that are the same for all results in a file."""
    env = held_out(config.env)
    return {
        "env": env.name,
        "env_settings": dict(env.kwargs),
        "horizon": config.horizon,
        "seed": seed,
        "num_env_steps": num_env_steps,
        "hyperparameters": asdict(settings),
    }


@default_stdout_log()
def train_ppo(
    run: Path,
    *,
    num_tasks: int,
    num_env_steps: int,
    seed: int = 0,
    settings: PPOSettings = DEFAULT_PPO,
) -> Path:
    """Train Stable-Baselines3's PPO from scratch on the first tasks of an evaluation with ``seed``.

    Args:
        run: the meta-trained run.
        num_tasks: number of tasks to train on; existing learning curves are kept.
        num_env_steps: control steps per task.
        seed: seed of tasks and training.
        settings: settings of PPO.

    Returns:
        ``results.json``: the settings, and a learning curve for each task. It is written after each
        task.

    Raises:
        UserError: if the run does not exist, ``num_tasks`` is larger than the number of tasks of
            an evaluation, or results with other settings exist.
    """
    # Tasks.
    agent = check_ppo(
        run, num_tasks=num_tasks, num_env_steps=num_env_steps, seed=seed, settings=settings
    )
    tasks = fresh_tasks(agent, seed)
    plain_tasks = [plain_task(task, agent.config.env.name) for task in tasks]
    # Learning curves: keep those that exist, then train on the remaining tasks.
    folder = baseline_folder(run, "ppo")
    with unwritable_refused(folder):
        folder.mkdir(parents=True, exist_ok=True)
    path = folder / "results.json"
    description = _ppo_description(agent.config, num_env_steps, seed, settings)
    with locked(folder):
        results = _finished_tasks(path, description)
        if results:
            log(f"{path} already holds {counted(len(results), 'learning curve')}: kept")
        num_whole = settings.whole_updates(num_env_steps)
        if num_whole != num_env_steps and len(results) < num_tasks:
            log(
                f"PPO trains for {num_whole:,} control steps per task: {num_env_steps:,} rounded "
                "up to whole updates"
            )
        for i in range(len(results), num_tasks):
            # Train on a task.
            name = f"PPO, task {i + 1} of {num_tasks}"
            with progress_bar(num_whole, unit="step", name=name) as bar:
                curve = ppo_learning_curve(
                    held_out(agent.config.env),
                    tasks[i],
                    agent.config.horizon,
                    num_env_steps=num_env_steps,
                    seed=_seed_of(seed, i),
                    settings=settings,
                    progress=bar.update,
                )
            # Write all learning curves so far.
            results.append({"task": plain_tasks[i], **curve._asdict()})
            with unwritable_refused(path):
                write_whole(path, json.dumps({**description, "tasks": results}, indent=2) + "\n")
            returns = f"{curve.returns[0]:.1f} -> {curve.returns[-1]:.1f}"
            log(f"PPO, {_task_text(plain_tasks[i])}: return {returns}")
    log(f"learning curves: {path}")
    return path


def _seed_of(seed: int, task: int) -> int:
    """The seed of PPO's training on one task."""
    return int(np.random.SeedSequence((seed, task)).generate_state(1)[0])


def _task_text(task: Task) -> str:
    """The values of a task, or ``the only task``."""
    parts = [
        f"{name} {number_text(value)}" if isinstance(value, float) else f"{name} {value}"
        for name, value in task.items()
    ]
    return ", ".join(parts) or "the only task"


def _finished_tasks(path: Path, description: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The learning curves that a results file holds; none if it does not exist.

    Raises:
        UserError: if the file cannot be read, or its settings differ from ``description``.
    """
    if not path.exists():
        return []
    try:
        content = read_json(path, LONGEST_TABLE)
        results = content.pop("tasks")
        if not (isinstance(results, list) and all(isinstance(result, dict) for result in results)):
            raise ValueError(f"tasks must be a list of learning curves, got {results!r:.100}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} cannot be read: {error!r}; delete it to train from scratch"
        ) from error
    expected = json.loads(json.dumps(description))  # as JSON returns it
    for name, value in expected.items():
        if content.get(name) != value:
            raise UserError(
                f"{path} was made with {_FLAGS.get(name, name)} {content.get(name)!r:.100}, not "
                f"{value!r}: use the same value, or delete the file to train from scratch"
            )
    return results
