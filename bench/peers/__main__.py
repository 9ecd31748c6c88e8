"""``python -m bench.peers``: every peer on the same rows, threads, scope and type, one after another; one table."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.peers.environments import PEERS, ROOT, Peer, PeerError, environment, last_line
from bench.peers.table import markdown
from ripcurrent.statistics import spearman

FOLDER = ROOT / ".bench-peers"
OWN = {"ripcurrent": ("linear", "all"), "batch-1 loop": ("linear", "all"), "the reference's way": ("all",)}
BY_NAME = {peer.name: peer for peer in PEERS}
MARKS = ("<!-- peers: begin -->", "<!-- peers: end -->")
REFERENCE = "the reference's way"
REFERENCE_ROWS = {"short": 3, "long": 3}
"""Rows of each set that the reference's way is given, since it is slow."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", type=int, default=12, help="rows of about 57 tokens (%(default)s)")
    parser.add_argument("--long", type=int, default=6, help="rows of about 200 tokens (%(default)s)")
    parser.add_argument("--anchors", type=int, default=4, help="anchors per direction")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--repeat", type=int, default=1, help="runs of each in each batch size; the fastest counts")
    parser.add_argument("--only", help="only names that contain this, ripcurrent beside them")
    parser.add_argument("--scope", choices=("linear", "all"), help="only this scope")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="only this type")
    parser.add_argument("--timeout", type=int, default=300, help="seconds that one run may take")
    parser.add_argument("--json", type=Path, default=FOLDER / "peers.json", help="where the figures go")
    parser.add_argument(
        "--markdown",
        type=Path,
        default=FOLDER / "peers.md",
        help="where the table goes; in a page that has its marks, between them",
    )
    given = parser.parse_args()
    work = FOLDER / "work"
    shutil.rmtree(work, ignore_errors=True)
    pythons, failed = _environments(given.only)
    _say("model, rows, directions, oracle")
    _prepare(work, given)
    prepared = json.loads((work / "prepared.json").read_text(encoding="utf-8"))
    figures: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "machine": _machine(),
        "threads": given.threads,
        "torch": torch.__version__,
        "anchors": given.anchors,
        "repeat": given.repeat,
        "counts": {name: len(rows) for name, rows in prepared["sets"].items()},
        "files": prepared["files"],
        "mean_tokens": prepared["mean_tokens"],
        "dtypes": [given.dtype] if given.dtype else ["float32", "bfloat16"],
        "results": [],
    }
    for scope in [given.scope] if given.scope else ["linear", "all"]:
        for dtype in figures["dtypes"]:
            for name, command in _commands(scope, pythons, failed, given.only):
                _say(f"{scope}, {dtype}: {name}")
                entry: dict[str, Any] = {"peer": name, "scope": scope, "dtype": dtype}
                if isinstance(command, PeerError):
                    entry |= {"stage": "install", "error": str(command)}
                else:
                    entry |= _measure(work, prepared, name, command, scope, dtype, given)
                figures["results"].append(entry)
                # a bench that is stopped leaves what it has
                given.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    shutil.rmtree(work)
    table = markdown(figures)
    put_table(given.markdown, table)
    print(table)
    return 0


