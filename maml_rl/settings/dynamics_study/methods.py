"""The methods of a study of unseen dynamics."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import NamedTuple

from maml_rl.errors import UserError
from maml_rl.settings.flags import normalized, take_option
from maml_rl.settings.learners import LEARNER_GROUPS, MAMLConfig

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
    if flags and not flags[0].startswith("--"):
        raise UserError(f"--variant {name}: expected flags, such as --outer promp, got {typed!r}")
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
