"""What fast adaptation is compared with (Finn et al. 2017, figures 4 and 5), trained for a meta-trained run.

Each baseline of a run has a folder in RUN/baselines. Those that are policies are runs themselves.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from maml_rl.agents.from_scratch import PPOSettings, ppo_learning_curve
from maml_rl.agents.load import load
from maml_rl.analysis.evaluation import fresh_tasks, held_out, plain_task
from maml_rl.errors import UserError
from maml_rl.runs.checkpoint import load_newest
from maml_rl.runs.pretrained import output_folder
from maml_rl.runs.run_folder import locked, run_config
from maml_rl.sampling.environments import as_task_vector_env
from maml_rl.settings.config import Config, LoggingConfig
from maml_rl.settings.drawn_tasks import Task
from maml_rl.settings.maml import ReptileConfig, TRPOConfig
from maml_rl.system.atomic_files import unwritable_refused, write_whole
from maml_rl.system.untrusted_files import LONGEST_TABLE, read_json
from maml_rl.training.compose import open_trainer
from maml_rl.training.loop import resume, train

Say = Callable[[str], None]

_FLAGS = {"num_env_steps": "--ppo_env_steps", "seed": "--seed"}
"""Settings of PPO's results by the flags that the user knows."""

POLICIES = ("random", "pretrained", "oracle")
"""The baselines that are runs."""


def folder_of(run: Path, name: str) -> Path:
    """Where a run's baseline is; that of a pretrained policy is in runs/NAME, as its evaluation."""
    return output_folder(run) / "baselines" / name


def baseline_config(
    run: Path, name: str, *, num_iterations: int | None = None, seed: int = 0, device: str = "auto"
) -> Config:
    """The configuration of a baseline: the run's own, and nothing carried over from a warm start.

    ``random`` differs in nothing else. ``pretrained`` trains one policy on all tasks jointly by the
    run's outer step, and keeps the inner settings for its fine-tuning afterwards; ``oracle`` is the
    same and is told the task. Where the run learned its step sizes they have their initial value;
    where its outer step is Reptile, which follows adaptation, it is TRPO.

    Args:
        run: the meta-trained run.
        name: one of :data:`POLICIES`.
        num_iterations: of training; default is as many as take the control steps that the meta-run
            has taken.
        seed: of all random streams.
        device: where the policy lives.

    Raises:
        UserError: there is no such run, it is a baseline or has no checkpoint, or has no tasks to
            tell an oracle.
    """
    meta = run_config(run)
    if not meta.adapt_in_training:
        raise UserError(
            f"{run} is a baseline itself, trained without adaptation: give the meta-trained run"
        )
    logging = LoggingConfig(
        checkpoint_every=meta.logging.checkpoint_every, final_evaluation=False, final_video=False
    )
    output = str(folder_of(run, name))
    config = replace(meta, output=output, seed=seed, device=device, init_from=None, logging=logging)
    if name == "random":
        return config
    config = replace(
        config,
        adapt_in_training=False,
        inner=replace(meta.inner, learned_step_size="none"),
        outer=TRPOConfig() if isinstance(meta.outer, ReptileConfig) else meta.outer,
        num_iterations=num_iterations
        or _finished_iterations(run) * (meta.training_inner.num_steps + 1),
    )
    if name == "oracle":
        config = replace(config, env=replace(meta.env, observe_task=True))
        with as_task_vector_env(None, config.env, 1, config.horizon):
            pass  # can be made
    return config


def _finished_iterations(run: Path) -> int:
    """Of the newest sound checkpoint; the configuration may name more than there are."""
    found = load_newest(run / "checkpoints", torch.device("cpu"))
    if found is None:
        raise UserError(f"{run} has no checkpoint yet: say how long to train by --num_iterations")
    return found.checkpoint.counter("iteration", found.path)


def make_policy_baseline(
    name: str,
    config: Config,
    num_iterations: int | None = None,
    *,
    say: Say = lambda text: None,
    progress_bar: bool = False,
) -> Path:
    """Train a baseline, or go on with it; a finished one is kept.

    Args:
        name: one of :data:`POLICIES`.
        config: from :func:`baseline_config`.
        num_iterations: where a baseline that is there already shall end; default is its own.
        say: where to tell the user what happens.
        progress_bar: show one on stderr.

    Returns:
        The run folder of the baseline.

    Raises:
        UserError: it is there with another seed.
        Interrupted: by Ctrl-C; a checkpoint was written.
    """
    assert config.output is not None, "baseline_config sets it"
    folder = Path(config.output)
    if (folder / "config.yaml").exists():
        seed = run_config(folder).seed
        if seed != config.seed:
            raise UserError(
                f"{folder} is there with seed {seed}, not {config.seed}: delete the folder to "
                f"make it anew"
            )
        if name != "random":
            return resume(folder, num_iterations, say=say, progress_bar=progress_bar)
        say(f"{folder} is there already")
        return folder
    if name != "random":
        return train(config, say=say, progress_bar=progress_bar)
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    with open_trainer(config) as (_, _, policy):
        policy.save(temporary)
    os.replace(temporary, folder)
    say(f"fresh parameters, not trained, into {folder}")
    return folder


