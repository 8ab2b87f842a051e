"""Prepare and check the flags of training before the parser reads them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

from maml_rl.errors import UserError, did_you_mean
from maml_rl.settings.env import ENV_SETTINGS
from maml_rl.settings.learners import LEARNER_CONFIGS, OUTER_CONFIGS, hint_of_group
from maml_rl.settings.ranges import MOST_DIGITS
from maml_rl.settings.sources import checked_mapping
from maml_rl.system.safe_yaml import read_value

_SHORTHANDS = {"--env": "--env.name", "--learner": "--learner.name", "--outer": "--outer.name"}
_OTHER_FLAGS = {
    "--help",
    "--version",
    "--config",
    "--resume",
    "--print_config",
    "--seeds",
    *_SHORTHANDS,
}
_NAMED_CONFIGS: dict[str, Mapping[str, type[Any]]] = {
    "--learner": LEARNER_CONFIGS,
    "--outer": OUTER_CONFIGS,
}
_DYNAMICS = "env.dynamics"  # a mapping; its items are flags as well: --env.dynamics.body_mass


def normalized(argv: Sequence[str]) -> list[str]:
    """``argv`` with shorthands expanded, and ``--flag -1e-3`` joined as ``--flag=-1e-3``.

    The parser would take such a number for a flag.
    """
    result: list[str] = []
    for word in argv:
        flag, equals, value = word.partition("=")
        follows_flag = bool(result) and result[-1].startswith("--") and "=" not in result[-1]
        if follows_flag and re.fullmatch(r"-[\d.].*", word):
            result[-1] += f"={word}"
        else:
            result.append(_SHORTHANDS.get(flag, flag) + equals + value)
    return result


def take_option(argv: Sequence[str], flag: str) -> tuple[str | None, list[str]]:
    """The last value of ``flag``, and the other arguments.

    Raises:
        UserError: if the flag has no value.
    """
    value = None
    rest = []
    words = iter(argv)
    for word in words:
        name, equals, after = word.partition("=")
        if name != flag:
            rest.append(word)
            continue
        value = after if equals else _value_after(flag, words)
    return value, rest


def take_seeds(argv: Sequence[str]) -> tuple[list[int] | None, list[str]]:
    """The seeds of ``--seeds 0 1 2`` or ``--seeds [0,1,2]``, and the other arguments.

    Raises:
        UserError: if they are not non-negative integers, or the flag is given twice.
    """
    starts = [i for i, word in enumerate(argv) if word.partition("=")[0] == "--seeds"]
    if not starts:
        return None, list(argv)
    if len(starts) > 1:
        raise UserError("--seeds is given twice")
    # The words up to the next flag
    start = starts[0]
    following = (i for i, word in enumerate(argv) if i > start and word.startswith("--"))
    stop = next(following, len(argv))
    text = " ".join(argv[start:stop]).removeprefix("--seeds").removeprefix("=").strip()
    numbers = re.split(r"[\s,]+", text.removeprefix("[").removesuffix("]").strip())
    if not all(number.isdecimal() and len(number) <= MOST_DIGITS for number in numbers):
        raise UserError(f"--seeds needs non-negative integers, such as 0 1 2; got {text!r:.100}")
    return [int(number) for number in numbers], [*argv[:start], *argv[stop:]]


def _value_after(flag: str, words: Iterator[str]) -> str:
    """The word that follows a flag.

    Raises:
        UserError: if it is another flag, or missing.
    """
    value = next(words, "--")  # at the end: refused like another flag
    if value.startswith("--"):
        raise UserError(f"{flag} needs a value")
    return value


def take_arguments(env: Mapping[str, Any], argv: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Split off the arguments and tasks of an environment that is not a task family.

    The parser does not see them, since it would read strings as YAML a second time.

    Args:
        env: settings of the environment from a file.
        argv: flags, which override ``env``.

    Returns:
        ``kwargs``, ``kwarg_ranges`` and ``task_list`` by name, and the other flags.

    Raises:
        UserError: if a flag has no value, its value is not YAML, ``kwargs`` or ``kwarg_ranges`` is
            not a mapping, or a flag sets dynamics.
    """
    settings = {
        name: checked_mapping(env.get(name, {}), f"env.{name}")
        for name in ("kwargs", "kwarg_ranges")
    }
    task_list = env.get("task_list", ())
    rest: list[str] = []
    words = iter(argv)
    for word in words:
        # Other settings are for the parser
        flag, equals, text = word.partition("=")
        name = flag.removeprefix("--env.")
        if name == flag or name in ENV_SETTINGS - {*settings, "task_list"}:
            rest.append(word)
            continue
        # An argument, a range or the list of tasks
        value = read_value(text if equals else _value_after(flag, words), flag)
        group, dot, item = name.partition(".")
        if name == "task_list":
            task_list = value
        elif name in settings:
            settings[name] |= checked_mapping(value, flag)
        elif f"env.{group}" == _DYNAMICS and dot:
            raise UserError(
                f"{flag}: this environment is not a task family. To draw an argument of its "
                f"constructor for each task, set --env.kwarg_ranges.{item} [LOW,HIGH]"
            )
        elif dot and group in settings:
            settings[group][item] = value
        else:
            settings["kwargs"][name] = value
    return {**settings, "task_list": task_list}, rest


def check_flags(argv: Sequence[str], known: Sequence[str], learner_name: str) -> None:
    """Refuse unknown flags and integers that are too long.

    Args:
        argv: flags.
        known: dotted names of settings.
        learner_name: name of the learner.

    Raises:
        UserError: at the first such flag; the message names the closest match of an unknown one.
    """
    if argv and not argv[0].startswith("-"):
        raise UserError(f"unexpected argument {argv[0]!r}: name the environment by --env {argv[0]}")
    flags = {f"--{key}" for key in known} | _OTHER_FLAGS
    for word, following in itertools.zip_longest(argv, argv[1:], fillvalue=""):
        # Long integers
        flag, equals, value = word.partition("=")
        value = value if equals else following
        if re.fullmatch(rf"[-+]?\d{{{MOST_DIGITS + 1},}}", value):
            raise UserError(f"{flag} must have at most {MOST_DIGITS} digits, got {value:.30}...")
        # Unknown flags; dynamics are checked by the family
        if flag.startswith(f"--{_DYNAMICS}."):
            if _DYNAMICS not in known:
                raise UserError(f"{flag}: this environment has no dynamics to set")
        elif flag.startswith("--") and flag not in flags:
            hint = hint_of_group(flag.removeprefix("--"), learner_name)
            hint = hint or _of_other_name(flag) or did_you_mean(flag, sorted(flags))
            raise UserError(f"unknown flag {flag}.{hint or ' See --help for all settings.'}")


def _of_other_name(flag: str) -> str:
    """A hint that names the outer steps or learners with this setting; empty if there are none."""
    group, _, setting = flag.partition(".")
    configs = _NAMED_CONFIGS.get(group, {})
    names = [
        name for name, cls in configs.items() if setting in {field.name for field in fields(cls)}
    ]
    return f" It is a setting of {group} {' and '.join(names)}." if names else ""
