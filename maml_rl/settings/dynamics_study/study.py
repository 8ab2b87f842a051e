"""Learners trained on the same varied dynamics, with the same number of control steps.

Every method has a folder of several seeds, OUTPUT/METHOD.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from maml_envs.engines.changes import CHANGED

from maml_rl.errors import UserError
from maml_rl.settings.config import MOST_ITERATIONS, Config, LoggingConfig, to_mapping
from maml_rl.settings.dynamics_study.methods import METHODS, Method
from maml_rl.settings.dynamics_study.varied_dynamics import (
    VariedDynamics,
    swept_values,
    varied_dynamics,
)
from maml_rl.settings.env import EnvConfig
from maml_rl.settings.families import held_out, trained_range
from maml_rl.settings.learners.pearl import PEARLConfig
from maml_rl.settings.learners.trial_ppo import TrialPPOConfig
from maml_rl.settings.parser import load_config, resolve


class ActuatorFailure(NamedTuple):
    """Dynamics in which an actuator fails in mid-episode."""

    dynamics: Mapping[str, Any]
    """Values and distributions."""
    swept: Mapping[str, float]
    """The values that tell one failure from another."""


@dataclass(frozen=True, kw_only=True)
class DynamicsStudy:
    """What is trained, and with which dynamics it is evaluated.

    Args:
        env: a task family, or another environment with arguments to vary.
        flags: of the train command, which set the dynamics that vary in training:
            ``--env.dynamics.NAME``.
        num_env_steps: control steps of each run.
        horizon: of all runs; default is that of the family's preset.
        action_scale: ``policy.action_scale`` of all runs; default is that of each preset. PEARL
            divides it out.
        folder: of all files.
        device: of the policies.
        variants: methods beside those of :data:`METHODS`, by name.
        chosen_sweeps: values of varied quantities in the evaluation, by name, in place of those of
            :func:`swept_values`.

    Raises:
        UserError: if the environment has nothing to vary, a setting is invalid, or a quantity does
            not vary.
    """

    env: str
    flags: Sequence[str]
    num_env_steps: int
    horizon: int | None
    action_scale: float | None
    folder: Path
    device: str
    variants: Mapping[str, Method] = field(default_factory=dict)
    chosen_sweeps: Mapping[str, Sequence[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.chosen_sweeps:
            if name not in self.dynamics.parameters:
                valid = ", ".join(self.dynamics.parameters)
                raise UserError(f"--sweep {name}: it does not vary in training. Valid are {valid}")
        self.sweeps()  # checks the ranges of training, and the values of sweeps

    @property
    def methods(self) -> Mapping[str, Method]:
        """All methods by name."""
        return {**METHODS, **self.variants}

    @functools.cached_property
    def base(self) -> Config:
        """The preset whose environment and horizon all methods share."""
        changes: dict[str, Any] = {} if self.horizon is None else {"horizon": self.horizon}
        return load_config(env=self.env, **changes)

    @functools.cached_property
    def dynamics(self) -> VariedDynamics:
        """What varies."""
        return varied_dynamics(self.base, self.flags)

    def config(self, name: str) -> Config:
        """Return the settings of a method's runs.

        Args:
            name: of one of :attr:`methods`.

        Raises:
            UserError: if the flags of a variant are invalid, or a learner needs more control steps.
        """
        method, base = self.methods[name], self.base
        env = self.dynamics.varied if method.is_varied else self.dynamics.untouched
        env = replace(env, observe_task=method.observes_task)
        changes: dict[str, Any] = {}
        if self.action_scale is not None:
            changes["policy"] = {"action_scale": self.action_scale}
        config = load_config(env=self.env, learner=method.learner, **changes)
        if method.flags:
            config = resolve(to_mapping(config), method.flags, source=f"variant {name}")
        learner = config.learner
        if isinstance(learner, TrialPPOConfig) and learner.decay_iterations:
            # The step size reaches its final value at the end of the run. That of a teacher, whose
            # phase is shorter, ends above it.
            learner = replace(learner, decay_iterations=0, decay_env_steps=self.num_env_steps)
        elif isinstance(learner, PEARLConfig):
            learner = _with_enough_tasks(learner)
        try:
            return replace(
                config,
                learner=learner,
                env=env,
                horizon=base.horizon,
                num_iterations=MOST_ITERATIONS,  # control steps end it
                max_env_steps=self.num_env_steps,
                output=str(self.folder / name),
                device=self.device,
                logging=LoggingConfig(final_evaluation=False, final_video=False),
            )
        except ValueError as error:
            message = str(error).replace("max_env_steps", "--num_env_steps")
            raise UserError(f"method {name}: {message}") from error

    def env_at(self, values: Mapping[str, Any] | None, *, observe_task: bool) -> EnvConfig:
        """Return the environment to evaluate in, with held-out tasks if the family has some.

        Args:
            values: of some dynamics; the other varied ones are nominal. ``None``: all as in
                training.
            observe_task: whether the observation includes the task.
        """
        env = self.dynamics.varied if values is None else self.dynamics.at(values)
        return replace(held_out(env), observe_task=observe_task)

    def sweeps(self) -> dict[str, tuple[float, ...]]:
        """Return the values of each varied quantity to evaluate at, by name.

        They reach twice as far from the nominal value as in training, or are the chosen ones and
        the nominal one.

        Raises:
            UserError: if a quantity is not a range in training, or a chosen value is not valid.
        """
        result = {}
        for name, parameter in self.dynamics.parameters.items():
            result[name] = swept_values(parameter, *self.trained_range(name))
            chosen = self.chosen_sweeps.get(name)
            if chosen is None:
                continue
            for value in chosen:
                if not parameter.accepts(value):
                    raise UserError(
                        f"--sweep {name}: each value must be {parameter}, got {value:g}"
                    )
            result[name] = tuple(sorted({*chosen, parameter.nominal}))
        return result

    def pairs(self) -> list[dict[str, float]]:
        """Return values of the first two varied quantities together.

        They are the nominal value and both ends of each sweep. There are none with one quantity.
        """
        first_two = list(self.sweeps().items())[:2]
        if len(first_two) < 2:
            return []
        names = [name for name, _ in first_two]
        parameters = self.dynamics.parameters
        values = [
            sorted({sweep[0], parameters[name].nominal, sweep[-1]}) for name, sweep in first_two
        ]
        return [dict(zip(names, pair, strict=True)) for pair in itertools.product(*values)]

    def failures(self) -> list[ActuatorFailure]:
        """Return dynamics in which an actuator, drawn for each task, fails in the first episode.

        It fails after a quarter or a half of the horizon, and is dead in all later episodes. If the
        mass varies in training, it also fails with the largest mass of the sweep. There are none in
        an environment that is not a task family.
        """
        last = self.dynamics.last_actuator
        if last is None:
            return []
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
        """Return the range of a varied quantity in training.

        Raises:
            UserError: if it is not a range.
        """
        trained = trained_range(replace(self.base, env=self.dynamics.varied), name)
        if trained is None or trained[0] == trained[1]:
            got = "no range without gaps" if trained is None else f"the value {trained[0]:g}"
            raise UserError(
                f"--dynamics {name} must be a range in training, such as {name}=0.5:2, got {got}"
            )
        return trained


def _with_enough_tasks(learner: PEARLConfig) -> PEARLConfig:
    """Return settings with at least the default number of training tasks; 0 draws new ones.

    A preset for few goals, such as two directions, would train with as few versions of the
    dynamics.
    """
    if learner.num_training_tasks == 0:
        return learner
    num_tasks = max(learner.num_training_tasks, PEARLConfig.num_training_tasks)
    return replace(learner, num_training_tasks=num_tasks)