def check_ppo(
    run: Path, *, num_env_steps: int, seed: int = 0, settings: PPOSettings | None = None
) -> None:
    """Refuse before any training what :func:`train_ppo` would refuse.

    Raises:
        UserError: they are of other settings, or the run has no policy.
    """
    load(run)
    description = _ppo_description(run_config(run), num_env_steps, seed, settings or PPOSettings())
    _results_so_far(folder_of(run, "ppo") / "results.json", description)


def _ppo_description(
    config: Config, num_env_steps: int, seed: int, settings: PPOSettings
) -> dict[str, Any]:
    """What results must have in common to stand in one file."""
    env = held_out(config.env)
    return {
        "env": env.name,
        "env_settings": dict(env.kwargs),
        "horizon": config.horizon,
        "seed": seed,
        "num_env_steps": num_env_steps,
        "hyperparameters": asdict(settings),
    }


def train_ppo(
    run: Path,
    *,
    num_tasks: int,
    num_env_steps: int,
    seed: int = 0,
    settings: PPOSettings | None = None,
    say: Say = lambda text: None,
    progress_bar: bool = False,
) -> Path:
    """Train Stable-Baselines3's PPO from scratch on each of the first tasks that an evaluation with ``seed`` draws.

    Args:
        run: the meta-trained run.
        num_tasks: to train on; those whose learning curves are there already are kept.
        num_env_steps: control steps on each task.
        seed: of tasks and training.
        settings: of PPO.
        say: where to tell the user what happens.
        progress_bar: show one on stderr for each task.

    Returns:
        ``results.json``: settings, and for each task the learning curve. It is written after each
        task.

    Raises:
        UserError: there is no such run, not that many tasks, or results of other settings are
            there.
    """
    settings = settings or PPOSettings()
    policy = load(run)
    tasks = fresh_tasks(policy, seed)
    plain_tasks = [plain_task(task, policy.config.env.name) for task in tasks]
    if num_tasks > len(tasks):
        raise UserError(
            f"num_tasks must be at most {len(tasks)}, the tasks of an evaluation, got {num_tasks}"
        )
    env, horizon = held_out(policy.config.env), policy.config.horizon
    folder = folder_of(run, "ppo")
    with unwritable_refused(folder):
        folder.mkdir(parents=True, exist_ok=True)
    path = folder / "results.json"
    description = _ppo_description(policy.config, num_env_steps, seed, settings)
    with locked(folder):
        results = _results_so_far(path, description)
        if results:
            say(f"{path} holds {len(results)} tasks already, which are kept")
        whole = settings.whole_updates(num_env_steps)
        if whole != num_env_steps and len(results) < num_tasks:
            say(
                f"PPO trains for {whole:,} control steps in each task: {num_env_steps:,}, rounded "
                f"up to whole updates"
            )
        for i, task in list(enumerate(tasks))[len(results) : num_tasks]:
            name, total = f"PPO, task {i + 1} of {num_tasks}", settings.whole_updates(num_env_steps)
            with tqdm(total=total, disable=not progress_bar, desc=name, unit="step") as bar:
                curve = ppo_learning_curve(
                    env,
                    task,
                    horizon,
                    num_env_steps=num_env_steps,
                    seed=_seed_of(seed, i),
                    settings=settings,
                    progress=bar.update,
                )
            results.append({"task": plain_tasks[i], **curve._asdict()})
            with unwritable_refused(path):
                write_whole(path, json.dumps({**description, "tasks": results}, indent=2) + "\n")
            say(
                f"PPO, {_words(plain_tasks[i])}: return {curve.returns[0]:.1f} -> "
                f"{curve.returns[-1]:.1f}"
            )
    say(f"learning curves: {path}")
    return path


def _seed_of(seed: int, task: int) -> int:
    return int(np.random.SeedSequence((seed, task)).generate_state(1)[0])


def _words(task: Task) -> str:
    parts = [
        f"{name} {value:.2f}" if isinstance(value, float) else f"{name} {value}"
        for name, value in task.items()
    ]
    return ", ".join(parts) or "the only task"


def _results_so_far(path: Path, description: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The tasks that are finished.

    Raises:
        UserError: the file cannot be read, or its settings are others.
    """
    if not path.exists():
        return []
    try:
        content = read_json(path, LONGEST_TABLE)
        results = content.pop("tasks")
        if not (isinstance(results, list) and all(isinstance(result, dict) for result in results)):
            raise ValueError(f"tasks must be a list of learning curves, got {results!r:.100}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} cannot be read: {error!r}; delete it to train anew") from error
    wanted = json.loads(json.dumps(description))
    for name in wanted:
        if content.get(name) != wanted[name]:
            raise UserError(
                f"{path} was made with {_FLAGS.get(name, name)} {content.get(name)!r:.100}, not "
                f"{wanted[name]!r}: "
                "give the same, or delete the file to train anew"
            )
    return results
