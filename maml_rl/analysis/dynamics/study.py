"""What is evaluated in a study of dynamics: its agents, and the conditions."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from maml_rl.agents.agent import Agent
from maml_rl.agents.load import load_run
from maml_rl.analysis.comparison.compare import Condition, Subject
from maml_rl.analysis.dynamics.robustness import Origin
from maml_rl.analysis.learning_curves import Run
from maml_rl.runs.seeds import seed_run
from maml_rl.settings.dynamics_study.study import DynamicsStudy
from maml_rl.settings.env import EnvConfig


def subjects_of(
    study: DynamicsStudy,
    name: str,
    seeds: Sequence[int],
    device: torch.device,
    num_steps: int | None,
) -> list[Subject]:
    """Return the agents of a method.

    Args:
        study: what was trained.
        name: of the method.
        seeds: of its runs.
        device: of the agents.
        num_steps: adaptation steps of a method that adapts; default is as many as in training.

    Raises:
        UserError: if a run cannot be loaded.
    """
    subjects = []
    for seed in seeds:
        run = seed_run(study.folder / name, seed)
        agent = load_run(run, device)
        steps = (
            (num_steps or agent.learner.num_adaptation_steps) if study.methods[name].adapts else 0
        )
        subjects.append(Subject(name, run, agent, steps))
    return subjects


def origins_of(
    study: DynamicsStudy, subjects: Sequence[Subject], runs: Mapping[str, Sequence[Run]]
) -> dict[str, Origin]:
    """Return where the agents of each method come from, by its name.

    Args:
        study: what was trained.
        subjects: the agents of all methods.
        runs: the runs of each method, by its name.
    """
    origins = {}
    for name, of_method in runs.items():
        agents = [subject.agent for subject in subjects if subject.label == name]
        origins[name] = Origin(
            observes=study.methods[name].observes,
            num_env_steps=[agent.state.counters["num_env_steps"] for agent in agents],
            hours=[run.hours for run in of_method],
        )
    return origins


def conditions_of(study: DynamicsStudy) -> list[Condition]:
    """Return the conditions: as in training, sweeps, two quantities together, and failures."""

    def env(values: Mapping[str, Any] | None, agent: Agent) -> EnvConfig:
        return study.env_at(values, observe_task=agent.config.env.observe_task)

    conditions = [Condition(functools.partial(env, None))]
    for name, values in study.sweeps().items():
        for value in values:
            conditions.append(Condition(functools.partial(env, {name: value}), {name: value}))
    for pair in study.pairs():
        conditions.append(Condition(functools.partial(env, pair), pair))
    for dynamics, swept in study.failures():
        conditions.append(Condition(functools.partial(env, dynamics), swept))
    return conditions
