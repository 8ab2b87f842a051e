"""Docstrings as the documentation site shows them."""

from __future__ import annotations

import re
from typing import Any

import griffe

_ROLE = re.compile(r":(?:attr|class|data|func|meth|mod):`(~?)([\w.]+)`")


class RolesAsCode(griffe.Extension):
    """Show the cross-references of docstrings, such as :func:`maml_rl.load`, as code."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Replace the roles in a docstring by names; ``~`` shortens them to their last part."""
        if obj.docstring is not None:
            obj.docstring.value = _ROLE.sub(_name, obj.docstring.value)


def _name(role: re.Match[str]) -> str:
    is_short, name = role.groups()
    return f"`{name.rpartition('.')[2] if is_short else name}`"
