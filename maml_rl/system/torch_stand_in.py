"""A stand-in for torch while help is shown: importing torch takes twice as long as all else that help needs."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


class _AnyName(type):
    """Every attribute of the class is the class."""

    def __getattr__(cls, name: str) -> Any:
        return _missing(name) if name.startswith("__") else cls


class _Anything(metaclass=_AnyName):
    """Whatever modules take from torch while they are imported: a type, a base class, a decorator."""

    def __call__(self, decorated: Any) -> Any:
        return decorated


class _StandIn(ModuleType):
    """A module in which every name means :class:`_Anything`."""

    def __getattr__(self, name: str) -> Any:
        return _missing(name) if name.startswith("__") else _Anything


def _missing(name: str) -> Any:
    raise AttributeError(name)


class _Finder(MetaPathFinder, Loader):
    """Finds a stand-in for torch and for each of its modules."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return (
            ModuleSpec(fullname, self, is_package=True)
            if fullname.partition(".")[0] == "torch"
            else None
        )

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing to execute."""


@contextlib.contextmanager
def torch_left_out() -> Iterator[None]:
    """Import nothing of torch meanwhile, unless it is there already; what is imported meanwhile cannot compute.

    Afterwards all that saw the stand-in is forgotten, and will be imported anew.
    """
    if "torch" in sys.modules:
        yield
        return
    before, finder = set(sys.modules), _Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in set(sys.modules) - before:
            if _saw_stand_in(sys.modules[name]) or name.startswith("maml_rl."):
                del sys.modules[name]


def _saw_stand_in(module: ModuleType) -> bool:
    return isinstance(module, _StandIn) or any(
        value is _Anything or isinstance(value, _StandIn) for value in vars(module).values()
    )
