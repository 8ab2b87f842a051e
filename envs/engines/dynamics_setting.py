"""The setting ``dynamics``: a distribution for each parameter that varies between tasks."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from maml_envs.distributions import Distribution
from maml_envs.engines.dynamics import DynamicsSetting, Parameter


def parse_dynamics(
    setting: DynamicsSetting, known: Mapping[str, Parameter]
) -> dict[str, Distribution]:
    """The distribution of each parameter that ``setting`` names.

    | value | distribution |
    | --- | --- |
    | a number | fixed |
    | a list of two numbers | uniform between them |
    | a list, integer parameter | uniform over its entries |
    | ``{low: ..., high: ...}`` | uniform; for an integer parameter over low, low + 1, ..., high |
    | with ``log: true`` | log-uniform |
    | with ``each: true`` | a separate factor for every element |
    | ``None`` | none: nominal value |

    Args:
        setting: by parameter name.
        known: the parameters of the robot.

    Returns:
        In the order of ``known``, so that draws do not depend on the order of ``setting``.

    Raises:
        ValueError: if a parameter is unknown (the message names the closest match) or a
            distribution is invalid.
    """
    if not isinstance(setting, Mapping):
        raise ValueError(
            f"dynamics must be a mapping such as {{'body_mass': [0.5, 2.0]}}, got {setting!r}"
        )
    for name in setting:
        if name not in known:
            raise ValueError(f"unknown dynamics {name!r}.{_hint(str(name), known)}")
    distributions: dict[str, Distribution] = {}
    # single elements last: they override ``each``; names of changed values have one more slash
    for name in sorted(setting, key=lambda name: name.count("/")):
        distributions.pop(name, None)
        if setting[name] is not None:
            distributions |= _parse_entry(name, setting[name], known)
    return {name: distributions[name] for name in known if name in distributions}


class _Entry(NamedTuple):
    """One value of a setting, independent of how it is written."""

    numbers: list[Any]
    """A fixed value, both ends of a range, or choices."""
    has_ends: bool = False
    """Whether it is written with ``low`` and ``high``."""
    is_log: bool = False
    each: bool = False


def _parse_entry(name: str, value: Any, known: Mapping[str, Parameter]) -> dict[str, Distribution]:
    """The distribution of each parameter that one entry of a setting applies to."""
    entry = _read_entry(name, value)
    parameter = known[name]
    if not all(parameter.accepts(number) for number in entry.numbers):
        raise ValueError(
            f"every value of dynamics {name!r} must be {parameter} (a range is a list of two), "
            f"got {value!r}"
        )
    entry = entry._replace(numbers=[float(number) for number in entry.numbers])
    error = _error_in_integers(entry) if parameter.is_integer else _error_in_range(entry)
    if error is not None:
        raise ValueError(f"dynamics {name!r} {error}, got {value!r}")
    names = [key for key in known if key.startswith(f"{name}/")] if entry.each else [name]
    if not names:
        raise ValueError(
            f"dynamics {name!r} does not support each: it has no elements, got {value!r}"
        )
    return dict.fromkeys(names, _distribution(entry, parameter.is_integer))


def _read_entry(name: str, value: Any) -> _Entry:
    """Read ``value``; its numbers are not checked."""
    if isinstance(value, Mapping):
        if not {"low", "high"} <= value.keys() <= {"low", "high", "log", "each"}:
            raise ValueError(
                f"dynamics {name!r} must have low, high (numbers), and optionally log and each, "
                f"got {value!r}"
            )
        is_log = value.get("log", False)
        each = value.get("each", False)
        if not isinstance(is_log, bool) or not isinstance(each, bool):
            raise ValueError(
                f"log and each of dynamics {name!r} must be true or false, got {value!r}"
            )
        return _Entry([value["low"], value["high"]], has_ends=True, is_log=is_log, each=each)
    is_list = isinstance(value, Sequence) and not isinstance(value, str) and len(value) > 0
    return _Entry(list(value) if is_list else [value])


def _error_in_range(entry: _Entry) -> str | None:
    """Error message for an invalid number or range, ``None`` if it is valid."""
    if len(entry.numbers) > 2 or entry.numbers[0] > entry.numbers[-1]:
        return "must be a number or a range with low <= high"
    if entry.is_log and entry.numbers[0] <= 0:
        return "must have low > 0 if log"
    return None


def _error_in_integers(entry: _Entry) -> str | None:
    """Error message for invalid choices or an invalid range of integers, else ``None``."""
    if entry.has_ends and entry.numbers[0] > entry.numbers[1]:
        return "must be a list of choices or a range with low <= high"
    if entry.is_log:
        return "takes choices and does not support log"
    return None


def _distribution(entry: _Entry, is_integer: bool) -> Distribution:
    """The distribution of a valid entry."""
    if not is_integer:
        return Distribution(low=entry.numbers[0], high=entry.numbers[-1], is_log=entry.is_log)
    choices = entry.numbers
    if entry.has_ends:
        low, high = choices
        choices = [float(number) for number in range(int(low), int(high) + 1)]
    return Distribution(choices=tuple(choices))


def name_hint(name: str, known: Mapping[str, Parameter]) -> str:
    """Suggest the closest name to an unknown one, and list those that may follow its slash."""
    close = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    # an unknown element: list the elements of its quantity; an unknown change: what can change
    quantity, slash, _ = name.rpartition("/")
    parts = [key for key in known if slash and key.rpartition("/")[0] == quantity]
    return f"{hint} Valid are {', '.join(parts)}." if parts else hint


def _hint(name: str, known: Mapping[str, Parameter]) -> str:
    """Suggest the closest name and list the valid ones."""
    hint = name_hint(name, known)
    if "Valid" in hint:
        return hint
    valid = [key for key in known if "/" not in key]
    return f"{hint} Valid are {', '.join(valid)}." if valid else " This robot has none."
