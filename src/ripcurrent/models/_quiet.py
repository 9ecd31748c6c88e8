"""Keep the libraries' progress bars, notices and load reports off the user's terminal."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator

from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from transformers.utils import logging as transformers_logging


@contextlib.contextmanager
def quiet_libraries(*, hide_stderr: bool = False) -> Iterator[None]:
    """Silence transformers, huggingface_hub and Python warnings inside the block, and restore them after it.

    ``hide_stderr`` also drops what is written to ``sys.stderr``: transformers' GGUF reader draws a bar of its own that
    no setting turns off. Errors still raise.
    """
    verbosity = transformers_logging.get_verbosity()
    had_bars = transformers_logging.is_progress_bar_enabled()
    had_hub_bars = not are_progress_bars_disabled()
    transformers_logging.set_verbosity(transformers_logging.CRITICAL)
    transformers_logging.disable_progress_bar()
    disable_progress_bars()
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
            if hide_stderr:
                stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if had_bars:
            transformers_logging.enable_progress_bar()
        if had_hub_bars:
            enable_progress_bars()
