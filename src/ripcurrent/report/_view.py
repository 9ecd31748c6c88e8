"""The local viewer: the pages of runs, and every row of a scan, served to this machine alone."""

import json
import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

from pydantic import ValidationError

from ripcurrent.errors import MissingExtraError, RipcurrentError
from ripcurrent.experiment import KEYS
from ripcurrent.progress import Progress
from ripcurrent.report import REPORT, REVEALED
from ripcurrent.report._page import Data, embed_json, render_page
from ripcurrent.report._scan_page import render_scan_page, scan_table
from ripcurrent.report._table import AllTexts, RowQuery
from ripcurrent.runs import Manifest
from ripcurrent.scan import ScanRun
from ripcurrent.select import DECISIONS, Decision, read_decisions, require_own, write_decisions

try:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.requests import Request
    from starlette.responses import HTMLResponse, PlainTextResponse, Response
    from starlette.routing import Mount, Route
except ImportError as error:
    raise MissingExtraError(error.name or "starlette", "view") from error

HOST = "127.0.0.1"


@dataclass(frozen=True)
class SeenRun:
    """One run in the list."""

    name: str
    folder: Path
    kind: str
    dataset: str
    finished: str

    @property
    def revealed(self) -> bool:
        """Whether there is a page with answers."""
        return (self.folder / REVEALED).is_file()


class OpenScan:
    """A scan that is looked at: its rows, and the decisions about them."""

    def __init__(self, folder: Path) -> None:
        self.run = ScanRun.open(folder)
        self.table = scan_table(self.run)
        self._lock = Lock()

    @cached_property
    def decisions(self) -> dict[int, Decision]:
        path = self.run.folder / DECISIONS
        return read_decisions(self.run, path) if path.is_file() else {}

    @cached_property
    def page(self) -> str:
        return render_scan_page(self.run, live=True)

    def prepare(self) -> None:
        """Compute what the first page and the first rows need, so that nobody waits for it there."""
        _ = self.page
        self.find(RowQuery())

    def find(self, query: RowQuery) -> Data:
        total, rows = self.table.find(query, self.decisions)
        return {"total": total, "rows": self.table.records(rows, self.table.texts.heads(rows))}

    def decide(self, decision: Decision) -> None:
        require_own(self.run, decision, "The page")
        with self._lock:
            if decision.decision is None and not decision.note:
                self.decisions.pop(decision.row, None)
            else:
                self.decisions[decision.row] = decision
            write_decisions(self.run.folder / DECISIONS, self.decisions)


def find_runs(folder: Path) -> dict[str, SeenRun]:
    """The runs in a folder by name, the newest first: itself, or those that lie in it."""
    if not folder.is_dir():
        raise RipcurrentError(f"There is no folder {folder}.", "Name a run, or a folder of runs such as runs/.")
    places = [folder] if _kind(folder) else sorted(path for path in folder.iterdir() if path.is_dir())
    found = [seen for path in places if (kind := _kind(path)) and (seen := _seen(path, kind))]
    if not found:
        raise RipcurrentError(f"{folder} holds no finished run.", "Name what --out named, or the folder above it.")
    return {one.name: one for one in sorted(found, key=lambda one: one.finished, reverse=True)}


def _kind(path: Path) -> str | None:
    if (path / "scores.parquet").is_file():
        return "scan"
    if (path / KEYS).is_file():
        return "experiment" if (path / REPORT).is_file() else None
    return "check" if (path / REPORT).is_file() else None


def _seen(path: Path, kind: str) -> SeenRun | None:
    try:
        about: Any = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        manifest = Manifest.model_validate(about)
    except (OSError, ValueError, ValidationError):
        return SeenRun(path.name, path, kind, "", "")
    dataset = about.get("dataset") if isinstance(about.get("dataset"), dict) else {}
    return SeenRun(path.resolve().name, path, kind, str(dataset.get("name", "")), manifest.finished or "")


def make_app(folder: Path, token: str, scans: Callable[[Path], OpenScan]) -> Starlette:
    """The application; every address begins with the token."""

    def scan_of(request: Request) -> OpenScan:
        runs = find_runs(folder)
        name = request.path_params["name"]
        if name not in runs:
            raise RipcurrentError(f"There is no run {name} in {folder}.", "It was moved or deleted.")
        return scans(runs[name].folder)

    def start(_: Request) -> Response:
        shown = {"runs": list(find_runs(folder).values()), "folder": str(folder)}
        text = render_page(
            "_runs.html.j2", shown, {}, styles=["_base.css", "_masks.css"], scripts=["_common.js"], plots=False
        )
        return HTMLResponse(text)

    def page(request: Request) -> Response:
        seen, answers = find_runs(folder).get(request.path_params["name"]), request.url.path.endswith("/revealed")
        if seen is None or (answers and not seen.revealed):
            return PlainTextResponse(f"There is no such page in {folder}.", 404)
        if seen.kind == "scan":
            return HTMLResponse(scans(seen.folder).page)
        return HTMLResponse((seen.folder / (REVEALED if answers else REPORT)).read_text(encoding="utf-8"))

    def rows(request: Request) -> Response:
        return _json(scan_of(request).find(RowQuery.model_validate_json(request.query_params.get("q", "{}"))))

    def row(request: Request) -> Response:
        return _json(scan_of(request).table.detail(request.path_params["row"]))

    def decisions(request: Request) -> Response:
        return _json({"decisions": [one.model_dump() for one in scan_of(request).decisions.values()]})

    async def decide(request: Request) -> Response:
        body = await request.body()
        scan_of(request).decide(Decision.model_validate_json(body))
        return _json({"saved": len(scan_of(request).decisions)})

    def failed(_: Request, error: Exception) -> Response:
        return PlainTextResponse(str(error), 400)

    inside = [
        Route("/", start),
        Route("/{name}/", page),
        Route("/{name}/revealed", page),
        Route("/{name}/rows", rows),
        Route("/{name}/rows/{row:int}", row),
        Route("/{name}/decisions", decisions),
        Route("/{name}/decisions", decide, methods=["PUT"]),
    ]
    hosts = Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])
    handlers: dict[Any, Any] = {RipcurrentError: failed, ValidationError: failed}
    return Starlette(routes=[Mount(f"/{token}", routes=inside)], middleware=[hosts], exception_handlers=handlers)


def _json(value: Data) -> Response:
    return Response(embed_json(value), media_type="application/json", headers={"Cache-Control": "no-store"})


def serve(folder: Path, port: int, say: Callable[[str], None], progress: Progress | None = None) -> None:
    """Serve the runs of a folder to this machine until it is stopped; ``say`` gets the address once it answers."""
    runs, scans = find_runs(folder), lru_cache(maxsize=8)(OpenScan)
    if len(runs) == 1:
        for one in runs.values():
            if one.kind == "scan":
                AllTexts(ScanRun.open(one.folder), progress)
                scans(one.folder).prepare()
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((HOST, port))
            listening.listen()
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise RipcurrentError(f"Port {port} cannot be used: {reason}.", "Name another with --port.") from None
        token = secrets.token_urlsafe(16)
        place = f"{next(iter(runs))}/" if len(runs) == 1 else ""
        say(f"http://{HOST}:{listening.getsockname()[1]}/{token}/{place}")
        server = uvicorn.Server(uvicorn.Config(make_app(folder, token, scans), log_level="warning", access_log=False))
        server.run(sockets=[listening])
