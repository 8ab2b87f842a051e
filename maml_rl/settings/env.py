"""Settings of the environment, its registered id, and other objects by ``module:Name``."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import gymnasium as gym
from maml_envs import FAMILIES

from maml_rl.errors import UserError, closest_name, did_you_mean, in_one_line
from maml_rl.settings.drawn_tasks import DrawnTasks
from maml_rl.settings.drawn_tasks import parse as parse_tasks
from maml_rl.settings.ranges import check_ranges
from maml_rl.system.safe_yaml import plain_values

Vectorization = Literal["sync", "async"]


@dataclass(frozen=True, kw_only=True)
class EnvConfig:
    """The environment."""

    name: str = "HalfCheetahVel"
    """A task family, an id registered with Gymnasium, module:Family or module:EnvId-v0."""
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    """Constructor arguments: --env.ARG VALUE; --env.kwargs.ARG VALUE if a setting is called ARG."""
    vectorization: Vectorization = "sync"
    """Where a custom environment runs: in this process (sync) or in worker processes (async)."""
    observe_task: bool = False
    """Append the task's values to every observation, as for an oracle policy."""
    kwarg_ranges: Mapping[str, Any] = field(default_factory=dict)
    """Arguments to draw per task: {g: [5, 15]}, {g: {low: 5, high: 15, log: true}} or
    {g: {choices: [5, 9]}}."""
    task_list: tuple[Mapping[str, Any], ...] = ()
    """Tasks to draw from: [{goal: 1}, {goal: 2}]; values for set_task or constructor arguments."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "kwarg_ranges", plain_values(self.kwarg_ranges))
        task_list = plain_values(self.task_list)
        task_list = tuple(task_list) if isinstance(task_list, list) else task_list
        object.__setattr__(self, "task_list", task_list)
        parse_tasks(self.kwarg_ranges, self.task_list)
        check_ranges(self, "env.")
        is_mapping = isinstance(self.kwargs, Mapping)
        if not is_mapping or not all(isinstance(name, str) for name in self.kwargs):
            raise ValueError(
                f"env.kwargs must be a mapping from names to values, got {self.kwargs!r:.200}"
            )

    @property
    def drawn_tasks(self) -> DrawnTasks | None:
        """The tasks that these settings describe, if any."""
        return parse_tasks(self.kwarg_ranges, self.task_list)


ENV_SETTINGS = frozenset(field.name for field in fields(EnvConfig))
"""An environment's argument that has one of these names must be in ``env.kwargs``."""


def resolve_env_id(name: str) -> str:
    """The registered id of an environment.

    Args:
        name: a built-in family (``HalfCheetahVel``), a registered id (``Pendulum-v1``), or
            ``module:Family`` or ``module:EnvId-v0``, whose module is imported first.

    Raises:
        UserError: if no environment has that name, or its module cannot be imported.
    """
    module = ""
    if ":" in name:
        _import_module_of(name, "environment")
        module, _, name = name.partition(":")
    family_id = f"maml_rl/{name}-v0"
    if family_id in gym.registry:
        return family_id
    if name in gym.registry:
        return name
    closest = closest_name(name, [*FAMILIES, *gym.registry])
    hint = "" if closest is None else f" Did you mean '{_with_module(closest, module)}'?"
    class_name = re.sub(r"-v\d+$", "", name)
    value = getattr(sys.modules.get(module), class_name, None)
    if not module:
        hint = _hint_of_module(name, hint)
    elif isinstance(value, type) and issubclass(value, gym.Env):
        hint = (
            f" {module} has the class {class_name}, and does not register it: add "
            f"gymnasium.register(id='{class_name}-v0', entry_point={class_name}) there, and name "
            f"it {module}:{class_name}-v0."
        )
    built_in = [family for family, cls in FAMILIES.items() if is_family_of_package(cls)]
    added = [_with_module(family, "") for family in FAMILIES if family not in built_in]
    yours = f"your own ({', '.join(added)}), " if added else ""
    raise UserError(
        f"unknown environment {name!r}.{hint} Valid are the built-in families "
        f"({', '.join(built_in)}), {yours}any id that is registered with Gymnasium, and "
        "module:Family or module:EnvId-v0."
    )


def named_env(name: str, config: EnvConfig) -> EnvConfig:
    """The settings of an environment: ``config`` if it is of this one, otherwise its defaults.

    Args:
        name: as for :func:`resolve_env_id`.
        config: settings of an environment, perhaps of another one.

    Raises:
        UserError: as :func:`resolve_env_id`.
    """
    is_same = resolve_env_id(name) == resolve_env_id(config.name)
    return config if is_same else EnvConfig(name=name)


def is_family_of_package(family: type) -> bool:
    """Whether the class of a task family is one of this package, not a user's."""
    return family.__module__.startswith("maml_envs.")


def _with_module(name: str, module: str) -> str:
    """Return the name of a registered environment with the module that registers it, if needed.

    Args:
        name: of a family, or a registered id.
        module: that the user named, or empty.
    """
    if name in FAMILIES:
        family = FAMILIES[name]
        needs_none = is_family_of_package(family) or family.__module__ == "__main__"
        return name if needs_none else f"{family.__module__}:{name}"
    entry: Any = gym.spec(name).entry_point
    defining = entry if isinstance(entry, str) else getattr(entry, "__module__", "")
    package = module.partition(".")[0]
    is_of_module = package and re.match(rf"{re.escape(package)}\b", defining)
    return f"{module}:{name}" if is_of_module else name


