"""Files that keep finished evaluations, so that an interrupted comparison can be resumed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from maml_rl.agents.agent import Agent
from maml_rl.analysis.evaluation import evaluate, origin_of
from maml_rl.analysis.evaluation_result import Evaluation
from maml_rl.errors import UserError
from maml_rl.runs.run_folder import package_versions
from maml_rl.settings.drawn_tasks import Task, plain_task
from maml_rl.settings.env import EnvConfig
from maml_rl.system.atomic_files import unwritable_refused, write_whole
from maml_rl.system.untrusted_files import LONGEST_TABLE, read_json

_ARRAYS = ("returns", "success", "rewards", "lasting")
"""Arrays of an evaluation; the last two are ``None`` if no dynamics change in an episode."""


def evaluate_or_read(
    agent: Agent,
    env: EnvConfig,
    arguments: Mapping[str, Any],
    tasks: Sequence[Task] | None,
    *,
    fixed: Mapping[str, float],
    folder: Path | None,
    activity: Callable[[str], None],
) -> Evaluation:
    """Evaluate, or read the evaluation from ``folder`` if an interrupted call wrote it there.

    Args:
        agent: see :func:`evaluation_file`.
        env: see :func:`evaluation_file`.
        arguments: see :func:`evaluation_file`.
        tasks: see :func:`evaluation_file`.
        fixed: see :func:`evaluation_file`.
        folder: of finished evaluations; ``None`` keeps none.
        activity: called within the evaluation; see ``progress`` of
            :func:`~maml_rl.analysis.evaluation.evaluate`.

    Raises:
        UserError: as ``evaluate``, or if the file is damaged or cannot be written.
    """
    path = None
    if folder is not None:
        path = evaluation_file(folder, agent, env, arguments, tasks, fixed)
        if path.exists():
            return read_evaluation(path, agent)
    options = dict(arguments)
    if tasks is not None:
        del options["num_tasks"]
    evaluation = evaluate(agent, env=env, tasks=tasks, fixed=fixed, progress=activity, **options)
    if path is not None:
        write_evaluation(path, evaluation)
    return evaluation


def evaluation_file(
    folder: Path,
    agent: Agent,
    env: EnvConfig,
    arguments: Mapping[str, Any],
    tasks: Sequence[Task] | None,
    fixed: Mapping[str, float],
) -> Path:
    """Return the file of an evaluation, named by a hash of all that its result depends on.

    Args:
        folder: folder of the file.
        agent: the agent to adapt.
        env: the environment.
        arguments: other arguments of :func:`~maml_rl.analysis.evaluation.evaluate`: ``num_tasks``,
            ``num_episodes``, ``num_steps``, ``seed``, ``deterministic`` and
            ``deterministic_adaptation``.
        tasks: tasks to use instead of fresh ones.
        fixed: values that replace those of every task.
    """
    digest = hashlib.sha256()
    # What the agent has learned and believes.
    for group, tensors in agent.acting_tensors.items():
        for name, value in sorted(tensors.items()):
            digest.update(f"{group} {name} {tuple(value.shape)}".encode())
            digest.update(value.cpu().contiguous().numpy().tobytes())
    # Settings.
    config = agent.config
    settings = [
        dataclasses.asdict(env),
        dict(arguments),
        None if tasks is None else [plain_task(task, env.name) for task in tasks],
        dict(fixed),
        agent.num_adaptation_steps,
        *(
            dataclasses.asdict(getattr(config, group))
            for group in ("learner", "policy", *config.learner.GROUPS)
        ),
        config.horizon,
        package_versions(),
    ]
    digest.update(json.dumps(settings, sort_keys=True).encode())
    return folder / f"{digest.hexdigest()}.json"


def write_evaluation(path: Path, evaluation: Evaluation) -> None:
    """Write an evaluation, making its folder.

    Raises:
        UserError: if it cannot be written.
    """
    content: dict[str, Any] = {
        "tasks": [dict(task) for task in evaluation.tasks],
        "description": evaluation.description,
    }
    for name in _ARRAYS:
        array = getattr(evaluation, name)
        content[name] = None if array is None else array.tolist()
    with unwritable_refused(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps({"sha256": _digest(content), "evaluation": content}))


def read_evaluation(path: Path, agent: Agent) -> Evaluation:
    """Read an evaluation of an agent.

    Raises:
        UserError: if the file is damaged.
    """
    try:
        file = read_json(path, LONGEST_TABLE)
        content = file["evaluation"]
        if file["sha256"] != _digest(content):
            raise ValueError("its checksum differs")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"{path} of an interrupted evaluation is damaged ({error}): delete it"
        ) from error
    arrays: dict[str, Any] = {
        name: None if content[name] is None else np.array(content[name], np.float32)
        for name in _ARRAYS
    }
    # Another run with the same parameters and settings has the same file name.
    return Evaluation(
        tasks=content["tasks"], description=content["description"] | origin_of(agent), **arrays
    )


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
