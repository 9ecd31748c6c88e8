"""The run folder: one folder that holds everything a run made, and says how.

Files appear whole or not at all: each is written as ``NAME.part`` and renamed. A lock keeps two runs out of one folder;
the parts of one run work in it together, each with a lock of its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Self

import yaml
from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from ripcurrent.errors import RipcurrentError
from ripcurrent.files import library_versions as library_versions
from ripcurrent.files import machine as machine
from ripcurrent.files import plain_numbers as plain_numbers
from ripcurrent.files import read_json_lines as read_json_lines
from ripcurrent.files import write_json as write_json
from ripcurrent.files import written_whole as written_whole

CONFIG = "config.yaml"
MANIFEST = "manifest.json"
DECIDED = "decided"
"""Key of the configuration: what the run's first call decided for all."""
PARTS = "parts"
"""Folder of the locks and records of a run's parts."""
PATIENCE = 60.0
"""Seconds that a part waits while others open the folder."""

Values = Mapping[str, Any]
"""A run's options and hashes by name."""
_HASHES = ("_sha256", "_fingerprint")


class Manifest(BaseModel):
    """What every run's manifest holds; each verb adds fields of its own."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    version: str
    command: str
    """The verb that made the run."""
    started: str = ""
    """When the run began, ISO 8601."""
    finished: str | None = None
    """When it ended; None of a run that is not finished."""
    versions: dict[str, str] = Field(default_factory=dict)
    """Versions of the libraries that the result rests on."""
    machine: dict[str, JsonValue] = Field(default_factory=dict)
    seeds: dict[str, int] = Field(default_factory=dict)
    """Seeds of what was drawn."""

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The manifest of a run folder; RipcurrentError where there is none of this kind, or a damaged one."""
        try:
            return cls.model_validate(read_manifest(folder))
        except ValidationError as error:
            where = ", ".join(".".join(map(str, one["loc"])) or one["msg"] for one in error.errors()[:3])
            raise RipcurrentError(
                f"{folder / MANIFEST} is damaged or of another kind of run ({where}).",
                "Name the right folder, or run the command again in another one.",
            ) from None

    def write(self, folder: Path) -> None:
        """Replace the manifest of a run folder."""
        write_json(folder / MANIFEST, self.model_dump(mode="json"))


def require_run_folder(folder: Path) -> None:
    """Refuse early what :class:`RunFolder` would refuse for good: a file, a folder of other things."""
    if folder.exists() and not folder.is_dir():
        raise RipcurrentError(f"{folder} is a file, not a folder.", "Name another folder with --out.")
    try:
        names = {path.name for path in folder.iterdir()} - {".lock", ".DS_Store"} if folder.is_dir() else set()
    except OSError as error:
        raise _unwritable(folder, error) from error
    if names and CONFIG not in names and f"{CONFIG}.part" not in names:
        raise RipcurrentError(
            f"{folder} holds other files ({', '.join(sorted(names)[:3])}) and no run of ripcurrent.",
            "Name a new or empty folder with --out.",
        )


