"""``python -m maml_rl.evaluate``; see ``--help``."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from maml_rl.cli import (
    OTHER_OUTPUT,
    add_iteration_flag,
    made_folder,
    main,
    non_negative,
    parse,
    path_argument,
    positive,
    run_parser,
    say,
)
from maml_rl.env_flags import (
    EnvFlags,
    add_env_flags,
    add_task_flags,
    dynamics_flag,
    env_of,
    refuse_flags_beside_task,
    take_env_flags,
)
from maml_rl.errors import UserError
from maml_rl.system.atomic_files import unwritable_refused
from maml_rl.system.text import counted

if TYPE_CHECKING:
    from maml_rl.agents.agent import Agent
    from maml_rl.analysis.comparison.compare import Comparison, Condition, Subject
    from maml_rl.settings.env import EnvConfig


_NUM_TASKS = 40


def command(argv: list[str]) -> int:
    """Evaluate runs."""
    env_flags, rest = take_env_flags(argv)
    args = parse(make_parser(), rest)
    refuse_flags_beside_task(args.task, env_flags)
    if args.deterministic_adaptation and not args.deterministic:
        raise UserError("--deterministic_adaptation needs --deterministic: add it")
    num_tasks = len(args.task) if args.task else args.num_tasks or _NUM_TASKS

    from maml_rl.runs.pretrained import find_run, output_folder
    from maml_rl.runs.seeds import runs_of

    # Evaluate, and write the files.
    folders = [find_run(run) for run in args.runs]
    args.runs = [run for folder in folders for run in runs_of(folder)]
    folder = args.output or output_folder(folders[0]) / "evaluation"
    is_old = os.path.exists(folder / "report.html")  # Path.exists raises for a name too long
    instead = ", in place of an earlier evaluation" if is_old else ""
    typed = shlex.join(["python", "-m", "maml_rl.evaluate", *argv])
    comparison, env = _evaluated(args, num_tasks, env_flags, folder, typed)
    # Print the table.
    changed = "".join(
        f", {flag.removeprefix('--env.').replace('=', ' ')}" for flag in env_flags.flags
    )
    is_held_out = args.task is None and env.kwargs.get("split") == "held_out"
    held_out = ", held out of training" if is_held_out else ""
    measured = counted(args.num_episodes, "measured episode")
    say(f"{env.name}{changed}: {comparison.tasks_text}{held_out}, {measured} per task and step")
    files = "report.html, results.json, results.csv, plots"
    say(f"{comparison.table()}\nwritten to {folder}{instead}: {files}")
    return 0


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of the command."""
    parser = run_parser(
        "evaluate",
        "Measure the return after 0, 1, ... K adaptation steps. All runs, and the baselines in "
        "RUN/baselines, are evaluated on the same fresh tasks. Print a table; write results.json, "
        "results.csv, plots (PNG, SVG, PDF) and report.html. After an interruption, the same "
        "command resumes.",
        several=True,
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--num_tasks", type=positive, help=f"number of fresh tasks (default: {_NUM_TASKS})"
    )
    add_task_flags(
        which, "evaluate on this task, with its dynamics, instead of fresh ones; may be repeated"
    )
    _add_measurement(parser)
    parser.add_argument(
        "--output",
        type=path_argument,
        help="folder for the files; existing files are replaced (default: RUN/evaluation of the "
        "first run, or for a pretrained policy runs/NAME/evaluation)",
    )
    parser.add_argument(
        "--labels",
        nargs="+",
        action="extend",
        metavar="LABEL",
        help="one label for runs that differ only in the seed, in the order of the RUN arguments "
        "(default: the settings that differ)",
    )
    parser.add_argument(
        "--no_baselines", action="store_true", help="do not evaluate the baselines in RUN/baselines"
    )
    add_iteration_flag(parser)
    add_env_flags(parser, sweeps=True)
    return parser


