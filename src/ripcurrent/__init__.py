"""Find the calm-looking rows of a fine-tuning set that carry a chat model's safety out.

The names in ``__all__`` are the package's surface. Each is loaded when it is first used, so that ``import ripcurrent``
takes no time.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ripcurrent.anchors import load_anchors
    from ripcurrent.api._anchor_stability import anchor_stability
    from ripcurrent.api._calibrate_data import calibrate_data
    from ripcurrent.api._evaluate import EvaluationResult, evaluate, load_evaluation
    from ripcurrent.api._experiment import Experiment
    from ripcurrent.api._finetune import FinetuneResult, finetune
    from ripcurrent.api._options import ScanOptions
    from ripcurrent.api._scan import ScanResult, scan
    from ripcurrent.api._select import select
    from ripcurrent.data import read_rows
    from ripcurrent.errors import RipcurrentError
    from ripcurrent.models import load_model
    from ripcurrent.scoring import load_tokens

    __version__: str

__all__ = [
    "EvaluationResult",
    "Experiment",
    "FinetuneResult",
    "RipcurrentError",
    "ScanOptions",
    "ScanResult",
    "__version__",
    "anchor_stability",
    "calibrate_data",
    "evaluate",
    "finetune",
    "load_anchors",
    "load_evaluation",
    "load_model",
    "load_tokens",
    "read_rows",
    "scan",
    "select",
]

_HOMES = {
    "EvaluationResult": "ripcurrent.api._evaluate",
    "Experiment": "ripcurrent.api._experiment",
    "FinetuneResult": "ripcurrent.api._finetune",
    "RipcurrentError": "ripcurrent.errors",
    "ScanOptions": "ripcurrent.api._options",
    "ScanResult": "ripcurrent.api._scan",
    "anchor_stability": "ripcurrent.api._anchor_stability",
    "calibrate_data": "ripcurrent.api._calibrate_data",
    "evaluate": "ripcurrent.api._evaluate",
    "finetune": "ripcurrent.api._finetune",
    "load_anchors": "ripcurrent.anchors",
    "load_evaluation": "ripcurrent.api._evaluate",
    "load_model": "ripcurrent.models",
    "load_tokens": "ripcurrent.scoring._tokens",
    "read_rows": "ripcurrent.data",
    "scan": "ripcurrent.api._scan",
    "select": "ripcurrent.api._select",
}


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
