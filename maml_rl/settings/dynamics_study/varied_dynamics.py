"""What varies in a study: the dynamics of a task family, or arguments of another environment."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from maml_envs.engines.dynamics import Parameter

from maml_rl.errors import UserError
from maml_rl.settings.config import Config
from maml_rl.settings.env import (
    EnvConfig,
    check_arguments,
    default_arguments,
    is_family,
    resolve_env_id,
)
from maml_rl.settings.families import family_of
from maml_rl.settings.parser import with_env_flags

DEFAULT_DYNAMICS = "body_mass=0.5:2,geom_friction=0.5:2,actuator_gear=0.7:1.3,action_delay=0:2"
"""Dynamics of a task family in training, as the flag ``--dynamics`` takes them."""
_NUM_POINTS = 7
_DYNAMICS_FLAG = "--env.dynamics."


@dataclass(frozen=True)
class FamilyDynamics:
    """The dynamics of a task family, ``env.dynamics``."""

    varied: EnvConfig

    @property
    def untouched(self) -> EnvConfig:
        """The environment with nominal dynamics."""
        return self._with({})

    @property
    def parameters(self) -> Mapping[str, Parameter]:
        """What varies in training, by name."""
        return {name: self._all_parameters[name] for name in self.varied.kwargs["dynamics"]}

    @property
    def last_actuator(self) -> int | None:
        """Index of the last actuator that may fail; ``None`` if there are none.

        There are none in a family whose tasks disable one: a failure would enable it again.
        """
        name = "disabled_actuator"
        family = family_of(self.varied.name)
        if name in family.task_units or name not in self._all_parameters:
            return None
        return int(self._all_parameters[name].high)

    @property
    def _all_parameters(self) -> Mapping[str, Parameter]:
        family = family_of(self.varied.name)
        return family.robot.parameters

    def at(self, values: Mapping[str, Any]) -> EnvConfig:
        """The environment with some values, by name; what else varies is nominal."""
        nominal = {name: parameter.nominal for name, parameter in self.parameters.items()}
        return self._with({**nominal, **values})

    def _with(self, dynamics: Mapping[str, Any]) -> EnvConfig:
        return replace(self.varied, kwargs={**self.varied.kwargs, "dynamics": dynamics})


@dataclass(frozen=True)
class ArgumentDynamics:
    """Arguments of an environment's constructor that are drawn for each task."""

    varied: EnvConfig

    @property
    def untouched(self) -> EnvConfig:
        """The environment with nominal arguments."""
        return self.at({})

    @property
    def parameters(self) -> Mapping[str, Parameter]:
        """What varies in training, by name.

        The nominal value of an argument is that in ``env.kwargs``, or the constructor's default.

        Raises:
            UserError: if a nominal value is not a number.
        """
        return {name: self._parameter(name) for name in self.varied.kwarg_ranges}

    @property
    def last_actuator(self) -> int | None:
        """``None``: which actuators the environment has is not known."""
        return None

    def _parameter(self, name: str) -> Parameter:
        env = self.varied
        known = {**default_arguments(resolve_env_id(env.name)), **env.kwargs}
        numbers = [key for key, value in known.items() if type(value) in (int, float)]
        if name not in numbers:
            raise UserError(
                f"--dynamics {name}: the constructor of {env.name!r} has no number as its "
                f"default: set the nominal value with --env.{name} VALUE. Arguments with a number "
                f"as default: {', '.join(numbers) or 'none'}"
            )
        nominal = known[name]
        tasks = env.drawn_tasks
        assert tasks is not None, "kwarg_ranges is not empty"
        choices = tasks.distributions[name].choices
        is_integer = len(choices) > 0 and all(type(x) is int for x in (nominal, *choices))
        return Parameter("", -math.inf, math.inf, nominal, is_integer)

    def at(self, values: Mapping[str, Any]) -> EnvConfig:
        """The environment with some values, by name; what else varies is nominal."""
        ranges = {}
        for name, parameter in self.parameters.items():
            value = values.get(name, parameter.nominal)
            ranges[name] = {"choices": [int(value) if parameter.is_integer else value]}
        return replace(self.varied, kwarg_ranges=ranges)


VariedDynamics = FamilyDynamics | ArgumentDynamics
"""The environment of a study with each of its dynamics."""


def varied_dynamics(base: Config, flags: Sequence[str]) -> VariedDynamics:
    """Return what varies in a study.

    Args:
        base: settings of the environment without varied dynamics.
        flags: of the train command, which set it; the dynamics by ``--env.dynamics.NAME``.

    Raises:
        UserError: if there is nothing to vary, or a flag is invalid.
    """
    env = base.env
    if not is_family(env.name):
        varied = with_env_flags(base, [*map(_of_argument, flags)]).env
        tasks = varied.drawn_tasks
        if tasks is None or tasks.listed:
            raise UserError(
                f"{env.name} is not a task family, so --dynamics must name arguments of its "
                "constructor that vary in training, such as --dynamics mass=0.5:2"
            )
        check_arguments(resolve_env_id(env.name), tasks)
        return ArgumentDynamics(varied)
    if "dynamics" not in env.kwargs:
        raise UserError(
            f"{env.name} has no dynamics to vary: choose a family that has, such as "
            "HalfCheetahDir, Walker2dRandParams or AntDir"
        )
    untouched = replace(base, env=replace(env, kwargs={**env.kwargs, "dynamics": {}}))
    return FamilyDynamics(with_env_flags(untouched, flags).env)


def _of_argument(flag: str) -> str:
    """Return a flag that sets dynamics as one that draws an argument of the constructor."""
    if not flag.startswith(_DYNAMICS_FLAG):
        return flag
    name, _, value = flag.removeprefix(_DYNAMICS_FLAG).partition("=")
    if not value.startswith("{"):  # not a range, but one value or a list of them
        value = f"{{choices: {value if value.startswith('[') else f'[{value}]'}}}"
    return f"--env.kwarg_ranges.{name}={value}"


def swept_values(parameter: Parameter, low: float, high: float) -> tuple[float, ...]:
    """Return values around the nominal one, up to twice as far from it as in training.

    They are spaced evenly by their logarithms if all are positive. The nominal value is one of them
    if both ends are equally far from it.

    Args:
        parameter: whose valid range bounds them.
        low: lower end of the range in training.
        high: upper end of it.
    """
    nominal = parameter.nominal
    first, last = min(low, nominal), max(high, nominal)
    if first > 0:
        values = np.geomspace(first**2 / nominal, last**2 / nominal, _NUM_POINTS)
    else:
        values = np.linspace(2 * first - nominal, 2 * last - nominal, _NUM_POINTS)
    if parameter.is_integer:
        values = np.unique(values.round())
    inside = values.clip(parameter.low, parameter.high)
    if not parameter.is_integer:
        # Three digits, but the nominal value as it is.
        is_nominal = np.isclose(inside, nominal, rtol=1e-6, atol=1e-12)
        rounded = [_rounded(value) for value in inside.tolist()]
        inside = np.where(is_nominal, nominal, rounded)
    return tuple(dict.fromkeys(inside.tolist()))


def _rounded(value: float) -> float:
    """Round to three significant digits."""
    return 0.0 if value == 0 else round(value, 2 - math.floor(math.log10(abs(value))))
