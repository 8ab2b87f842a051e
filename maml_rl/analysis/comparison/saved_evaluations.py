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
from maml_rl.analysis.evaluation import actions_played, evaluate, origin_of
from maml_rl.analysis.evaluation_result import Evaluation
from maml_rl.errors import UserError
from maml_rl.runs.run_folder import package_versions
from maml_rl.settings.config import env_settings
from maml_rl.settings.drawn_tasks import Task, plain_task
from maml_rl.settings.env import EnvConfig
from maml_rl.settings.learners import episodes_per_stage
from maml_rl.system.atomic_files import unwritable_refused, write_whole
from maml_rl.system.untrusted_files import LONGEST_TABLE, read_json


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
            return read_evaluation(path, agent, env, arguments)
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
    content = {
        "tasks": [dict(task) for task in evaluation.tasks],
        "returns": evaluation.returns.tolist(),
        "success": evaluation.success.tolist(),
        "description": evaluation.description,
    }
    if evaluation.rewards is not None and evaluation.lasting is not None:
        content["rewards"] = evaluation.rewards.tolist()
        content["lasting"] = evaluation.lasting.tolist()
    with unwritable_refused(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(content))


def read_evaluation(
    path: Path, agent: Agent, env: EnvConfig, arguments: Mapping[str, Any]
) -> Evaluation:
    """Read an evaluation; the arguments are those of :func:`evaluation_file`.

    Raises:
        UserError: if the file is damaged.
    """
    try:
        return _parse(read_json(path, LONGEST_TABLE), agent, env, arguments)
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise UserError(
            f"{path} of an interrupted evaluation is damaged ({error}): delete it"
        ) from error


def _parse(content: Any, agent: Agent, env: EnvConfig, arguments: Mapping[str, Any]) -> Evaluation:
    """Check the content of a file and convert it to an evaluation.

    Raises:
        KeyError, TypeError, ValueError, OverflowError: if it is not an evaluation of this size.
    """
    # Tasks.
    tasks, description = content["tasks"], content["description"]
    num_tasks, num_episodes = arguments["num_tasks"], arguments["num_episodes"]
    is_list = isinstance(tasks, list) and len(tasks) == num_tasks
    if not (is_list and all(isinstance(task, dict) for task in tasks)):
        raise ValueError(f"tasks must be {num_tasks} mappings")
    # Arrays.
    shape = (arguments["num_steps"] + 1, num_tasks, num_episodes)
    returns = _parse_array(content, "returns", shape)
    success = _parse_array(content, "success", shape)
    rewards, lasting = None, None
    if "rewards" in content:
        rewards = _parse_array(content, "rewards", (*shape[:2], agent.config.horizon))
        lasting = _parse_array(content, "lasting", shape[:2])
    # Description.
    expected = {
        "num_tasks": num_tasks,
        "num_episodes": num_episodes,
        "episodes_per_step": episodes_per_stage(agent.config.learner, num_episodes),
        "seed": arguments["seed"],
        "env": agent.config.env.name,
        "horizon": agent.config.horizon,
        "env_settings": json.loads(json.dumps(env_settings(env))),
        "num_steps_in_training": agent.learner.num_adaptation_steps,
        **actions_played(arguments["deterministic"], arguments["deterministic_adaptation"]),
    }
    for name, value in expected.items():
        if description[name] != value:
            raise ValueError(f"its {name} is {description[name]!r:.100}, expected {value!r:.100}")
    units = description["task_units"]
    if not (isinstance(units, dict) and all(isinstance(unit, str) for unit in units.values())):
        raise ValueError(f"task_units must be a mapping to strings, got {units!r:.100}")
    names = description["task_value_names"]
    is_nested = isinstance(names, dict) and all(isinstance(one, dict) for one in names.values())
    if not is_nested or not all(
        isinstance(word, str) for one in names.values() for word in one.values()
    ):
        raise ValueError(f"task_value_names must be mappings to strings, got {names!r:.100}")
    # Another run with the same parameters and settings has the same file name.
    return Evaluation(
        tasks=tasks,
        returns=returns,
        success=success,
        description=description | origin_of(agent),
        rewards=rewards,
        lasting=lasting,
    )


def _parse_array(content: Any, name: str, shape: tuple[int, ...]) -> np.ndarray:
    with np.errstate(over="ignore"):  # an infinite value is refused below
        array = np.array(content[name], float).astype(np.float32)
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {array.shape}")
    if np.isinf(array).any():
        raise ValueError(f"{name} has an infinite value")
    return array
