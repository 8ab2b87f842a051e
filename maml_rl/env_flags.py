"""Flags that choose tasks and change the environment of a run, of the commands that play runs."""

from __future__ import annotations

import argparse
import dataclasses
import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from maml_rl.errors import UserError, closest_name, did_you_mean
from maml_rl.system.safe_yaml import read_value, read_yaml_list
from maml_rl.system.untrusted_files import user_path

if TYPE_CHECKING:
    from maml_rl.agents.agent import Agent
    from maml_rl.settings.config import Config
    from maml_rl.settings.env import EnvConfig


class EnvFlags(NamedTuple):
    """Changes to the environment from ``--tasks.*``, ``--env.*`` and ``--dynamics``."""

    flags: list[str]
    """Changed settings, written as flags of the train command: ``--env.NAME=VALUE``."""
    sweeps: dict[str, tuple[float, ...]]
    """Values of each sweep, by the name of the swept task value."""
    of_tasks: list[str]
    """Names of the flags that change tasks: ``--tasks.*`` and ``--dynamics``."""


def add_env_flags(parser: argparse.ArgumentParser, sweeps: bool = False) -> None:
    """Add help on the flags that :func:`take_env_flags` takes, and on sweeps if asked."""
    sweep = "; sweep over a numeric task value with LOW:HIGH:POINTS, e.g. body_mass=0.5:3:6"
    parser.add_argument(
        "--tasks.SETTING",
        metavar="VALUE",
        help="change a setting of the task family, e.g. --tasks.high 3, or the range of an "
        "environment argument, e.g. --tasks.kwarg_ranges.g [15,20]",
    )
    parser.add_argument(
        "--env.ARG",
        metavar="VALUE",
        help="change an argument of an environment that is not a task family, e.g. --env.g 15",
    )
    parser.add_argument(
        "--dynamics",
        metavar="NAME=VALUE,...",
        help="change the dynamics: values, ranges or lists of values, e.g. "
        f"body_mass=2,slope=-0.1:0.1,disabled_joint=[0,2]{sweep if sweeps else ''}",
    )


def add_task_flags(group: argparse._MutuallyExclusiveGroup, of_task: str) -> None:
    """Add ``--task`` and ``--tasks_file``.

    Args:
        group: of the flags that choose tasks.
        of_task: help on ``--task``.
    """
    group.add_argument(
        "--task", type=task_values, action="append", metavar="NAME=VALUE,...", help=of_task
    )
    group.add_argument(
        "--tasks_file",
        type=tasks_of_file,
        dest="task",
        metavar="FILE",
        help="YAML file with a list of tasks, each as {NAME: VALUE, ...}",
    )


_OF_TASKS = ("dynamics", "kwarg_ranges", "task_list")
"""Settings from which tasks are drawn."""


def take_env_flags(argv: Sequence[str], only_dynamics: bool = False) -> tuple[EnvFlags, list[str]]:
    """Split ``argv`` into ``--tasks.*``, ``--env.*`` and ``--dynamics``, and the rest.

    Args:
        argv: the words after the command.
        only_dynamics: leave ``--tasks.*`` and ``--env.*`` in the rest.

    Raises:
        UserError: if a flag has no value, or another form, or a value is set twice.
    """
    prefixes = () if only_dynamics else ("--tasks.", "--env.")
    taken = EnvFlags(flags=[], sweeps={}, of_tasks=[])
    dynamics: list[str] = []
    rest: list[str] = []
    words = iter(argv)
    for word in words:
        # Leave other flags.
        flag, equals, value = word.partition("=")
        if flag != "--dynamics" and not flag.startswith(prefixes):
            rest.append(word)
            continue
        # Read the value, after = or in the next word.
        if not equals:
            value = next(words, "")
        if not value or value.startswith("--"):
            raise UserError(f"{flag} needs a value")
        # Store it as a flag of the train command, or as a sweep.
        name = flag.removeprefix("--tasks.").removeprefix("--env.")
        if flag == "--dynamics":
            dynamics.append(value)
        else:
            taken.flags.append(f"--env.{name}={value}")
        if not flag.startswith("--env.") or name.partition(".")[0] in _OF_TASKS:
            taken.of_tasks.append(flag)
    if dynamics:
        parsed = _dynamics(",".join(dynamics))
        _refuse_other_flags(argv, [*parsed.flags, *map(dynamics_flag, parsed.sweeps)])
        taken.flags.extend(parsed.flags)
        taken.sweeps.update(parsed.sweeps)
    return taken, rest


def _refuse_other_flags(argv: Sequence[str], flags: Sequence[str]) -> None:
    """Raise UserError if ``argv`` also has one of the flags that ``--dynamics`` stands for."""
    given = {word.partition("=")[0] for word in argv}
    for flag in (flag.partition("=")[0] for flag in flags):
        for other in (flag, flag.replace("--env.", "--tasks.", 1)):
            if other in given:
                name = flag.removeprefix(dynamics_flag(""))
                raise UserError(f"--dynamics and {other} both set {name}: give one of them")