class RunFolder:
    """A run's folder, locked while entered; by a part of the run only against the run as a whole and the same part.

    A folder that holds the same run (equal resolved options) is resumed; one whose run stopped before it left any
    result is taken over. Raises :class:`RipcurrentError` when the folder holds another run or anything else, is in use,
    or cannot be written. ``no_results`` are patterns of files that a run writes before any result, and that are removed
    where another takes its folder over; ``may_change`` keys of the configuration that may be others when it is resumed.
    """

    def __init__(
        self,
        folder: Path,
        config: Values,
        *,
        part: str | None = None,
        no_results: Sequence[str] = (),
        may_change: Collection[str] = (),
    ) -> None:
        self.folder = folder
        self.config = dict(config)
        self._may_change = may_change
        self._no_results = no_results
        self._lock = FileLock(folder / ".lock", timeout=0 if part is None else PATIENCE)
        self._part = part
        name = f"{part}.lock".replace("/", "-of-")
        self._part_lock = None if part is None else FileLock(folder / PARTS / name, timeout=0)

    def __enter__(self) -> RunFolder:
        try:
            require_run_folder(self.folder)
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except Timeout:
            raise RipcurrentError(
                f"Another run is at work in {self.folder}.", "Wait for it to end, or name another folder with --out."
            ) from None
        except OSError as error:
            raise _unwritable(self.folder, error) from error
        try:
            self._check_config()
            self._enter_part()
        except BaseException:
            self._lock.release()
            raise
        return self

    def _enter_part(self) -> None:
        """Lock the part instead of the folder; or, for the run as a whole, refuse while parts are at work."""
        working = _parts_at_work(self.folder)
        if self._part is None or self._part_lock is None:
            if working:
                raise RipcurrentError(
                    f"Part {working[0]} of this run is still at work in {self.folder}.",
                    "Wait for it to end, or name another folder with --out.",
                )
            return
        if self._part in working:
            raise RipcurrentError(
                f"Part {self._part} is already at work in {self.folder}.",
                "Wait for it to end; every process takes a part of its own.",
            )
        other = [name for name in working if name.partition("/")[2] != self._part.partition("/")[2]]
        if other:
            raise RipcurrentError(
                f"Part {other[0]} is at work in {self.folder}, and {self._part} cuts the rows differently.",
                "Wait for it to end, or cut the rows into as many parts.",
            )
        (self.folder / PARTS).mkdir(exist_ok=True)
        self._part_lock.acquire()
        self._lock.release()

    def __exit__(self, *error: object) -> None:
        (self._part_lock or self._lock).release()

    def _check_config(self) -> None:
        path = self.folder / CONFIG
        if not path.exists() or (self._has_no_result() and not _parts_at_work(self.folder)):
            self._forget_another()
            self._write_config(self.config)
            return
        stored = read_config(self.folder)
        then, now = _command_of(stored), _command_of(self.config)
        if then != now:
            raise RipcurrentError(
                f"{self.folder} holds a run of {then}, not of {now}.", "Name another folder with --out."
            )
        free = {*self._may_change, DECIDED}
        found = difference(*({k: one[k] for k in one if k not in free} for one in (stored, self.config)))
        if found is not None:
            raise RipcurrentError(
                f"{self.folder} holds another run: {found}.",
                "Name another folder with --out, or repeat the old options to resume.",
            )

    def _write_config(self, config: Values) -> None:
        with written_whole(self.folder / CONFIG) as part:
            part.write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), encoding="utf-8")

    def decided(self, key: str, decide: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What the run's first call decided; kept in the configuration. Other parts wait while one decides."""
        with FileLock(self.folder / f"{DECIDED}.lock"):
            stored = dict(read_config(self.folder))
            if key not in stored.setdefault(DECIDED, {}):
                stored[DECIDED][key] = decide()
                self._write_config(stored)
            kept: dict[str, Any] = stored[DECIDED][key]
            return kept

    def _forget_another(self) -> None:
        """Remove what another run wrote before it had any result: it was decided for that one's options."""
        try:
            if read_config(self.folder) == self.config:
                return
        except RipcurrentError:
            # none, or a damaged one
            pass
        for pattern in self._no_results:
            for found in self.folder.glob(pattern):
                found.unlink()

    def _has_no_result(self) -> bool:
        patterns = (CONFIG, f"*/{CONFIG}", "*.lock", "*.part", "*.DS_Store", *self._no_results)
        for entry in self.folder.rglob("*"):
            name = entry.relative_to(self.folder).as_posix()
            # an empty file was opened and never written
            if entry.is_file() and not any(fnmatchcase(name, one) for one in patterns) and entry.stat().st_size:
                return False
        return True


def _unwritable(folder: Path, error: OSError) -> RipcurrentError:
    return RipcurrentError(
        f"The run folder {folder} cannot be written: {error.strerror or error}.",
        "Make room or permission there, or name another folder with --out.",
    )


def _parts_at_work(folder: Path) -> list[str]:
    """The parts whose processes hold their locks, such as ``0/4``."""
    working = []
    for path in sorted((folder / PARTS).glob("*.lock")):
        lock = FileLock(path, timeout=0)
        try:
            lock.acquire()
        except Timeout:
            working.append(path.stem.replace("-of-", "/"))
        else:
            lock.release()
    return working


def read_config(folder: Path) -> Values:
    """A run's resolved options and hashes; RipcurrentError where ``folder`` holds none, or damaged ones."""
    text = _read(folder, CONFIG)
    try:
        stored = yaml.safe_load(text)
    except yaml.YAMLError:
        stored = None
    if not isinstance(stored, dict):
        raise _damaged(folder / CONFIG)
    return stored


def _command_of(config: Values) -> str:
    """The command whose run has this configuration; a scan's does not name it."""
    return str(config.get("command", "scan"))


def require_scan_folder(folder: Path) -> None:
    """Refuse a folder that is not there or that holds the run of another command than scan."""
    hint = "Name the folder that `ripcurrent scan --out` wrote."
    if not folder.is_dir():
        raise RipcurrentError(f"There is no run folder {folder}.", hint)
    if (folder / CONFIG).exists() and (found := _command_of(read_config(folder))) != "scan":
        raise RipcurrentError(f"{folder} holds a run of {found}, not of scan.", hint)


def difference(then: Values, now: Values) -> str | None:
    """What differs between two configurations, in words; None if nothing does."""
    other = sorted(key for key in {*then, *now} if then.get(key) != now.get(key))
    if not other:
        return None
    key, was, wanted = other[0], then.get(other[0]), now.get(other[0])
    # of hashes and records only that they differ
    opaque = isinstance(was, dict) or isinstance(wanted, dict) or key.endswith(_HASHES)
    said = "had other content than now" if opaque else f"is {was!r}, now {wanted!r}"
    more = sorted({_plain(one) for one in other} - {_plain(key)})
    return f"its {_plain(key)} {said}" + (f" (these differ too: {', '.join(more)})" if more else "")


def _plain(key: str) -> str:
    for ending in _HASHES:
        key = key.removesuffix(ending)
    return key.removeprefix("resolved_")


def read_manifest(folder: Path) -> Values:
    """A finished or running run's manifest; RipcurrentError where ``folder`` holds none, or a damaged one."""
    text = _read(folder, MANIFEST)
    try:
        # not pydantic's own reader of JSON, which refuses paths that are not UTF-8
        manifest: Values = json.loads(text)
    except ValueError as error:
        raise _damaged(folder / MANIFEST, f": {error}") from None
    return manifest


def _read(folder: Path, name: str) -> str:
    if not (folder / name).exists():
        hint = "Name the folder given as --out." if folder.is_dir() else "Check the path."
        what = "finished run" if name == MANIFEST else "run"
        raise RipcurrentError(f"{folder} holds no {what} (there is no {name}).", hint)
    try:
        return (folder / name).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise _damaged(folder / name) from None


def _damaged(path: Path, how: str = "") -> RipcurrentError:
    return RipcurrentError(f"{path} is damaged{how}.", "Run the command again in another folder.")
