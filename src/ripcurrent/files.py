"""Files that appear whole or not at all, and values as JSON holds them."""

import json
import os
import platform
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from math import isfinite
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from ripcurrent.errors import RipcurrentError


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to; rename it to ``path`` when the block ends well, remove it when not."""
    part = path.with_name(path.name + ".part")
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield part
            with part.open("rb") as written:
                os.fsync(written.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        # pyarrow's errors have the system's reason at the end of a longer text
        reason = (error.strerror or str(error)).rpartition("] ")[2].rstrip(".")
        raise RipcurrentError(
            f"{path} cannot be written: {reason}.",
            "Free some space there or name another place; the same command then goes on where it stopped.",
        ) from error


def cache_folder() -> Path:
    """``RIPCURRENT_CACHE``, else ``ripcurrent`` in ``XDG_CACHE_HOME``, else in ``~/.cache``."""
    if own := os.environ.get("RIPCURRENT_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "ripcurrent"


def library_versions(*names: str) -> dict[str, str]:
    """Versions of installed libraries, for a manifest."""
    return {name: version(name) for name in names}


def machine() -> dict[str, JsonValue]:
    """Platform, Python and number of CPUs, for a manifest."""
    return {"platform": platform.platform(), "python": platform.python_version(), "cpus": os.cpu_count()}


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file whole."""
    with written_whole(path) as part:
        text = json.dumps(value, indent=2, ensure_ascii=False)
        # of a file name that is no UTF-8
        has_surrogates = re.search("[\ud800-\udfff]", text)
        part.write_text((json.dumps(value, indent=2) if has_surrogates else text) + "\n", encoding="utf-8")


def plain_numbers(value: Any) -> Any:
    """A value as JSON can hold it: null for what is not finite, lists for tuples, text for keys."""
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain_numbers(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_numbers(item) for item in value]
    return value


def read_json_lines(path: Path) -> list[Any]:
    """What a file of JSON lines holds."""
    # only line feeds end a line: JSON strings may hold the other characters that ``splitlines`` takes for line ends
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