def _add_measurement(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say how returns are measured."""
    parser.add_argument(
        "--num_episodes",
        type=positive,
        default=20,
        help="measured episodes per task and step (default: 20)",
    )
    parser.add_argument(
        "--num_steps",
        type=non_negative,
        help="adaptation steps K (default: as many as in training, at least 3)",
    )
    parser.add_argument(
        "--deterministic",
        action="store_true",
        help="measure the return of mean actions instead of sampled ones (of discrete actions, "
        "the most probable); adaptation still samples",
    )
    parser.add_argument(
        "--deterministic_adaptation",
        action="store_true",
        help="with --deterministic: play mean actions while adapting, too",
    )


def _evaluated(
    args: argparse.Namespace, num_tasks: int, env_flags: EnvFlags, folder: Path, typed: str
) -> tuple[Comparison, EnvConfig]:
    """Evaluate and write the files.

    Returns:
        The result, and the environment without a sweep.
    """
    from maml_rl.analysis.comparison.compare import compare, num_evaluations
    from maml_rl.analysis.comparison.scratch import Scratch
    from maml_rl.analysis.comparison.subjects import subjects_of_baselines, subjects_of_runs
    from maml_rl.analysis.report.files import write_report
    from maml_rl.runs.baselines import baseline_folder
    from maml_rl.settings.families import trained_range
    from maml_rl.system.torch_runtime import resolve_device
    from maml_rl.training.reporting import evaluations_shown

    # The agents and the conditions; an oracle has observed only the dynamics of its training
    is_changed = any(flag.startswith(dynamics_flag("")) for flag in env_flags.flags)
    device = resolve_device(args.device)
    subjects = subjects_of_runs(args.runs, device, args.num_steps, args.iteration, args.labels)
    if args.iteration is None:
        _say_stopped(subjects)
    if not args.no_baselines:
        with_oracle = not is_changed
        subjects += subjects_of_baselines(subjects, device, args.num_steps, with_oracle)
    conditions = _conditions(subjects[0].agent, env_flags)
    ranges = {name: trained_range(subjects[0].agent.config, name) for name in env_flags.sweeps}
    trained = {name: values for name, values in ranges.items() if values is not None}
    # Evaluate, resuming from an interrupted evaluation
    unfinished = folder / "unfinished"
    total = num_evaluations(subjects, conditions)
    _check_unfinished(unfinished)
    with made_folder(folder), evaluations_shown(total) as (progress, activity):
        comparison = compare(
            subjects,
            conditions,
            num_tasks=num_tasks,
            num_episodes=args.num_episodes,
            seed=args.seed,
            tasks=args.task,
            deterministic=args.deterministic,
            deterministic_adaptation=args.deterministic_adaptation,
            finished=unfinished,
            progress=progress,
            activity=activity,
        )
        # Add PPO from scratch, write the report
        scratch = baseline_folder(args.runs[0], "ppo") / "results.json"
        if scratch.exists() and not (args.no_baselines or env_flags.flags):
            tasks = comparison.main[0].evaluations[0].tasks
            comparison = dataclasses.replace(comparison, scratch=Scratch.read(scratch, tasks))
            if comparison.scratch is None:
                say("PPO from scratch is left out: it was trained on other tasks than these")
        with unwritable_refused(folder, f"; {OTHER_OUTPUT}"):
            write_report(folder, comparison, trained, typed)
            if unfinished.exists():
                shutil.rmtree(unfinished)
    return comparison, conditions[0].env_of(subjects[0].agent)


def _say_stopped(subjects: Sequence[Subject]) -> None:
    """Say of each run that has not ended, or ended early, which iteration is evaluated."""
    from maml_rl.runs.pretrained import run_name

    for subject in subjects:
        agent, config = subject.agent, subject.agent.config
        number, budget = agent.num_iterations, config.max_env_steps
        is_short = number is not None and number < config.num_iterations
        has_budget_left = budget is None or agent.state.counters["num_env_steps"] < budget
        if not agent.is_final or (is_short and has_budget_left):
            what = "was stopped early" if agent.is_final else "has not ended"
            say(
                f"{run_name(subject.source)} {what}: it is evaluated after iteration "
                f"{number} of {config.num_iterations}"
            )


def _check_unfinished(folder: Path) -> None:
    """Check the folder of an interrupted evaluation.

    Raises:
        UserError: if something is there that cannot be written into.
    """
    is_usable = os.path.isdir(folder) and not folder.is_symlink() and os.access(folder, os.W_OK)
    if os.path.lexists(folder) and not is_usable:
        raise UserError(
            f"{folder} is not a folder that can be written to: delete it, or {OTHER_OUTPUT}"
        )


def _conditions(agent: Agent, env_flags: EnvFlags) -> list[Condition]:
    """The environment with the flags; then each value of each sweep, and the grid of two sweeps."""
    from maml_rl.analysis.comparison.compare import Condition
    from maml_rl.settings.env import is_family
    from maml_rl.settings.families import held_out, is_dynamics, lacks_change

    # Checks and evaluations need each environment several times: resolve it once.
    resolved: dict[tuple[str, ...], EnvConfig] = {}

    def env(flags: Sequence[str], agent: Agent) -> EnvConfig:
        key = (repr(agent.config), *flags)
        if key not in resolved:
            config = dataclasses.replace(agent.config, env=held_out(agent.config.env))
            resolved[key] = env_of(config, flags)
        return resolved[key]

    # The swept values of each condition, by name
    versions: list[dict[str, float]] = [
        {name: value} for name, values in env_flags.sweeps.items() for value in values
    ]
    env_name = agent.config.env.name
    if len(env_flags.sweeps) == 2:
        # The time of a change is not swept alone if only the other sweep changes something
        if is_family(env_name):
            names = env(env_flags.flags, agent).kwargs.get("dynamics", {})
            versions = [one for one in versions if not lacks_change({*names, *one})]
        (first, values), (second, others) = env_flags.sweeps.items()
        versions += [{first: value, second: other} for value in values for other in others]
    # The conditions, first the one without a sweep
    conditions = [Condition(functools.partial(env, env_flags.flags))]
    for version in versions:
        # Dynamics are set by flags; other values are fixed in each task
        dynamics = {name: value for name, value in version.items() if is_dynamics(env_name, name)}
        fixed = {name: value for name, value in version.items() if name not in dynamics}
        more = [f"{dynamics_flag(name)}={value!r}" for name, value in dynamics.items()]
        flags = [*env_flags.flags, *more]
        conditions.append(Condition(functools.partial(env, flags), version, fixed))
    _check_conditions(agent, conditions)
    return conditions


def _check_conditions(agent: Agent, conditions: Sequence[Condition]) -> None:
    """Check all settings and swept values before anything is evaluated.

    Raises:
        UserError: if a setting or a swept value is invalid.
    """
    import numpy as np

    from maml_rl.sampling.environments import as_task_vector_env
    from maml_rl.sampling.task_vector_env import assign_tasks
    from maml_rl.settings.drawn_tasks import with_fixed

    envs = [condition.env_of(agent) for condition in conditions]
    swept = [condition.fixed for condition in conditions if condition.fixed]
    if not swept:
        return
    with as_task_vector_env(None, envs[0], 1, agent.config.horizon) as env:
        env.np_random = np.random.default_rng(0)
        (task,) = env.sample_tasks(1)
        for fixed in swept:
            assign_tasks(env, [with_fixed(task, fixed, envs[0].name)])


if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