def put_table(path: Path, table: str) -> None:
    """Write the table: between its marks where the file has them, as the whole file otherwise."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    if MARKS[0] in text and MARKS[1] in text:
        before, rest = text.split(MARKS[0], 1)
        table = f"{before}{MARKS[0]}\n\n{table}\n{MARKS[1]}{rest.split(MARKS[1], 1)[1]}"
    path.write_text(table, encoding="utf-8")


def _environments(only: str | None) -> tuple[dict[str, Path], dict[str, PeerError]]:
    pythons: dict[str, Path] = {}
    failed: dict[str, PeerError] = {}
    for peer in PEERS:
        if only and only not in peer.name:
            continue
        try:
            pythons[peer.name] = environment(peer, FOLDER / "environments")
        except PeerError as error:
            failed[peer.name] = error
    return pythons, failed


def _prepare(work: Path, given: argparse.Namespace) -> None:
    options = [f"--{name}={getattr(given, name)}" for name in ("short", "long", "anchors", "threads")]
    command = [sys.executable, "-m", "bench.peers.prepare", str(work), *options]
    subprocess.run(command, check=True, cwd=ROOT, env=_environ(work, given.threads))


def _commands(
    scope: str, pythons: Mapping[str, Path], failed: Mapping[str, PeerError], only: str | None
) -> list[tuple[str, list[str] | PeerError]]:
    """Name and command of everything that takes a scope; the task file is to be added."""
    own = [
        name for name, scopes in OWN.items() if scope in scopes and (not only or only in name or name == "ripcurrent")
    ]
    found: list[tuple[str, list[str] | PeerError]] = [
        (name, [sys.executable, "-m", "bench.peers.run_own", "--as", name]) for name in own
    ]
    for peer in PEERS:
        if scope not in peer.scopes:
            continue
        if peer.name in failed:
            found.append((peer.name, failed[peer.name]))
        elif peer.name in pythons:
            found.append((peer.name, [str(pythons[peer.name]), str(_script(peer))]))
    return found


def _script(peer: Peer) -> Path:
    return Path(__file__).parent / peer.script


def _measure(
    work: Path,
    prepared: Mapping[str, Any],
    name: str,
    command: list[str],
    scope: str,
    dtype: str,
    given: argparse.Namespace,
) -> dict[str, Any]:
    """Run one of them in each batch size that it is to try, each time in a fresh process, or tell why it failed."""
    peer = BY_NAME.get(name)
    most = REFERENCE_ROWS if name == REFERENCE else peer.rows if peer else None
    places = {key: _spread(len(rows), most[key] if most else len(rows)) for key, rows in prepared["sets"].items()}
    task = {
        "model": str(work / "model"),
        "dtype": dtype,
        "scope": scope,
        "threads": given.threads,
        "sets": {key: [rows[place] for place in places[key]] for key, rows in prepared["sets"].items()},
        "anchors": prepared["anchors"],
        "directions": str(work / f"directions-{scope}.safetensors"),
    }
    environ = {**_environ(work, given.threads), **(peer.environ if peer else {})}
    results: list[dict[str, Any]] = []
    failed: dict[int | None, str] = {}
    for batch in (peer.batches if peer else ()) or (None,):
        try:
            for _ in range(given.repeat):
                found = _run(work / "run", command, {**task, "batch": batch}, environ, given.timeout)
                results.append({**found, "batch": batch})
        except PeerError as error:
            failed[batch] = str(error)
    if not results:
        return {"stage": "run", "error": list(failed.values())[-1]}
    result = fastest(results, failed)
    return {
        **{key: result[key] for key in ("measure", "settings", "left_out", "versions", "seconds", "peak_bytes")},
        "rows": sum(len(each) for each in places.values()),
        "rows_per_second": {key: len(places[key]) / result["seconds"][key] for key in places},
        **_accuracy(result, prepared, places, scope),
    }


def _run(
    folder: Path, command: Sequence[str], task: Mapping[str, Any], environ: Mapping[str, str], timeout: int
) -> dict[str, Any]:
    """The result of one process. Raises :class:`PeerError` when it gives none."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    given, out = folder / "task.json", folder / "result.json"
    given.write_text(json.dumps({**task, "out": str(out)}), encoding="utf-8")
    try:
        done = subprocess.run(
            [*command, str(given)],
            check=False,
            capture_output=True,
            text=True,
            timeout=timeout,
            cwd=ROOT,
            env=environ,
        )
    except subprocess.TimeoutExpired as error:
        raise PeerError(f"not done after {timeout} seconds") from error
    if done.returncode:
        (FOLDER / "failure.log").write_text(done.stdout + done.stderr, encoding="utf-8")
        raise PeerError("killed, probably for memory" if done.returncode == -9 else last_line(done.stderr))
    return dict(json.loads(out.read_text(encoding="utf-8")))


def fastest(results: Sequence[Mapping[str, Any]], failed: Mapping[int | None, str]) -> dict[str, Any]:
    """Each set's fastest run, its scores and memory with it, as one result.

    Settings say which batch sizes these runs had and which were tried, with those that failed and why.
    """
    counted = {key: min(results, key=lambda each: each["seconds"][key]) for key in results[0]["seconds"]}
    tried = sorted({each["batch"] for each in results if each["batch"] is not None})
    settings = [results[0]["settings"]]
    if tried:
        sizes = ", ".join(f"{each['batch']} ({key})" for key, each in counted.items())
        settings.insert(0, f"rows at once, the fastest of {', '.join(map(str, tried))}: {sizes}")
    settings += [f"failed{'' if batch is None else f' with {batch}'}: {said}" for batch, said in failed.items()]
    return {
        **results[0],
        "settings": "; ".join(settings),
        "seconds": {key: each["seconds"][key] for key, each in counted.items()},
        "scores": {key: each["scores"][key] for key, each in counted.items()},
        "peak_bytes": max(each["peak_bytes"][key] for key, each in counted.items()),
    }


def _accuracy(
    result: Mapping[str, Any], prepared: Mapping[str, Any], places: Mapping[str, list[int]], scope: str
) -> dict[str, float | None]:
    """The lower of the two directions' rank correlations with the oracle over all rows, and the largest difference.

    The difference is between inner products of normalised row gradients with the directions; where scores are cosines
    with the directions they are first multiplied by the directions' norms. None for dots.
    """
    found, expected = [], []
    dots_only = result["measure"] == "dot"
    for key, chosen in places.items():
        answers = prepared["oracle"][key][scope]
        dots = np.array(answers["dots"])[chosen]
        norms = np.array(answers["norms"])[chosen]
        expected.append(dots if dots_only else dots / norms[:, None])
        found.append(np.array(result["scores"][key]))
    left, right = np.concatenate(found), np.concatenate(expected)
    if result["unit_directions"]:
        left = left * np.array(prepared["direction_norms"][scope])
    return {
        "spearman": min(spearman(left[:, number], right[:, number]) for number in range(2)),
        "largest_difference": None if dots_only else float(np.abs(left - right).max()),
    }


def _spread(rows: int, count: int) -> list[int]:
    return [round(place) for place in np.linspace(0, rows - 1, min(rows, count))]


def _environ(work: Path, threads: int) -> dict[str, str]:
    """Same threads for all, no network, no GPU, caches inside the bench's folder."""
    own = {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(work / "hub"),
        "CUDA_VISIBLE_DEVICES": "",
        "TOKENIZERS_PARALLELISM": "false",
    }
    return {**os.environ, **own}


def _machine() -> str:
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.+)", info.read_text()) if info.exists() else None
    return found[1].strip() if found else platform.processor() or platform.machine()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
