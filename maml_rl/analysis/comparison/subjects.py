"""The agents of an evaluation: those of runs and of their baselines, with labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from maml_rl.agents.agent import Agent
from maml_rl.agents.load import load_run
from maml_rl.analysis.comparison.compare import Subject, label_of
from maml_rl.analysis.evaluation import default_num_steps
from maml_rl.analysis.run_labels import (
    check_different,
    group_settings,
    labels_of,
    settings_of_runs,
)
from maml_rl.errors import UserError
from maml_rl.runs.baselines import POLICIES, baseline_folder
from maml_rl.runs.checkpoint import latest_checkpoint
from maml_rl.settings.config import Config
from maml_rl.system.text import counted


def subjects_of_runs(
    runs: Sequence[Path],
    device: torch.device,
    num_steps: int | None,
    iteration: int | Literal["best"] | None,
    labels: Sequence[str] | None,
) -> list[Subject]:
    """Return the agents of runs of one environment.

    Args:
        runs: the run folders.
        device: of the agents.
        num_steps: adaptation steps; ``None``: each agent's default.
        iteration: chosen by the user; ``None`` for the newest checkpoints.
        labels: chosen by the user, one for each group of runs with the same settings; ``None`` for
            the settings that differ.

    Raises:
        UserError: if a run or its iteration cannot be loaded, a run is given twice or has another
            environment, or the labels are invalid.
    """
    # The runs, all different and of one environment
    check_different(runs)
    agents = [load_run(run, device, iteration) for run in runs]
    names = {agent.config.env.name for agent in agents}
    if len(names) > 1:
        raise UserError(
            f"only runs of one environment can be compared, got runs of "
            f"{' and '.join(sorted(names))}"
        )
    # Copies of an agent, or two runs of one seed, would count as several seeds
    subjects: list[Subject] = []
    label_of_run = _labels(agents, runs, iteration, labels)
    for label, run, agent in zip(label_of_run, runs, agents, strict=True):
        copies = [
            other.source
            for other in subjects
            if other.label == label and _are_equal(other.agent, agent)
        ]
        if copies:
            raise UserError(
                f"{run} holds the same agent as {copies[0]}: counting it twice would make the "
                f"result look more certain than it is; name one of them"
            )
        same_seed = [
            other.source
            for other in subjects
            if other.label == label and other.agent.config.seed == agent.config.seed
        ]
        if same_seed and not agent.num_adaptation_steps:
            raise UserError(
                f"{same_seed[0]} and {run} have the same settings and the same seed "
                f"{agent.config.seed}: name one of them"
            )
        steps = default_num_steps(agent) if num_steps is None else num_steps
        subjects.append(Subject(label, run, agent, steps))
    return subjects


def subjects_of_baselines(
    of_runs: Sequence[Subject], device: torch.device, num_steps: int | None, with_oracle: bool
) -> list[Subject]:
    """Return the baselines of runs, by name and then by run, without copies of the same agent.

    Baselines of runs with different settings are separate: their labels name the run's.

    Args:
        of_runs: the runs.
        device: of the agents.
        num_steps: adaptation steps, as for :func:`subjects_of_runs`; the oracle takes none.
        with_oracle: whether the oracle is one of them.
    """
    baselines: list[Subject] = []
    is_one = len({of_run.label for of_run in of_runs}) == 1
    for name in POLICIES:
        if name == "oracle" and not with_oracle:
            continue
        of_one_name: list[Subject] = []
        for of_run in of_runs:
            folder = baseline_folder(of_run.source, name)
            if latest_checkpoint(folder / "checkpoints") is None:
                continue
            agent = load_run(folder, device)
            label = name if is_one else f"{name} of {of_run.label}"
            same_label = [other.agent for other in of_one_name if other.label == label]
            if not any(_are_equal(other, agent) for other in same_label):
                steps = default_num_steps(agent) if num_steps is None else num_steps
                of_one_name.append(Subject(label, folder, agent, 0 if name == "oracle" else steps))
        baselines += _by_settings(of_one_name)
    return baselines


def _by_settings(baselines: Sequence[Subject]) -> list[Subject]:
    """Name the settings in labels of baselines that share a label, but not their settings."""
    result = []
    for one in baselines:
        alike = [other for other in baselines if other.label == one.label]
        settings = [group_settings(other.agent.config) for other in alike]
        different = [each for i, each in enumerate(settings) if each not in settings[:i]]
        if len(different) > 1:
            name = labels_of(different)[different.index(group_settings(one.agent.config))]
            one = replace(one, label=f"{one.label}, {name}")
        result.append(one)
    return result


def _are_equal(one: Agent, other: Agent) -> bool:
    """Whether two agents act and adapt in the same way: their tensors are equal."""
    first, second = one.acting_tensors, other.acting_tensors
    if first.keys() != second.keys() or any(
        group.keys() != second[name].keys() for name, group in first.items()
    ):
        return False
    return all(
        value.equal(second[group][name].to(value))
        for group, tensors in first.items()
        for name, value in tensors.items()
    )


def _labels(
    agents: Sequence[Agent],
    runs: Sequence[Path],
    iteration: int | str | None,
    chosen: Sequence[str] | None,
) -> list[str]:
    """Label of each run: one name if they differ only in the seed, else the differing settings.

    Labels include the iteration if one was chosen, and the number of adaptation steps of an adapted
    policy.

    Args:
        agents: of the runs.
        runs: their folders.
        iteration: chosen by the user, if any.
        chosen: labels that the user chose, one for each group of runs with the same settings.

    Raises:
        UserError: if the number of chosen labels is wrong, or two are the same.
    """
    # A name for each group of equal settings
    settings = [
        {**of_run, **_length(agent.config)}
        for of_run, agent in zip(
            settings_of_runs([agent.config for agent in agents], runs), agents, strict=True
        )
    ]
    different = [one for i, one in enumerate(settings) if one not in settings[:i]]
    names = labels_of(different) if len(different) > 1 else [label_of(agents[0])]
    if chosen is not None:
        _check_labels(chosen, names)
        names, iteration = list(chosen), None
    # The label of each agent
    labels = [names[different.index(one)] for one in settings]
    if iteration is not None:
        which = "best iteration" if iteration == "best" else f"iteration {iteration}"
        labels = [f"{label}, {which}" for label in labels]
    adapted = [agent.num_adaptation_steps for agent in agents]
    return [
        f"{label}, adapted by {counted(steps, 'step')}" if steps else label
        for label, steps in zip(labels, adapted, strict=True)
    ]


def _length(config: Config) -> dict[str, int | float]:
    """The settings that end a run; runs of different lengths do not share a row."""
    values = {name: getattr(config, name) for name in ("num_iterations", "max_env_steps")}
    return {name: value for name, value in values.items() if value is not None}


def _check_labels(labels: Sequence[str], names: Sequence[str]) -> None:
    """Check labels that the user chose, against the names that they replace.

    Raises:
        UserError: if there is another number of them, or one is empty, used twice, or a baseline's.
    """
    if len(labels) != len(names):
        raise UserError(
            f"--labels needs {counted(len(names), 'label')}, one for runs with the same settings, "
            f"got {len(labels)}; the order is: {'; '.join(names)}"
        )
    if len(set(labels)) < len(labels) or not all(labels) or not set(labels).isdisjoint(POLICIES):
        raise UserError(
            f"--labels must be different and not empty, and not one of {', '.join(POLICIES)}, the "
            f"names of baselines; got {', '.join(map(repr, labels))}"
        )