def refuse_sweeps(env_flags: EnvFlags) -> None:
    """Raise UserError if ``--dynamics`` has a sweep, in a command that trains."""
    if env_flags.sweeps:
        name = next(iter(env_flags.sweeps))
        raise UserError(
            f"--dynamics takes values in training, such as {name}=0.5:2, not the sweep "
            f"{name}=LOW:HIGH:POINTS"
        )


def env_of(config: Config, flags: Sequence[str]) -> EnvConfig:
    """Return the environment of a run, changed by ``flags``.

    Raises:
        UserError: if a flag cannot be set. The message names settings as the documents do:
            ``tasks.low``, not ``env.low``.
    """
    from maml_rl.settings.env import is_family
    from maml_rl.settings.parser import with_env_flags

    check = _check_family_flag if is_family(config.env.name) else _check_env_flag
    for flag in flags:
        check(config.env, flag.partition("=")[0].removeprefix("--env."))
    try:
        return with_env_flags(config, flags).env
    except UserError as error:
        raise UserError(str(error).replace('"env.', '"tasks.')) from error


def chosen_agent(command: str, args: argparse.Namespace, env_flags: EnvFlags) -> Agent:
    """Load the agent of ``args.run``, with its environment changed by flags.

    Args:
        command: its name.
        args: arguments of the command.
        env_flags: the changes.

    Raises:
        UserError: if the run cannot be loaded, a flag cannot be set, ``args.task`` and flags both
            choose tasks, or a flag is a sweep.
    """
    from maml_rl.agents.load import load_run
    from maml_rl.runs.pretrained import find_run
    from maml_rl.system.torch_runtime import resolve_device

    if env_flags.sweeps:
        raise UserError(
            f"{command} does not sweep: --dynamics NAME=LOW:HIGH:POINTS is for evaluate"
        )
    refuse_flags_beside_task(args.task, env_flags)
    agent = load_run(find_run(args.run), resolve_device(args.device), args.iteration)
    config = dataclasses.replace(agent.config, env=env_of(agent.config, env_flags.flags))
    return dataclasses.replace(agent, config=config)


def _check_family_flag(env: EnvConfig, name: str) -> None:
    """Raise UserError if a flag is not a setting of the run's task family."""
    from maml_rl.settings.families import family_of

    settings = [setting for setting in env.kwargs if setting != "dynamics"]
    if name.startswith("dynamics."):
        name = name.removeprefix("dynamics.")
        family = family_of(env.name)
        parameters = family.robot.parameters
        known = {**parameters, **family.task_units}
        close = name if name in known else closest_name(name, known)
        if close in family.task_units and close not in parameters:
            raise UserError(
                f"{env.name} has no dynamics {name!r} to set. {close} is a value of its tasks: "
                f"choose one with --task {close}=VALUE, or in evaluate sweep over it with "
                f"{close}=LOW:HIGH:POINTS"
            )
        if "dynamics" not in env.kwargs:
            raise UserError(
                f"{env.name} has no dynamics to set. Values of its tasks are "
                f"{', '.join(family.task_units)}: choose them with --task NAME=VALUE, or in "
                "evaluate sweep over one with NAME=LOW:HIGH:POINTS"
            )
    elif name not in settings:
        hint = did_you_mean(name, settings)
        valid = f" Valid are {', '.join(settings)}." if settings else " It has no settings."
        raise UserError(f"{env.name} has no setting {name!r}.{hint}{valid}")


def _check_env_flag(env: EnvConfig, name: str) -> None:
    """Raise UserError if a flag cannot change a run's environment that is not a task family.

    Whether the environment's constructor takes the argument is checked later, when the settings are
    resolved.
    """
    group, _, argument = name.partition(".")
    if group == "dynamics" and argument:
        raise UserError(
            f"{env.name} has no dynamics to set; sweep over a numeric task value with "
            f"{argument}=LOW:HIGH:POINTS, or set a constructor argument with "
            f"--env.{argument} VALUE"
        )
    if name in ("name", "vectorization", "observe_task"):
        raise UserError(f"env.{name} is fixed by the run and cannot be changed here")
    if group in ("kwarg_ranges", "task_list") and not getattr(env, group):
        raise UserError(
            f"the tasks of this run do not come from env.{group}, so it cannot be changed here"
        )
    argument = argument if group == "kwargs" else name
    if argument in env.kwarg_ranges:
        raise UserError(
            f"{argument} is drawn for each task (env.kwarg_ranges): change its distribution with "
            f"--tasks.kwarg_ranges.{argument} [LOW,HIGH] or '{{choices: [...]}}', or sweep over a "
            f"number with --dynamics {argument}=LOW:HIGH:POINTS"
        )
    tasks = env.drawn_tasks
    if tasks is not None and argument in tasks.names:
        from maml_rl.settings.env import are_arguments, resolve_env_id

        if are_arguments(resolve_env_id(env.name), tasks):
            raise UserError(
                f"{argument} is part of the tasks (env.task_list): list others with "
                "--tasks.task_list [{...},{...}], or name one with --task"
            )


