"""Settings of the learners, and the table of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, get_type_hints

from maml_rl.errors import UserError, did_you_mean
from maml_rl.settings.env import load_object
from maml_rl.settings.learners.base import LEARNER_GROUPS, LearnerConfig, without_required
from maml_rl.settings.learners.maml import (
    BaselineConfig,
    InnerConfig,
    JointConfig,
    MAMLConfig,
    Surrogate,
)
from maml_rl.settings.learners.outer import (
    OUTER_CONFIGS,
    AdamConfig,
    OuterConfig,
    PPOConfig,
    ProMPConfig,
    ReptileConfig,
    TRPOConfig,
)
from maml_rl.settings.learners.pearl import PEARLConfig
from maml_rl.settings.learners.rl2 import RL2Config
from maml_rl.settings.learners.teacher_student import RMAConfig, SysIDConfig

__all__ = [
    "LEARNER_CONFIGS",
    "LEARNER_GROUPS",
    "OUTER_CONFIGS",
    "AdamConfig",
    "BaselineConfig",
    "InnerConfig",
    "JointConfig",
    "LearnerConfig",
    "MAMLConfig",
    "OuterConfig",
    "PEARLConfig",
    "PPOConfig",
    "ProMPConfig",
    "RL2Config",
    "RMAConfig",
    "ReptileConfig",
    "Surrogate",
    "SysIDConfig",
    "TRPOConfig",
    "episodes_per_stage",
    "hint_of_group",
    "learner_class",
    "outer_class",
    "without_required",
]

LEARNER_CONFIGS: dict[str, type[LearnerConfig]] = {
    "maml": MAMLConfig,
    "joint": JointConfig,
    "rl2": RL2Config,
    "pearl": PEARLConfig,
    "rma": RMAConfig,
    "sysid": SysIDConfig,
}
"""Settings of each built-in learner by its name."""


def learner_class(name: str) -> type[LearnerConfig]:
    """The class of a learner's settings.

    Args:
        name: a built-in learner, or ``module:Class`` of another one, whose attribute ``Config`` is
            the class; without this attribute the learner has no settings of its own.

    Raises:
        UserError: if there is no such learner, or its ``Config`` is not a class of settings.
    """
    if name in LEARNER_CONFIGS:
        return LEARNER_CONFIGS[name]
    if ":" not in name:
        hint = did_you_mean(name, LEARNER_CONFIGS)
        if name in OUTER_CONFIGS:
            hint = f" It is an outer step of MAML: --outer {name}."
        valid = ", ".join(LEARNER_CONFIGS)
        raise UserError(f"unknown learner {name!r:.200}.{hint} Valid are {valid}, or module:Class")
    cls = getattr(load_object(name, "learner"), "Config", LearnerConfig)
    what = f"learner {name!r}: its Config"
    _check_settings_class(cls, LearnerConfig, what)
    if not isinstance(cls.GROUPS, tuple) or not set(cls.GROUPS) <= set(LEARNER_GROUPS):
        raise UserError(
            f"{what}.GROUPS must be a tuple of names out of {', '.join(LEARNER_GROUPS)}, got "
            f"{cls.GROUPS!r:.200}"
        )
    return cls


def outer_class(name: str) -> type[OuterConfig]:
    """The class of an outer step's settings.

    Args:
        name: a built-in outer step, or ``module:Class`` of another one.

    Raises:
        UserError: if there is no such outer step, or the class is not one.
    """
    if name in OUTER_CONFIGS:
        return OUTER_CONFIGS[name]
    if ":" not in name:
        hint = did_you_mean(name, OUTER_CONFIGS)
        valid = ", ".join(OUTER_CONFIGS)
        raise UserError(
            f"unknown outer step {name!r:.200}.{hint} Valid are {valid}, or module:Class"
        )
    cls = load_object(name, "outer step")
    _check_settings_class(cls, OuterConfig, f"outer step {name!r}")
    if "name" in {field.name for field in dataclasses.fields(cls)}:
        raise UserError(f"outer step {name!r} must not have a setting called name")
    if not callable(getattr(cls, "step", None)):
        raise UserError(f"outer step {name!r} must define step(self, theta, state, objective)")
    return cls


def _check_settings_class(
    cls: Any, base: type[LearnerConfig] | type[OuterConfig], what: str
) -> None:
    """Refuse a class whose fields cannot be settings.

    Args:
        cls: what the user's code defines.
        base: class of settings that it must be derived from.
        what: beginning of the message.

    Raises:
        UserError: if it is not a dataclass of settings.
    """
    if not isinstance(cls, type) or not issubclass(cls, base):
        raise UserError(
            f"{what} must be a subclass of {__name__}.{base.__name__}, got {cls!r:.200}"
        )
    if "__dataclass_fields__" not in vars(cls):
        raise UserError(f"{what} must have the decorator @dataclass(frozen=True, kw_only=True)")
    try:
        types = get_type_hints(cls)
    except Exception as error:  # whatever the user's annotations raise
        raise UserError(f"{what} has a type that cannot be resolved: {error}") from error
    names = [field.name for field in dataclasses.fields(cls)]
    if not isinstance(cls.RANGES, Mapping) or not set(cls.RANGES) <= set(names):
        raise UserError(
            f"{what}.RANGES must be a mapping from {', '.join(names)}, got {cls.RANGES!r:.200}"
        )
    for field in dataclasses.fields(cls):
        if field.default is field.default_factory is dataclasses.MISSING:
            raise UserError(f"{what}.{field.name} needs a default")
        if dataclasses.is_dataclass(types[field.name]):
            raise UserError(f"{what}.{field.name} must not be a dataclass: a setting is one value")
        kind = types[field.name]
        plain = ("builtins", "typing", "collections.abc")
        if isinstance(kind, type) and kind.__module__ not in plain:
            raise UserError(
                f"{what}.{field.name} has the type {kind.__name__}, which a file "
                "cannot hold: expected numbers, text, true, false, or lists or mappings"
            )
        of_kind = (int, float) if kind is float else (kind,)
        if kind in (bool, int, float, str) and type(field.default) not in of_kind:
            raise UserError(
                f"{what}.{field.name} has the type {kind.__name__}, but the default "
                f"{field.default!r:.100}"
            )


def episodes_per_stage(learner: LearnerConfig, num_episodes: int) -> int:
    """Return :meth:`LearnerConfig.stage_episodes`, checked.

    Args:
        learner: settings of the learner.
        num_episodes: episodes to play per task and stage.

    Raises:
        UserError: if it is not a positive integer that divides ``num_episodes``.
    """
    number = learner.stage_episodes(int(num_episodes))
    is_valid = type(number) is int and number > 0 and num_episodes % number == 0
    if not is_valid:
        raise UserError(
            f"stage_episodes of learner {learner.name!r} must return a positive integer that "
            f"divides num_episodes {num_episodes}, got {number!r:.100}"
        )
    return number


def hint_of_group(setting: str, learner_name: str) -> str:
    """A hint if the learner does not use the group of a setting; else empty.

    Args:
        setting: dotted name, such as ``inner.num_steps``.
        learner_name: name of the learner.
    """
    group = setting.partition(".")[0]
    if group not in LEARNER_GROUPS or group in learner_class(learner_name).GROUPS:
        return ""
    return f" The learner {learner_name} does not use the settings of {group}."
