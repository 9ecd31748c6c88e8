"""Files that appear whole or not at all, copies of what lies elsewhere, and values as JSON holds them."""

import hashlib
import json
import os
import platform
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from math import isfinite
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import JsonValue

from ripcurrent.errors import RipcurrentError

_VERSIONS = ("etag", "md5hash", "content-md5", "generation", "mtime", "lastmodified", "last-modified", "created")
"""What file systems tell a file's content by, the surest first."""


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


def is_address(path: str) -> bool:
    """Whether a path is of another file system, such as ``s3://bucket/rows.jsonl``."""
    return "://" in path


def local_copy(address: str) -> str:
    """Path of a copy, in the cache, of the file or of a pattern's files at an fsspec address, made once a version.

    Raises:
        RipcurrentError: nothing there, no access, no space, or the file system's own package is not installed.
    """
    import fsspec
    from filelock import FileLock

    if urlsplit(address).password:
        hint = "Leave it out: file systems read keys from their own settings or the environment."
        raise RipcurrentError("The address holds a password, which a run's manifest would keep.", hint)
    place = cache_folder() / "datasets"
    try:
        system, root = fsspec.core.url_to_fs(address)
        found = {root: system.info(root)} if system.isfile(root) else system.glob(root, detail=True)
        names = sorted(name for name, info in found.items() if info["type"] == "file" and "/../" not in name)
        if not names:
            raise FileNotFoundError
        versions = [_version(found[name]) for name in names]
        folder = place / hashlib.sha256(repr((address, names, versions)).encode()).hexdigest()[:32]
        part = folder.with_suffix(".part")
        place.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            # what does not tell its version may have changed
            if not (folder.is_dir() and all(versions)):
                for old in (folder, part):
                    shutil.rmtree(old, ignore_errors=True)
                targets = [part / name.lstrip("/") for name in names]
                for target in targets:
                    target.parent.mkdir(parents=True, exist_ok=True)
                system.get(names, [*map(str, targets)])
                part.rename(folder)
    except ImportError as error:
        package = getattr(error.__cause__, "name", None) or str(error)
        what = f"{address} needs the package {package}, which is not installed."
        raise RipcurrentError(what, f"Install it with: pip install {package}") from error
    except FileNotFoundError as error:
        hint = (
            "Check it, the network and your access. Files in a folder are named by a pattern, as in s3://bucket/*.jsonl"
        )
        raise RipcurrentError(f"There is no file at {address}.", hint) from error
    # what file systems raise has no common base
    except Exception as error:
        reason = (str(error).strip() or repr(error)).splitlines()[0].rstrip(".")
        hint = "Check the network, your access, and the space: RIPCURRENT_CACHE names another place."
        raise RipcurrentError(f"{address} cannot be copied to {place}: {reason}.", hint) from error
    return str(folder / root.lstrip("/"))


def _version(info: Mapping[str, Any]) -> str | None:
    known = {key.lower(): value for key, value in info.items()}
    return next((f"{info.get('size')} {known[key]}" for key in _VERSIONS if known.get(key)), None)


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
