"""Names of a room that are loaded when they are first used, so that help and options load no heavy library."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib import import_module


def lazily(room: str, homes: Mapping[str, Iterable[str]]) -> Callable[[str], object]:
    """A room's ``__getattr__``: from its private modules to the names that each exports.

    Args:
        room: The room's ``__name__``.
        homes: Module name to names.
    """
    module_of = {name: module for module, names in homes.items() for name in names}

    def get(name: str) -> object:
        if name not in module_of:
            raise AttributeError(f"module {room!r} has no attribute {name!r}")
        return getattr(import_module(f"{room}.{module_of[name]}"), name)

    return get
