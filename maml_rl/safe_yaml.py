"""YAML from anywhere: plain values only, and no more of them than a bound."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import yaml

from maml_rl.bounded_files import read_text
from maml_rl.errors import UserError

_MOST_NODES = 200_000
"""Values that a file may hold, each alias counted as what it stands for."""
_LONGEST_SCALAR = 10_000
"""Characters; a number of a million digits takes minutes to parse."""
_DEEPEST = 50
_TAG = "tag:yaml.org,2002:"
_PLAIN = {"null", "bool", "int", "float", "str", "seq", "map", "merge"}


class _Size(NamedTuple):
    num_nodes: int
    height: int


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping. Tags that would make Python objects are refused.

    Raises:
        UserError: it cannot be read or parsed, is larger than any file of settings, or holds something else.
    """
    try:
        values = _plain(read_text(path))
    except (OSError, ValueError, TypeError, RecursionError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read as YAML: {' '.join(str(error).split())}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(f"{path} must hold a mapping from settings to values, got {type(values).__name__}")
    return values


def _plain(text: str) -> Any:
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _check_size(node, {}, 0)
        return loader.construct_document(node)
    except (AttributeError, KeyError, IndexError, OverflowError) as error:
        # PyYAML on a scalar whose tag says what it is not, as `!!int ''` or `!!bool x`.
        raise ValueError(f"a value is not what its tag says: {error!r}") from error
    finally:
        loader.dispose()


def _check_size(node: yaml.Node, known: dict[int, _Size | None], depth: int) -> _Size:
    """The size of ``node`` with aliases expanded; ``known`` holds those counted, ``None`` for the open ones.

    Raises:
        ValueError: too many values, too deep or too long, no plain ones, or an alias stands for what contains it.
    """
    if node.tag.removeprefix(_TAG) not in _PLAIN:
        raise ValueError(f"a value is a {node.tag.removeprefix(_TAG)}, expected text, a number, a list or a mapping")
    if isinstance(node, yaml.ScalarNode):
        if len(node.value) > _LONGEST_SCALAR:
            raise ValueError(f"a value is longer than {_LONGEST_SCALAR} characters")
        return _Size(1, 0)
    if id(node) not in known:
        known[id(node)] = None
        known[id(node)] = _size_of_parts(node, known, depth)
    size = known[id(node)]
    if size is None:
        raise ValueError("an alias stands for what contains it")
    if depth + size.height > _DEEPEST:
        raise ValueError(f"it is nested more than {_DEEPEST} deep")
    return size


def _size_of_parts(node: yaml.Node, known: dict[int, _Size | None], depth: int) -> _Size:
    if depth > _DEEPEST:
        raise ValueError(f"it is nested more than {_DEEPEST} deep")
    parts = node.value
    if isinstance(node, yaml.MappingNode):
        for key, _ in node.value:
            if key.tag.removeprefix(_TAG) not in ("str", "merge"):
                raise ValueError(f"a mapping has a key that is no text: {key.value!r:.100}")
        parts = [value for _, value in node.value]
    num_nodes, height = 1, 0
    for part in parts:
        size = _check_size(part, known, depth + 1)
        num_nodes, height = num_nodes + size.num_nodes, max(height, size.height + 1)
        if num_nodes > _MOST_NODES:
            raise ValueError(f"it holds more than {_MOST_NODES} values")
    return _Size(num_nodes, height)
