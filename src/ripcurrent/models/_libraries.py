"""What the libraries say: their errors in one line, and nothing else on the user's terminal."""

import contextlib
import io
import warnings
from collections.abc import Iterator

from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from transformers.utils import logging as transformers_logging


def first_line(error: BaseException) -> str:
    """The first line that says something, without a full stop, at most 300 characters; else the error's kind."""
    lines = [line.strip().removesuffix(".") for line in str(error).splitlines() if line.strip()]
    # PyTorch's own first line only says that loading failed; the reasons follow it.
    said = lines[1:] if len(lines) > 1 and lines[0].startswith("Error(s) in loading") else lines
    return said[0][:300] if said else type(error).__name__


@contextlib.contextmanager
def quiet_libraries(*, hide_stderr: bool = False) -> Iterator[None]:
    """Silence transformers, huggingface_hub and Python warnings inside the block; ``hide_stderr`` drops that too."""
    verbosity = transformers_logging.get_verbosity()
    had_bars, had_hub_bars = transformers_logging.is_progress_bar_enabled(), not are_progress_bars_disabled()
    transformers_logging.set_verbosity(transformers_logging.CRITICAL)
    transformers_logging.disable_progress_bar()
    disable_progress_bars()
    try:
        with warnings.catch_warnings(), contextlib.ExitStack() as stack:
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
