"""Every setting has a range: what a dataclass of settings checks when one is made."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import numpy as np

from maml_rl.errors import UserError

LARGEST = 1e6
"""The upper end of step sizes, scales, weights and the like: more than any could mean."""


class Whole(NamedTuple):
    """A range of whole numbers, both ends included."""

    least: int
    most: int

    def __str__(self) -> str:
        return f"a whole number, at least {self.least} and at most {self.most}"

    def accepts(self, value: Any) -> bool:
        """Whether ``value`` is one of them."""
        return (
            isinstance(value, int)
            and not isinstance(value, bool)
            and self.least <= value <= self.most
        )


class Real(NamedTuple):
    """A range of finite numbers, both ends included."""

    least: float
    most: float = LARGEST

    def __str__(self) -> str:
        return f"a finite number in [{self.least:g}, {self.most:g}]"

    def accepts(self, value: Any) -> bool:
        """Whether ``value`` is one of them."""
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return is_number and self.least <= value <= self.most


class Positive(NamedTuple):
    """Finite numbers above 0, the upper end included."""

    most: float = LARGEST

    def __str__(self) -> str:
        return f"finite and above 0, at most {self.most:g}"

    def accepts(self, value: Any) -> bool:
        """Whether ``value`` is one of them."""
        return Real(math.nextafter(0, 1), self.most).accepts(value)


class Each(NamedTuple):
    """A tuple of up to ``most`` numbers, each in ``range``."""

    range: Whole | Real | Positive
    most: int

    def __str__(self) -> str:
        return f"a list of at most {self.most}, each {self.range}"

    def accepts(self, value: Any) -> bool:
        """Whether ``value`` is one."""
        is_list = isinstance(value, (tuple, list)) and len(value) <= self.most
        return is_list and all(self.range.accepts(item) for item in value)


class OrNone(NamedTuple):
    """A range, or nothing."""

    range: Whole | Real | Positive

    def __str__(self) -> str:
        return f"{self.range}, or none"

    def accepts(self, value: Any) -> bool:
        """Whether ``value`` is one of them."""
        return value is None or self.range.accepts(value)


Range = Whole | Real | Positive | Each | OrNone
"""What a number, or each of several, may be."""


class _Choices(NamedTuple):
    choices: tuple[Any, ...]

    def __str__(self) -> str:
        return f"one of {list(self.choices)}"

    def accepts(self, value: Any) -> bool:
        return any(type(value) is type(choice) and value == choice for choice in self.choices)


class _Text(NamedTuple):
    is_optional: bool

    def __str__(self) -> str:
        return "a text that is not empty and has no NUL" + (" or none" if self.is_optional else "")

    def accepts(self, value: Any) -> bool:
        return (value is None and self.is_optional) or (
            isinstance(value, str) and value != "" and "\0" not in value
        )


def check_whole_numbers(least: int, **given: Any) -> None:
    """Check arguments of a function, by their names.

    Raises:
        UserError: one is no whole number of at least ``least``.
    """
    for name, value in given.items():
        is_whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
        if not (is_whole and value >= least):
            raise UserError(
                f"{name} must be a whole number of at least {least}, got {value!r:.100}"
            )


def check_ranges(config: Any, group: str) -> None:
    """Check settings: numbers by the class's ``RANGES``, switches, choices and texts by their types.

    Args:
        config: a dataclass; ``RANGES`` maps the names of its numbers to their ranges.
        group: what stands before a setting's name, as ``inner.``.

    Raises:
        ValueError: names the setting, what is expected, and its value.
    """
    kind: Any = type(config)
    for name, expected in {**_by_type(kind), **getattr(config, "RANGES", {})}.items():
        if not expected.accepts(getattr(config, name)):
            raise ValueError(
                f"{group}{name} must be {expected}, got {getattr(config, name)!r:.200}"
            )


@functools.cache
def _by_type(cls: type) -> dict[str, Any]:
    """What fields accept that are texts, switches or choices."""
    hints = get_type_hints(cls)
    found: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        kind = hints[field.name]
        if kind is bool:
            found[field.name] = _Choices((False, True))
        elif get_origin(kind) is Literal:
            found[field.name] = _Choices(get_args(kind))
        elif kind is str or kind == str | None:
            found[field.name] = _Text(kind is not str)
    return found
