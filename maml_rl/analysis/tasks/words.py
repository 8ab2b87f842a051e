"""Tasks in words: names, units and named values of their parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from maml_rl.settings.families import FACTOR

ValueNames = Mapping[str, Mapping[str, str]]
"""For each task parameter, the names of some of its values, by :func:`value_key`."""


def value_key(value: float) -> str:
    """Return a number as a key of ``ValueNames``, which JSON can hold: ``"-1"``."""
    return f"{value:g}"


def value_names_of(env: Any) -> dict[str, dict[str, str]]:
    """Return the value names that an environment has; empty if it has none."""
    names: Mapping[str, Mapping[float, str]] = getattr(env, "task_value_names", {})
    return {
        parameter: {value_key(value): name for value, name in of_parameter.items()}
        for parameter, of_parameter in names.items()
    }


def with_unit(name: str, units: Mapping[str, str]) -> str:
    """``"goal velocity (m/s)"``."""
    unit = units.get(name)
    return name.replace("_", " ") + (f" ({unit})" if unit else "")


def value_text(name: str, value: float, names: ValueNames) -> str:
    """Return the name of a value of the parameter ``name``, else the number: ``"0.5"``."""
    is_count = float(value).is_integer() and abs(value) < 1e9
    text = f"{value:.0f}" if is_count else f"{value:.4g}"
    return names.get(name, {}).get(value_key(value), text)


def number_text(value: float) -> str:
    """Return a number with two digits after the point, or three significant ones."""
    return f"{value:.2f}" if value == 0 or 0.01 <= abs(value) < 1000 else f"{value:.3g}"


def task_in_words(env: Any, task: Mapping[str, Any]) -> list[str]:
    """Return the values of a task, such as ``["goal velocity 1.50 m/s"]`` or ``["forward"]``.

    A factor is written as one: ``"3 × body mass"``.

    Args:
        env: has the units and names of values, if any.
        task: values by name.
    """
    units: Mapping[str, str] = getattr(env, "task_units", {})
    names = value_names_of(env)
    parts = []
    for name, value in task.items():
        unit = units.get(name, "")
        text = str(value)
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if is_number and value_key(value) in names.get(name, {}):
            parts.append(names[name][value_key(value)])
            continue
        if unit == FACTOR and is_number:
            parts.append(f"{value:.3g} × {name.replace('_', ' ')}")
            continue
        if isinstance(value, float):
            is_count = value.is_integer() and not unit
            text = f"{value:.0f}" if is_count else number_text(value)
        parts.append(f"{name.replace('_', ' ')} {text} {unit}".strip())
    return parts
