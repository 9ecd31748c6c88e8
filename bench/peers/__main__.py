"""``python -m bench.peers``: every peer on the same rows, threads, scope and type, one after another; one table."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.measure import machine, put_between
from bench.peers.environments import PEERS, ROOT, Peer, PeerError, last_line
from bench.peers.table import OURS, markdown
from ripcurrent.statistics import spearman

FOLDER = ROOT / ".bench-peers"
NUMBERS = (
    ("short", 12, "rows of about 57 tokens"),
    ("long", 6, "rows of about 200 tokens"),
    ("anchors", 4, "anchors per direction"),
    ("threads", os.cpu_count() or 1, "threads of each"),
    ("timeout", 300, "seconds that one run may take"),
)
"""Options."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default, what in NUMBERS:
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{what} (%(default)s)")
    parser.add_argument("--only", default="", help="only names that contain this, ripcurrent beside them")
    parser.add_argument("--scope", choices=("linear", "all"), help="only this scope")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="only this type")
    parser.add_argument("--write", type=Path, default=FOLDER / "peers.md", help="a page; between its marks, if any")
    given = parser.parse_args()
    work = FOLDER / "work"
    shutil.rmtree(work, ignore_errors=True)
    print("model, rows, directions, oracle", file=sys.stderr, flush=True)
    options = [f"--{name}={getattr(given, name)}" for name, *_ in NUMBERS[:4]]
    prepare = [sys.executable, "-m", "bench.peers.prepare", str(work), *options]
    subprocess.run(prepare, check=True, cwd=ROOT, env=_environ(work, given.threads))
    prepared = json.loads((work / "prepared.json").read_text(encoding="utf-8"))
    figures: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "threads": given.threads,
        "torch": torch.__version__,
        "anchors": given.anchors,
        "counts": {name: len(rows) for name, rows in prepared["sets"].items()},
        **{key: prepared[key] for key in ("files", "mean_tokens")},
        "results": [],
    }
    for scope in [given.scope] if given.scope else ["linear", "all"]:
        for dtype in [given.dtype] if given.dtype else ["float32", "bfloat16"]:
            for peer in PEERS:
                if scope not in peer.scopes or not (given.only in peer.name or peer.name == OURS):
                    continue
                print(f"{scope}, {dtype}: {peer.name}", file=sys.stderr, flush=True)
                entry = {"peer": peer.name, "scope": scope, "dtype": dtype}
                try:
                    entry |= _measured(peer, work, prepared, scope, dtype, given)
                except PeerError as error:
                    entry["error"] = str(error)
                figures["results"].append(entry)
                # a bench that is stopped leaves what it has
                (FOLDER / "peers.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    shutil.rmtree(work)
    table = markdown(figures)
    put_between(given.write, "peers", table)
    print(table)
    return 0


def _measured(
    peer: Peer, work: Path, prepared: Mapping[str, Any], scope: str, dtype: str, given: argparse.Namespace
) -> dict[str, Any]:
    """Run a peer in each batch size that it is to try, each time in a fresh process."""
    command = peer.command(FOLDER / "environments")
    places = {name: _spread(len(rows), peer.rows or len(rows)) for name, rows in prepared["sets"].items()}
    task = {
        "model": str(work / "model"),
        "dtype": dtype,
        "scope": scope,
        "threads": given.threads,
        "sets": {name: [rows[place] for place in places[name]] for name, rows in prepared["sets"].items()},
        "anchors": prepared["anchors"],
        "directions": str(work / f"directions-{scope}.safetensors"),
    }
    results: list[dict[str, Any]] = []
    failed: dict[int | None, str] = {}
    for batch in peer.batches:
        try:
            results.append(
                _run(work / "run", command, {**task, "batch": batch}, _environ(work, given.threads), given.timeout)
            )
        except PeerError as error:
            failed[batch] = str(error)
    if not results:
        raise PeerError(list(failed.values())[-1])
    result = fastest(results, failed)
    return {
        **{key: result[key] for key in ("cosine", "settings", "left_out", "seconds", "peak_bytes")},
        "rows": sum(map(len, places.values())),
        "rows_per_second": {name: len(places[name]) / result["seconds"][name] for name in places},
        **_accuracy(result, prepared, places, scope),
    }


def _run(
    folder: Path, command: Sequence[str], task: Mapping[str, Any], environ: Mapping[str, str], timeout: int
) -> dict[str, Any]:
    """The result of one process, with its batch size; PeerError where it gave none."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    file, out = folder / "task.json", folder / "result.json"
    file.write_text(json.dumps({**task, "out": str(out)}), encoding="utf-8")
    options: dict[str, Any] = {"capture_output": True, "text": True, "timeout": timeout, "cwd": ROOT, "env": environ}
    try:
        done = subprocess.run([*command, str(file)], check=False, **options)
    except subprocess.TimeoutExpired as error:
        raise PeerError(f"not done after {timeout} seconds") from error
    if done.returncode:
        (FOLDER / "failure.log").write_text(done.stdout + done.stderr, encoding="utf-8")
        raise PeerError("killed, probably for memory" if done.returncode == -9 else last_line(done.stderr))
    return {**json.loads(out.read_text(encoding="utf-8")), "batch": task["batch"]}


def fastest(results: Sequence[Mapping[str, Any]], failed: Mapping[int | None, str]) -> dict[str, Any]:
    """Each set's fastest run as one result; settings say which batch sizes these had, and which failed and why."""
    counted = {name: min(results, key=lambda each: each["seconds"][name]) for name in results[0]["seconds"]}
    settings = [results[0]["settings"]]
    if results[0]["batch"] is not None:
        tried = ", ".join(str(each["batch"]) for each in results)
        sizes = ", ".join(f"{each['batch']} ({name})" for name, each in counted.items())
        settings.insert(0, f"rows at once, the fastest of {tried}: {sizes}")
    settings += [f"failed{'' if batch is None else f' with {batch}'}: {said}" for batch, said in failed.items()]
    of_each = {key: {name: each[key][name] for name, each in counted.items()} for key in ("seconds", "scores")}
    peak = max(each["peak_bytes"][name] for name, each in counted.items())
    return {**results[0], **of_each, "settings": "; ".join(settings), "peak_bytes": peak}


def _accuracy(
    result: Mapping[str, Any], prepared: Mapping[str, Any], places: Mapping[str, list[int]], scope: str
) -> dict[str, float | None]:
    """The lower of the two directions' rank correlations with the oracle over all rows, and the largest difference.

    The difference is between products of normalised row gradients with the directions; where scores are cosines with
    the directions they are first multiplied by the directions' norms. None for plain dots.
    """
    found, expected = [], []
    for name, chosen in places.items():
        dots, norms = (np.array(prepared["oracle"][name][scope][key])[chosen] for key in ("dots", "norms"))
        expected.append(dots / norms[:, None] if result["cosine"] else dots)
        found.append(np.array(result["scores"][name]))
    left, right = np.concatenate(found), np.concatenate(expected)
    if result["unit_directions"]:
        left = left * np.array(prepared["direction_norms"][scope])
    return {
        "spearman": min(spearman(left[:, number], right[:, number]) for number in range(2)),
        "largest_difference": float(np.abs(left - right).max()) if result["cosine"] else None,
    }


def _spread(rows: int, count: int) -> list[int]:
    return [round(place) for place in np.linspace(0, rows - 1, min(rows, count))]


def _environ(work: Path, threads: int) -> dict[str, str]:
    """Same threads for all, no network, no GPU, caches inside the bench's folder."""
    number = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    quiet = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(work / "hub"), "TOKENIZERS_PARALLELISM": "false"}
    return {**os.environ, **number, **quiet, "CUDA_VISIBLE_DEVICES": ""}


if __name__ == "__main__":
    sys.exit(main())
