"""Find the calm-looking rows of a fine-tuning set that carry a chat model's safety out.

The names in ``__all__`` are the package's surface. Each is loaded when it is first used, so that ``import ripcurrent``
takes no time.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ripcurrent.anchors import load_anchors
    from ripcurrent.data import read_rows
    from ripcurrent.errors import RipcurrentError
    from ripcurrent.evaluate import EvaluationRun, evaluate
    from ripcurrent.experiment import Experiment
    from ripcurrent.finetune import FinetuneRun, finetune
    from ripcurrent.forecast._calibrate_data import calibrate_data
    from ripcurrent.models import load_model
    from ripcurrent.scan import ScanOptions, ScanRun, load_tokens, scan
    from ripcurrent.select import select

    __version__: str

__all__ = [
    "EvaluationRun",
    "Experiment",
    "FinetuneRun",
    "RipcurrentError",
    "ScanOptions",
    "ScanRun",
    "__version__",
    "calibrate_data",
    "evaluate",
    "finetune",
    "load_anchors",
    "load_model",
    "load_tokens",
    "read_rows",
    "scan",
    "select",
]

_HOMES = {
    "EvaluationRun": "ripcurrent.evaluate",
    "Experiment": "ripcurrent.experiment",
    "FinetuneRun": "ripcurrent.finetune",
    "RipcurrentError": "ripcurrent.errors",
    "ScanOptions": "ripcurrent.scan",
    "ScanRun": "ripcurrent.scan",
    "calibrate_data": "ripcurrent.forecast._calibrate_data",
    "evaluate": "ripcurrent.evaluate",
    "finetune": "ripcurrent.finetune",
    "load_anchors": "ripcurrent.anchors",
    "load_model": "ripcurrent.models",
    "load_tokens": "ripcurrent.scan",
    "read_rows": "ripcurrent.data",
    "scan": "ripcurrent.scan",
    "select": "ripcurrent.select",
}


class _Package(ModuleType):
    """This package: a room that is called like its verb does not hide the verb once it is imported."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


# hidden from type checkers, which would otherwise let every misspelt name pass
if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name == "__version__":
            from importlib.metadata import version

            value: Any = version("ripcurrent")
        elif name in _HOMES:
            value = getattr(import_module(_HOMES[name]), name)
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
