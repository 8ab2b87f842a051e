"""Learners trained on the same varied dynamics, with as many control steps each, to compare them.

Every method has a folder of several seeds, OUTPUT/METHOD.
"""

from __future__ import annotations

import functools
import itertools
import math
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from maml_envs.engines.changes import CHANGED
from maml_envs.engines.dynamics import Parameter

from maml_rl.errors import UserError
from maml_rl.settings.config import Config, LoggingConfig, to_mapping
from maml_rl.settings.env import EnvConfig, is_family
from maml_rl.settings.families import family_of, held_out, trained_range
from maml_rl.settings.flags import normalized, take_option
from maml_rl.settings.learners import LEARNER_GROUPS, LearnerConfig, MAMLConfig
from maml_rl.settings.learners.pearl import PEARLConfig
from maml_rl.settings.learners.teacher_student import TeacherStudentConfig
from maml_rl.settings.learners.trial_ppo import TrialPPOConfig
from maml_rl.settings.parser import load_config, resolve, with_env_flags

_MOST_ITERATIONS = 1_000_000
"""More than any run needs: control steps end it."""
_NUM_POINTS = 7
_OF_METHODS = (*LEARNER_GROUPS, "learner", "policy", "meta_batch_size", "num_episodes")
"""Settings and groups of settings in which methods may differ."""


class Method(NamedTuple):
    """How a policy of the comparison is trained."""

    learner: str
    """Name of the learner."""
    observes: str
    """What it observes beside its observation."""
    is_varied: bool = True
    """Whether the dynamics vary in training."""
    observes_task: bool = False
    """Whether its observation includes the task."""
    flags: tuple[str, ...] = ()
    """Flags of the train command that change its settings."""

    @property
    def adapts(self) -> bool:
        """Whether it is adapted to a task."""
        return self.learner != "joint"


METHODS: Mapping[str, Method] = {
    "untouched": Method("joint", "nothing; trained with nominal dynamics", is_varied=False),
    "randomised": Method("joint", "nothing (domain randomisation)"),
    "oracle": Method("joint", "the task with its dynamics", observes_task=True),
    "maml": Method("maml", "whole episodes, between which it takes gradient steps"),
    "rl2": Method("rl2", "its past actions and rewards, in a memory"),
    "pearl": Method("pearl", "past transitions, between episodes"),
    "rma": Method("rma", "its past actions and rewards, in a memory that was taught the task"),
    "sysid": Method("sysid", "its last steps, from which it was taught to infer the task"),
}
"""The methods by name, in the order of tables."""


DEFAULT_METHODS = tuple(name for name in METHODS if name != "pearl")
"""Methods that are compared by default; PEARL takes many hours."""

DEFAULT_REFERENCE = "randomised"
"""The method that others are compared with, if it is one of them."""


class ActuatorFailure(NamedTuple):
    """Dynamics in which an actuator fails in mid-episode."""

    dynamics: Mapping[str, Any]
    """Values and distributions."""
    swept: Mapping[str, float]
    """The values that tell one failure from another."""


DEFAULT_DYNAMICS = "body_mass=0.5:2,geom_friction=0.5:2,actuator_gear=0.7:1.3,action_delay=0:2"
"""Dynamics in training, as the flag ``--dynamics`` takes them."""


