"""Ranges of settings, and the check that every settings dataclass runs at construction."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from typing import Any, Literal, NamedTuple, Protocol, get_args, get_origin, get_type_hints

import numpy as np

from maml_rl.errors import UserError

LARGEST = 1e6
"""Upper end of step sizes, scales and weights: larger values are mistakes."""
MOST_DIGITS = 20
"""Integers with more digits are refused: no setting is that large."""


class Range(Protocol):
    """The values that a setting accepts; ``str`` describes them."""

    def accepts(self, value: Any) -> bool:
        """Whether ``value`` is in the range."""


class Integer(NamedTuple):
    """Integers, both ends included; ``most=None`` has no upper end."""

    least: int
    most: int | None

    def __str__(self) -> str:
        if self.most is None:
            return f"an integer of at least {self.least}"
        return f"an integer from {self.least} to {self.most}"

    def accepts(self, value: Any) -> bool:
        """Whether ``value`` is in the range."""
        is_integer = isinstance(value, int) and not isinstance(value, bool)
        return is_integer and self.least <= value and (self.most is None or value <= self.most)


class Real(NamedTuple):
    """Finite numbers, both ends included."""

    least: float
    most: float = LARGEST

    def __str__(self) -> str:
        return f"a finite number from {self.least:g} to {self.most:g}"

    def accepts(self, value: Any) -> bool:
        """Whether ``value`` is in the range."""
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return is_number and self.least <= value <= self.most


class Positive(NamedTuple):
    """Finite numbers above 0, the upper end included."""

    most: float = LARGEST

    def __str__(self) -> str:
        return f"a finite number above 0 and at most {self.most:g}"

    def accepts(self, value: Any) -> bool:
        """Whether ``value`` is in the range."""
        return Real(math.nextafter(0, 1), self.most).accepts(value)


class Each(NamedTuple):
    """Lists of at most ``most`` items, each in ``range``."""

    range: Range
    most: int

    def __str__(self) -> str:
        return f"a list of at most {self.most} items, each {self.range}"

    def accepts(self, value: Any) -> bool:
        """Whether ``value`` is a list whose items are in the range."""
        is_list = isinstance(value, (tuple, list)) and len(value) <= self.most
        return is_list and all(self.range.accepts(item) for item in value)


class ObjectName(NamedTuple):
    """Names of objects in modules, such as ``my_package.callbacks:Tracker``."""

    def __str__(self) -> str:
        return "a name such as module:Name"

    def accepts(self, value: Any) -> bool:
        """Whether ``value`` has the form of such a name."""
        return isinstance(value, str) and re.fullmatch(r"[\w.]+:\w+", value) is not None


class OrNone(NamedTuple):
    """A range, or null (``None``)."""

    range: Range

    def __str__(self) -> str:
        return f"{self.range} or null"

    def accepts(self, value: Any) -> bool:
        """Whether ``value`` is null or in the range."""
        return value is None or self.range.accepts(value)


class _Choices(NamedTuple):
    choices: tuple[Any, ...]

    def __str__(self) -> str:
        return f"one of {', '.join(str(choice) for choice in self.choices)}"

    def accepts(self, value: Any) -> bool:
        return any(type(value) is type(choice) and value == choice for choice in self.choices)


class _Text(NamedTuple):
    def __str__(self) -> str:
        return "a non-empty string without NUL"

    def accepts(self, value: Any) -> bool:
        return isinstance(value, str) and value != "" and "\0" not in value


def check_integers(least: int, **arguments: Any) -> None:
    """Check integer arguments of a function, which are passed here by name.

    Raises:
        UserError: if one of them is not an integer of at least ``least``.
    """
    expected = Integer(least, None)
    for name, value in arguments.items():
        if not expected.accepts(int(value) if isinstance(value, np.integer) else value):
            raise UserError(f"{name} must be {expected}, got {value!r:.100}")


def check_ranges(config: Any, group: str) -> None:
    """Check the fields in the class's ``RANGES``, and Boolean, Literal and string fields by type.

    Args:
        config: a dataclass; its ``RANGES``, if any, are ranges by field name.
        group: prefix of a setting's name in messages, such as ``inner.``.

    Raises:
        ValueError: if a value is out of range; the message names setting, range and value.
    """
    cls: Any = type(config)
    for name, expected in {**_by_type(cls), **getattr(cls, "RANGES", {})}.items():
        value = getattr(config, name)
        if not expected.accepts(value):
            raise ValueError(f"{group}{name} must be {expected}, got {value!r:.200}")


@functools.cache
def _by_type(cls: Any) -> dict[str, Range]:
    """Ranges of a dataclass's Boolean, Literal and string fields, from their types."""
    hints = get_type_hints(cls)
    ranges: dict[str, Range] = {}
    for field in dataclasses.fields(cls):
        kind = hints[field.name]
        if kind is bool:
            ranges[field.name] = _Choices((True, False))
        elif get_origin(kind) is Literal:
            ranges[field.name] = _Choices(get_args(kind))
        elif kind is str:
            ranges[field.name] = _Text()
        elif kind == str | None:
            ranges[field.name] = OrNone(_Text())
        elif kind == bool | None:
            ranges[field.name] = OrNone(_Choices((True, False)))
    return ranges
