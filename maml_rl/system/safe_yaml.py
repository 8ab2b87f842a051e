"""Read untrusted YAML: plain values only, limited in number, length and depth."""

from __future__ import annotations

import collections
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from maml_rl.errors import UserError, one_line
from maml_rl.system.untrusted_files import LONGEST_TEXT, read_text

_MAX_NODES = 200_000
"""Limit on the number of values, with aliases expanded."""
_MAX_SCALAR_LENGTH = 10_000
"""In characters; a number of a million digits takes minutes to parse."""
_MAX_DEPTH = 50
_TAG = "tag:yaml.org,2002:"
_MERGE = f"{_TAG}merge"
_PLAIN = {"null", "bool", "int", "float", "str", "seq", "map", "merge"}

_NUMBERS = {
    "int": r"^[-+]?(?:0b[01_]+|0[0-7_]+|0|[1-9][0-9_]*|0x[0-9a-fA-F_]+)$",
    "float": r"^[-+]?(?:(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?"
    r"|[0-9]+[eE][-+]?[0-9]+|\.(?:inf|Inf|INF))$|^\.(?:nan|NaN|NAN)$",
}
"""How numbers are written. Unlike YAML 1.1, 1e-3 is a number and 12:30 is not."""


class _Loader(yaml.SafeLoader):
    """Loader that reads scalars as YAML 1.2: 1e-3 is a number; on, off, yes, no, 12:30 are text."""


# Replace PyYAML's rules for booleans and numbers, which are YAML 1.1
_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern)
        for tag, pattern in resolvers
        if tag.removeprefix(_TAG) not in ("bool", *_NUMBERS)
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    f"{_TAG}bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
for _kind, _pattern in _NUMBERS.items():
    _Loader.add_implicit_resolver(f"{_TAG}{_kind}", re.compile(_pattern), list("-+.0123456789"))


class _Dumper(yaml.SafeDumper):
    """Dumper that quotes text which YAML 1.1 or 1.2 would read as another type."""


_Dumper.add_implicit_resolver(f"{_TAG}float", re.compile(_NUMBERS["float"]), list("-+.0123456789"))


class _Size(NamedTuple):
    num_nodes: int
    height: int


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that contains a mapping. Tags that create Python objects are refused.

    Raises:
        UserError: if it cannot be read or parsed, is too large, or does not contain a mapping.
    """
    values = _read_file(path)
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(
            f"{path} must hold a mapping from settings to values, got {type(values).__name__}"
        )
    return values


def read_yaml_list(path: Path) -> list[Any]:
    """Read a YAML file that contains a list, as :func:`read_yaml` reads a mapping.

    Raises:
        UserError: if it cannot be read or parsed, is too large, or does not contain a list.
    """
    values = _read_file(path)
    if not isinstance(values, list):
        raise UserError(f"{path} must hold a list, got {type(values).__name__}")
    return values


def _read_file(path: Path) -> Any:
    try:
        return _load_yaml(read_text(path))
    except (OSError, ValueError, TypeError, RecursionError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read as YAML: {one_line(str(error))}") from error


def read_value(text: str, what: str) -> Any:
    """Parse the value of a flag as in a YAML file: ``2``, ``[1, 2]``, ``{a: off}``, ``"2"``.

    Args:
        text: the value.
        what: the flag, for the message.

    Raises:
        UserError: if it is not YAML, or not a plain value.
    """
    try:
        return _load_yaml(text)
    except (ValueError, TypeError, RecursionError, yaml.YAMLError) as error:
        raise UserError(
            f"{what} {text!r:.100} cannot be read as YAML ({one_line(str(error))}): quote text, as "
            "'\"...\"'"
        ) from error


def to_yaml(values: Any) -> str:
    """Format plain values as YAML that :func:`read_yaml` reads back unchanged."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False)


def plain_values(value: Any) -> Any:
    """Convert NumPy numbers and arrays, tuples and ranges to plain numbers and lists.

    Other values are returned unchanged, including those that a file cannot hold; see
    :func:`check_plain`.
    """
    if isinstance(value, Mapping):
        return {key: plain_values(item) for key, item in value.items()}
    if isinstance(value, (np.ndarray, np.generic)):
        plain = value.tolist()
        is_long_double = isinstance(plain, np.generic)  # not converted by tolist
        return value if value.dtype == object or is_long_double else plain_values(plain)
    if isinstance(value, (list, tuple, range)):
        return [plain_values(item) for item in value]
    return value


