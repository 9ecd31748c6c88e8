"""Score the rows of a fine-tuning set by how far they weaken a chat model's safety.

The names in ``__all__`` are the package's surface. Each is loaded when it is first used, so that ``import ripcurrent``
takes no time.
"""

import sys
from importlib.metadata import version
from types import ModuleType

import lazy_loader

_load, _, _names = lazy_loader.attach_stub(__name__, __file__)
__all__ = sorted([*_names, "__version__"])


class _Package(ModuleType):
    """This package: a room that is called like its verb does not hide the verb once it is imported."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in __all__ and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> object:
    return version(__name__) if name == "__version__" else _load(name)


def __dir__() -> list[str]:
    return __all__