@dataclass(frozen=True, kw_only=True)
class DynamicsStudy:
    """What is trained, and with which dynamics it is evaluated.

    Args:
        env: the task family.
        flags: of the train command, which set the dynamics that vary in training.
        num_env_steps: control steps of each run.
        horizon: of all runs; default is that of the family's preset.
        action_scale: ``policy.action_scale`` of all runs; default is that of each preset. PEARL
            divides it out.
        folder: of all files.
        device: of the policies.
        variants: methods beside those of :data:`METHODS`, by name.

    Raises:
        UserError: if the environment is not a task family, a setting is invalid, or a quantity
            does not vary.
    """

    env: str
    flags: Sequence[str]
    num_env_steps: int
    horizon: int | None
    action_scale: float | None
    folder: Path
    device: str
    variants: Mapping[str, Method] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not is_family(self.env):
            raise UserError(
                f"{self.env} is not a task family: its dynamics are unknown. For other "
                "environments, train the learners with --env.kwarg_ranges, and sweep with "
                "python -m maml_rl.evaluate RUN ... --dynamics NAME=LOW:HIGH:POINTS"
            )
        if "dynamics" not in self.base.env.kwargs:
            raise UserError(
                f"{self.env} has no dynamics to vary: choose a family that has, such as "
                "HalfCheetahDir, Walker2dRandParams or AntDir"
            )
        for name, values in self.sweeps().items():
            if len(values) == 1:
                raise UserError(
                    f"--dynamics {name} must be a range in training, such as {name}=0.5:2, got "
                    f"the value {values[0]:g}"
                )

    @property
    def methods(self) -> Mapping[str, Method]:
        """All methods by name."""
        return {**METHODS, **self.variants}

    @functools.cached_property
    def base(self) -> Config:
        """The preset of the family, whose environment and horizon all methods share."""
        changes: dict[str, Any] = {} if self.horizon is None else {"horizon": self.horizon}
        return load_config(env=self.env, **changes)

    @functools.cached_property
    def varied_env(self) -> EnvConfig:
        """The environment with the dynamics of training."""
        base = self.base
        untouched = replace(base, env=replace(base.env, kwargs={**base.env.kwargs, "dynamics": {}}))
        return with_env_flags(untouched, self.flags).env

    def config(self, name: str) -> Config:
        """Return the settings of a method's runs.

        Args:
            name: of one of :attr:`methods`.

        Raises:
            UserError: if the flags of a variant are invalid.
        """
        method, base = self.methods[name], self.base
        env = replace(self.varied_env, observe_task=method.observes_task)
        if not method.is_varied:
            env = replace(env, kwargs={**env.kwargs, "dynamics": {}})
        changes: dict[str, Any] = {}
        if self.action_scale is not None:
            changes["policy"] = {"action_scale": self.action_scale}
        config = load_config(env=self.env, learner=method.learner, **changes)
        if method.flags:
            config = resolve(to_mapping(config), method.flags, source=f"variant {name}")
        learner = config.learner
        if isinstance(learner, TrialPPOConfig):
            learner = self._within_the_budget(config, learner)
        elif isinstance(learner, PEARLConfig):
            learner = _with_enough_tasks(learner)
        return replace(
            config,
            learner=learner,
            env=env,
            horizon=base.horizon,
            num_iterations=_MOST_ITERATIONS,
            max_env_steps=self.num_env_steps,
            output=str(self.folder / name),
            device=self.device,
            logging=LoggingConfig(final_evaluation=False, final_video=False),
        )

    def _within_the_budget(self, config: Config, learner: TrialPPOConfig) -> LearnerConfig:
        """Return settings whose schedules fit the control steps of a run.

        A falling step size reaches its final value at the end. Two thirds of the control steps
        train the teacher, if there is one.
        """
        num_env_steps = config.meta_batch_size * learner.num_episodes * self.base.horizon
        num_iterations = self.num_env_steps / num_env_steps
        changes: dict[str, Any] = {}
        if learner.decay_iterations:
            changes["decay_iterations"] = max(1, round(num_iterations))
        if isinstance(learner, TeacherStudentConfig):
            changes["teacher_iterations"] = max(1, round(2 / 3 * num_iterations))
        return replace(learner, **changes)

    @property
    def _parameters(self) -> Mapping[str, Parameter]:
        family: Any = family_of(self.env)
        return family.body.parameters

    def env_at(self, values: Mapping[str, Any] | None, *, observe_task: bool) -> EnvConfig:
        """Return the environment to evaluate in, with held-out tasks if the family has some.

        Args:
            values: of some dynamics; the other varied ones are nominal. ``None``: all as in
                training.
            observe_task: whether the observation includes the task.
        """
        env = replace(held_out(self.varied_env), observe_task=observe_task)
        if values is None:
            return env
        varied: Mapping[str, Any] = env.kwargs["dynamics"]
        nominal = {name: self._parameters[name].nominal for name in varied}
        return replace(env, kwargs={**env.kwargs, "dynamics": {**nominal, **values}})

    def sweeps(self) -> dict[str, tuple[float, ...]]:
        """Return the values of each varied quantity to evaluate at, by name.

        They reach twice as far from the nominal value as in training, for a positive factor on a
        logarithmic scale.
        """
        return {
            name: swept_values(self._parameters[name], *self.trained_range(name))
            for name in self.varied_env.kwargs["dynamics"]
        }

    def pairs(self) -> list[dict[str, float]]:
        """Return values of the first two varied quantities together.

        They are the nominal value and both ends of each sweep. There are none with one quantity.
        """
        first_two = list(self.sweeps().items())[:2]
        if len(first_two) < 2:
            return []
        names = [name for name, _ in first_two]
        values = [
            sorted({sweep[0], self._parameters[name].nominal, sweep[-1]})
            for name, sweep in first_two
        ]
        return [dict(zip(names, pair, strict=True)) for pair in itertools.product(*values)]

    def failures(self) -> list[ActuatorFailure]:
        """Return dynamics in which an actuator, drawn for each task, fails in the first episode.

        It fails after a quarter or a half of the horizon, and is dead in all later episodes. If the
        mass varies in training, it also fails with the largest mass of the sweep.
        """
        last = int(self._parameters["disabled_actuator"].high)
        horizon = self.base.horizon
        masses: list[dict[str, float]] = [{}]
        if "body_mass" in self.sweeps():
            masses.append({"body_mass": self.sweeps()["body_mass"][-1]})
        failures = []
        for mass in masses:
            for step in dict.fromkeys((horizon // 4, horizon // 2)):
                actuator = {"low": 0, "high": last}
                fails = {"change_step": step, f"{CHANGED}disabled_actuator": actuator}
                failures.append(ActuatorFailure({**mass, **fails}, {**mass, "change_step": step}))
        return failures

    def trained_range(self, name: str) -> tuple[float, float]:
        """Return the range of a varied quantity in training."""
        trained = trained_range(replace(self.base, env=self.varied_env), name)
        assert trained is not None, "a family's settings determine it"
        return trained


def make_variant(text: str) -> tuple[str, Method]:
    """Return the name and the method that ``NAME=FLAGS`` describes.

    Args:
        text: such as ``promp=--outer promp --outer.step_size 0.003``. The learner is MAML unless
            ``--learner`` is one of the flags.

    Raises:
        UserError: if the name is invalid, or a flag does not belong to a method.
    """
    name, _, typed = (word.strip() for word in text.partition("="))
    if not re.fullmatch(r"\w[\w.-]*", name) or name in (*METHODS, "evaluation") or not typed:
        raise UserError(
            '--variant expects NAME="FLAGS" with a new name, such as '
            f'promp="--outer promp --outer.step_size 0.003", got {text!r:.100}'
        )
    try:
        words = normalized(shlex.split(typed))
    except ValueError as error:
        raise UserError(f"--variant {name}: {typed!r:.100} cannot be read: {error}") from error
    learner, flags = take_option(words, "--learner.name")
    for flag in flags:
        group = flag.removeprefix("--").partition("=")[0].partition(".")[0]
        if flag.startswith("--") and group not in _OF_METHODS:
            raise UserError(
                f"--variant {name}: {flag.partition('=')[0]} cannot be set for one method. Valid "
                f"are --learner and settings of {', '.join(_OF_METHODS)}"
            )
    learner = learner or MAMLConfig.name
    method = Method(learner, f"as {learner}, trained with {typed}", flags=tuple(flags))
    return name, method


def _with_enough_tasks(learner: PEARLConfig) -> PEARLConfig:
    """Return settings with at least the default number of training tasks; 0 draws new ones.

    A preset for few goals, such as two directions, would train with as few versions of the
    dynamics.
    """
    if learner.num_training_tasks == 0:
        return learner
    num_tasks = max(learner.num_training_tasks, PEARLConfig.num_training_tasks)
    return replace(learner, num_training_tasks=num_tasks)


def swept_values(parameter: Parameter, low: float, high: float) -> tuple[float, ...]:
    """Return values up to twice as far from the nominal one as a range in training.

    Args:
        parameter: whose valid range bounds them.
        low: lower end of the range.
        high: upper end of it.
    """
    nominal = parameter.nominal
    is_factor = nominal == 1 and low > 0
    if is_factor:
        values = np.geomspace(low**2, high**2, _NUM_POINTS)
    else:
        values = np.linspace(2 * low - nominal, 2 * high - nominal, _NUM_POINTS)
    if parameter.is_integer:
        values = np.unique(values.round())
    inside = values.clip(parameter.low, parameter.high)
    return tuple(dict.fromkeys(_rounded(value) for value in inside.tolist()))


def _rounded(value: float) -> float:
    """Round to three significant digits."""
    return 0.0 if value == 0 else round(value, 2 - math.floor(math.log10(abs(value))))