def _hint_of_module(name: str, hint: str) -> str:
    """Return what to write for an environment that a module of the user may define.

    Args:
        name: an unknown environment.
        hint: the closest known name, for a name that is neither a module nor a model.
    """
    if re.search(r"-v\d+$", name):
        return f"{hint} If one of your modules registers it: --env module:{name}."
    if name.endswith(".xml"):
        return " A model needs a family: see docs/add_a_family.md."
    module = name.removesuffix(".py")
    file = Path(f"{module}.py")
    if not module.isidentifier() or not os.path.isfile(file):
        return hint
    try:
        classes = [node for node in ast.parse(file.read_bytes()).body if type(node) is ast.ClassDef]
    except (SyntaxError, ValueError):  # importing it reports the error
        classes = []
    names = [
        node.name
        for node in classes
        if any("register" in ast.unparse(decorator) for decorator in node.decorator_list)
    ]
    flags = " or ".join(f"--env {module}:{family}" for family in names or ["NAME"])
    return f" {file} is in this folder; name its family: {flags}."


def load_object(name: str, kind: str) -> Any:
    """The class or function with the name ``module:Name``; its module is imported first.

    Args:
        name: such as ``my_package.bandits:Bandit``.
        kind: what the object is, for messages: ``learner``.

    Raises:
        UserError: if the name has another form, the module cannot be imported or does not define
            the object, or the object is neither a class nor a function.
    """
    module = _import_module_of(name, kind)
    module_name, _, object_name = name.partition(":")
    if not hasattr(module, object_name):
        closest = closest_name(object_name, [key for key in vars(module) if key[0] != "_"])
        hint = "" if closest is None else f" Did you mean '{module_name}:{closest}'?"
        where = getattr(module, "__file__", None) or "without a file"
        raise UserError(
            f"{kind} {name!r}: module {module_name!r} ({where}) defines no {object_name!r}.{hint}"
        )
    found = getattr(module, object_name)
    if not callable(found):
        raise UserError(f"{kind} {name!r} must be a class or a function, got {found!r:.100}")
    return found


def _import_module_of(name: str, kind: str) -> ModuleType:
    """Import the module of ``module:Name``.

    Raises:
        UserError: if the name has another form, or the module is named as a file or cannot be
            imported; the message names ``kind`` and ``name``.
    """
    module, _, rest = name.partition(":")
    if not module or not rest:
        raise UserError(f"{kind} {name!r:.200} must have the form module:Name")
    if module.endswith(".py"):
        raise UserError(f"{kind} {name!r}: leave out .py: {module.removesuffix('.py')}:{rest}")
    try:
        return importlib.import_module(module)
    except (Exception, SystemExit) as error:  # whatever the user's code raises
        package = module.partition(".")[0]
        reason = f" ({in_one_line(error)})"
        if isinstance(error, ModuleNotFoundError) and error.name == package:
            reason = (
                f" ({error}). A command searches the current folder, a script its own folder: run "
                f"the command where {package}.py is, put {package}.py beside the script, add its "
                "folder to PYTHONPATH, or install the package"
            )
        raise UserError(f"{kind} {name!r}: module {module!r} cannot be imported{reason}") from error


def is_family(name: str) -> bool:
    """Whether an environment is a task family, built in or added."""
    return resolve_env_id(name).startswith("maml_rl/")


def registered_horizon(name: str) -> int | None:
    """The ``max_episode_steps`` that an environment is registered with; ``None`` if it has none."""
    steps = gym.spec(resolve_env_id(name)).max_episode_steps
    return steps if steps is not None and steps > 0 else None


def are_arguments(env_id: str, tasks: DrawnTasks) -> bool:
    """Whether tasks are arguments of the constructor; listed ones go to ``set_task`` if it exists.

    That method takes any values.
    """
    return not (tasks.listed and hasattr(_creator(env_id), "set_task"))


def check_arguments(env_id: str, tasks: DrawnTasks) -> None:
    """Refuse tasks with values that the constructor of a registered environment does not take.

    Raises:
        UserError: if an argument is unknown; the message names the closest match.
    """
    if not are_arguments(env_id, tasks):
        return
    reason = ", and the environment has no set_task" if tasks.listed else ""
    for name in tasks.names:
        check_argument(env_id, name, f"{tasks.setting}: the constructor of {env_id!r}", reason)


def default_arguments(env_id: str) -> dict[str, Any]:
    """The arguments of a registered environment's constructor that have a default, with it."""
    parameters = inspect.signature(_creator(env_id)).parameters.values()
    defaults = {item.name: item.default for item in parameters if item.default is not item.empty}
    return {**defaults, **gym.spec(env_id).kwargs}


def check_argument(env_id: str, name: str, who: str, reason: str = "") -> None:
    """Refuse an argument that the constructor of a registered environment does not take.

    Args:
        env_id: the registered id.
        name: of the argument.
        who: what takes no such argument, for the message.
        reason: follows the name in the message.

    Raises:
        UserError: if it is unknown; the message names the closest match.
    """
    parameters = inspect.signature(_creator(env_id)).parameters
    takes_any = any(item.kind is item.VAR_KEYWORD for item in parameters.values())
    if name in parameters or takes_any:
        return
    hint = did_you_mean(name, parameters, "'")
    valid = ", ".join(parameter for parameter in parameters if parameter != "render_mode") or "none"
    raise UserError(f"{who} takes no argument {name!r}{reason}.{hint} Its arguments: {valid}.")


def _creator(env_id: str) -> Any:
    """The class or function that makes a registered environment.

    Raises:
        UserError: if it cannot be imported.
    """
    creator: Any = gym.spec(env_id).entry_point
    if not isinstance(creator, str):
        return creator
    try:
        return gym.envs.registration.load_env_creator(creator)
    except (Exception, SystemExit) as error:  # whatever the user's code raises
        raise UserError(
            f"environment {env_id!r} cannot be made: {creator} cannot be imported "
            f"({in_one_line(error)})"
        ) from error