def check_plain(value: Any, what: str) -> None:
    """Refuse a value that a YAML file cannot hold.

    Args:
        value: may contain lists and mappings of text, numbers, true, false and null.
        what: its setting, for the message.

    Raises:
        UserError: if a part of it has another type, or it is too large or too deep. The message
            names the part.
    """
    check_types(value, what)
    try:
        text = to_yaml(value)
        if len(text) > LONGEST_TEXT // 2:  # a configuration has other settings too
            raise ValueError(f"it is longer than {LONGEST_TEXT // 2} characters")
        read = _load_yaml(text)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise UserError(f"{what} cannot be written to a file: {one_line(str(error))}") from error
    if repr(read) != repr(value):  # unlike ==, repr equates NaNs and tells 1 from True
        raise UserError(
            f"{what} cannot be written to a file: {value!r:.100} would be read back as "
            f"{read!r:.100}"
        )


def check_types(value: Any, what: str, depth: int = 0) -> None:
    """Check types and depth only; see :func:`check_plain`.

    Args:
        value: the value.
        what: its setting, for the message.
        depth: number of lists and mappings around ``value``.
    """
    if depth > _MAX_DEPTH:
        raise UserError(
            f"{what:.100}... is nested more than {_MAX_DEPTH} deep: a file cannot hold it"
        )
    if type(value) is dict:
        for key, item in value.items():
            if type(key) is not str:
                raise UserError(
                    f"{what} has the key {key!r:.100}, a {_type_name(key)}: in a file keys are text"
                )
            check_types(item, f"{what}.{key}", depth + 1)
    elif type(value) is list:
        for i, item in enumerate(value):
            check_types(item, f"{what}[{i}]", depth + 1)
    elif value is not None and type(value) not in (bool, int, float, str):
        raise UserError(
            f"{what} is {value!r:.100}, a {_type_name(value)}, which a file cannot hold: expected "
            "text, a number, true, false, null, or a list or mapping of them"
        )


def _type_name(value: Any) -> str:
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def _load_yaml(text: str) -> Any:
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _check_size(node, {}, 0)
        return loader.construct_document(node)
    except (AttributeError, KeyError, IndexError, OverflowError) as error:
        # PyYAML on a scalar that does not match its tag, such as `!!int ''` or `!!bool x`
        raise ValueError(f"a value does not match its tag: {error!r}") from error
    finally:
        loader.dispose()


def _check_size(node: yaml.Node, known: dict[int, _Size | None], depth: int) -> _Size:
    """Return the size of ``node`` with aliases expanded.

    Args:
        node: the node.
        known: sizes by node id, so that a node with aliases is visited once; ``None`` marks
            the nodes around ``node``.
        depth: number of nodes around it.

    Raises:
        ValueError: if it has too many values, is too deep or too long, contains a value that is
            not plain, or has an alias that refers to a node around it.
    """
    if node.tag.removeprefix(_TAG) not in _PLAIN:
        raise ValueError(
            f"a value is a {node.tag.removeprefix(_TAG)}, expected text, a number, a list or a "
            "mapping"
        )
    if isinstance(node, yaml.ScalarNode):
        if len(node.value) > _MAX_SCALAR_LENGTH:
            raise ValueError(f"a value is longer than {_MAX_SCALAR_LENGTH} characters")
        return _Size(1, 0)
    if id(node) not in known:
        known[id(node)] = None  # an alias that meets it is inside the node
        known[id(node)] = _size_of_parts(node, known, depth)
    size = known[id(node)]
    if size is None:
        raise ValueError("an alias refers to a node that contains it")
    if depth + size.height > _MAX_DEPTH:
        raise ValueError(f"it is nested more than {_MAX_DEPTH} deep")
    return size


def _size_of_parts(node: yaml.Node, known: dict[int, _Size | None], depth: int) -> _Size:
    """Return the size of a list or mapping; arguments as for :func:`_check_size`."""
    if depth > _MAX_DEPTH:
        raise ValueError(f"it is nested more than {_MAX_DEPTH} deep")
    parts = node.value
    if isinstance(node, yaml.MappingNode):
        for key, _ in node.value:
            if key.tag.removeprefix(_TAG) not in ("str", "merge"):
                raise ValueError(f"a mapping has a key that is not text: {key.value!r:.100}")
        numbers = collections.Counter(key.value for key, _ in node.value if key.tag != _MERGE)
        twice = [key for key, number in numbers.items() if number > 1]
        if twice:
            raise ValueError(f"a mapping has the key {twice[0]!r:.100} twice")
        parts = [value for _, value in node.value]
    num_nodes = 1
    height = 0
    for part in parts:
        size = _check_size(part, known, depth + 1)
        num_nodes += size.num_nodes
        height = max(height, size.height + 1)
        if num_nodes > _MAX_NODES:
            raise ValueError(f"it holds more than {_MAX_NODES} values")
    return _Size(num_nodes, height)