def _dynamics(text: str) -> EnvFlags:
    """Parse ``--dynamics``: ``mass=2,slope=-0.1:0.1`` are flags, ``mass=0.5:3:6`` is a sweep.

    Raises:
        UserError: if ``text`` has another form, or sets a value twice.
    """
    names: list[str] = []
    parsed = EnvFlags(flags=[], sweeps={}, of_tasks=[])
    for part in _parts(text):
        # Split NAME=VALUE, and VALUE at colons.
        name, equals, value = (word.strip() for word in part.partition("="))
        low, *others = (word.strip() for word in value.split(":"))
        if not (equals and name and low and all(others)) or len(others) > 2 or "{" in value:
            raise UserError(
                "--dynamics expects NAME=VALUE, NAME=LOW:HIGH, NAME=LOW:HIGH:POINTS or "
                f"NAME=[VALUE,VALUE], separated by commas, got {text!r}"
            )
        if name in names:
            raise UserError(f"--dynamics sets {name} twice, got {text!r}")
        names.append(name)
        # A sweep, a range, or a value.
        if len(others) == 2:
            parsed.sweeps[name] = _sweep(part, low, *others)
        else:
            setting = f"{{low: {low}, high: {others[0]}}}" if others else value
            parsed.flags.append(f"{dynamics_flag(name)}={setting}")
    return parsed


def sweeps(text: str) -> dict[str, tuple[float, ...]]:
    """Parse ``NAME=LOW:HIGH:POINTS,...``: the values of each sweep, by name."""
    expected = argparse.ArgumentTypeError(
        "expected NAME=LOW:HIGH:POINTS, separated by commas, with LOW < HIGH and 2 to 1000 points, "
        f"got {text!r}"
    )
    try:
        parsed = _dynamics(text)
    except UserError as error:
        raise expected from error
    if parsed.flags:
        raise expected
    return parsed.sweeps


def _sweep(text: str, low: str, high: str, points: str) -> tuple[float, ...]:
    try:
        first, last, number = float(low), float(high), int(points)
    except ValueError:
        first, last, number = math.nan, math.nan, 0
    is_range = math.isfinite(first) and math.isfinite(last) and first < last
    if not (is_range and 2 <= number <= 1000):
        raise UserError(
            f"a sweep is NAME=LOW:HIGH:POINTS with LOW < HIGH and 2 to 1000 points, got {text!r}"
        )
    inner = (first + (last - first) * i / (number - 1) for i in range(1, number - 1))
    return (first, *(float(f"{value:.12g}") for value in inner), last)


def dynamics_flag(name: str) -> str:
    """Return the flag of the train command that sets a parameter of the dynamics."""
    return f"--env.dynamics.{name}"


def task_values(text: str) -> dict[str, Any]:
    """Parse a task such as ``goal_x=0.3,gait=trot,waypoints=[1,2]``, whose values are YAML."""
    task: dict[str, Any] = {}
    for part in _parts(text):
        name, equals, value = (word.strip() for word in part.partition("="))
        if not (equals and name and value):
            raise argparse.ArgumentTypeError(f"expected NAME=VALUE,NAME=VALUE,..., got {text!r}")
        if name in task:
            raise argparse.ArgumentTypeError(f"{name} is in {text!r} twice")
        try:
            task[name] = read_value(value, f"--task {name}")
        except UserError as error:
            raise argparse.ArgumentTypeError(str(error)) from error
    return task


def tasks_of_file(text: str) -> list[dict[str, Any]]:
    """Read the tasks in a YAML file: a list of mappings from names to values."""
    try:
        tasks = read_yaml_list(user_path(text))
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    expected = "a list of tasks such as [{goal_x: 0.3, goal_y: -0.2}]"
    if not tasks:
        raise argparse.ArgumentTypeError(f"{text} must hold {expected}, got an empty list")
    for number, task in enumerate(tasks, start=1):
        if not isinstance(task, dict) or not task:
            raise argparse.ArgumentTypeError(
                f"{text} must hold {expected}, got {task!r:.100} as task {number}"
            )
    return tasks


def _parts(text: str) -> list[str]:
    """Split ``text`` at commas outside brackets, braces and quotes."""
    quoted = r"""(?<=[=,:\s\[{])(?:"(?:\\.|[^"\\])*"|'[^']*')"""
    items = re.findall(f"{quoted}|.", text, re.DOTALL)
    parts, depth = [""], 0
    for item in items:
        depth += (item in "[{") - (item in "]}")
        if item == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += item
    return parts


def refuse_flags_beside_task(task: object, env_flags: EnvFlags) -> None:
    """Raise UserError if tasks and flags that change tasks are both given."""
    if task is not None and env_flags.of_tasks:
        raise UserError(
            "--task and --tasks_file describe whole tasks, dynamics included (body_mass=2): leave "
            f"out {' and '.join(dict.fromkeys(env_flags.of_tasks))}"
        )
