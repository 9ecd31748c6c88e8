"""Score the rows of a fine-tuning set by how far they weaken a chat model's safety.

The names in ``__all__`` are the package's surface. Each is loaded when it is first used, so that ``import ripcurrent``
takes no time.
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from types import ModuleType
from typing import TYPE_CHECKING

from ripcurrent.lazy import lazily

if TYPE_CHECKING:
    from ripcurrent.anchors import load_anchors
    from ripcurrent.data import read_rows
    from ripcurrent.errors import RipcurrentError
    from ripcurrent.evaluate import EvaluationRun, evaluate, validate_judges
    from ripcurrent.experiment import Experiment, ExperimentResults
    from ripcurrent.finetune import FinetuneRun, finetune
    from ripcurrent.forecast import calibrate, forecast
    from ripcurrent.models import load_model
    from ripcurrent.report import build_report
    from ripcurrent.scan import ScanOptions, ScanRun, doctor, load_tokens, scan
    from ripcurrent.select import select

    __version__: str

__all__ = [
    "EvaluationRun",
    "Experiment",
    "ExperimentResults",
    "FinetuneRun",
    "RipcurrentError",
    "ScanOptions",
    "ScanRun",
    "__version__",
    "build_report",
    "calibrate",
    "doctor",
    "evaluate",
    "finetune",
    "forecast",
    "load_anchors",
    "load_model",
    "load_tokens",
    "read_rows",
    "scan",
    "select",
    "validate_judges",
]

_NAMES = {
    "anchors": ("load_anchors",),
    "data": ("read_rows",),
    "errors": ("RipcurrentError",),
    "evaluate": ("EvaluationRun", "evaluate", "validate_judges"),
    "experiment": ("Experiment", "ExperimentResults"),
    "finetune": ("FinetuneRun", "finetune"),
    "forecast": ("calibrate", "forecast"),
    "models": ("load_model",),
    "report": ("build_report",),
    "scan": ("ScanOptions", "ScanRun", "doctor", "load_tokens", "scan"),
    "select": ("select",),
}


class _Package(ModuleType):
    """This package: a room that is called like its verb does not hide the verb once it is imported."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in __all__ and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


# hidden from type checkers, which would otherwise let every misspelt name pass
if not TYPE_CHECKING:
    _load = lazily(__name__, _NAMES)

    def __getattr__(name: str) -> object:
        return version(__name__) if name == "__version__" else _load(name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
