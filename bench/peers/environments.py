"""The peers, and a virtual environment for each, made once in the bench's folder."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
CONSTRAINTS = ROOT / "constraints.txt"
BATCHES = (1, 2, 8)
"""Short rows are faster together; rows of very different lengths alone, since a batch is padded to its longest."""


class PeerError(Exception):
    """Why a peer could not be installed or run, in one line."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A package to measure, or one of the loops of this project."""

    name: str
    """As the table has it."""
    scopes: tuple[str, ...]
    """Scopes that it can take."""
    script: str = ""
    """Its script beside this file; empty for this project's own."""
    requirements: tuple[str, ...] = ()
    """What pip is asked for, its own version exact."""
    without: tuple[str, ...] = ()
    """Declared dependencies that are not needed on this path and whose wheels do not load beside torch's CPU build."""
    rows: int | None = None
    """At most so many rows of each set, where it is too slow for all."""
    batches: tuple[int | None, ...] = (None,)
    """Rows at once to try, each in a process of its own, where that is a setting; for each set the fastest counts."""

    def command(self, folder: Path) -> list[str]:
        """The command line that takes a task file; PeerError where its package cannot be installed."""
        if not self.script:
            return [sys.executable, "-m", "bench.peers.run_own", self.name]
        return [str(_environment(self, folder)), str(Path(__file__).parent / self.script)]


BOTH = ("linear", "all")
PEERS = (
    Peer("ripcurrent", BOTH),
    Peer("batch-1 loop", BOTH),
    Peer("the reference's way", ("all",), rows=3),
    Peer(
        "bergson 2.5.1", ("linear",), "run_bergson.py", ("bergson==2.5.1",),
        without=("torchvision", "torchaudio", "bitsandbytes"),
    ),
    Peer(
        "kronfluence 1.0.1", ("linear",), "run_kronfluence.py", ("kronfluence==1.0.1", "transformers"),
        without=("torchvision",), batches=BATCHES,
    ),
    Peer(
        "dattri-llm 0.1.0", BOTH, "run_dattri_llm.py", ("dattri-llm[attribution,transformers]==0.1.0",),
        batches=BATCHES,
    ),
)  # fmt: skip


def _environment(peer: Peer, folder: Path) -> Path:
    """The Python of a peer's environment.

    It reads torch, transformers and whatever else the peer shares with this project (pip too) from the project's own
    environment, so that all run on the very same versions and little is installed.
    """
    home = folder / re.sub(r"[^a-z]+", "-", peer.name.split()[0])
    python, stamp = home / "bin" / "python", home / "made.txt"
    wanted = repr((peer.requirements, peer.without, hashlib.sha256(CONSTRAINTS.read_bytes()).hexdigest(), sys.version))
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return python
    print(f"installing {peer.name}", file=sys.stderr, flush=True)
    _run([sys.executable, "-m", "venv", "--clear", "--without-pip", str(home)])
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(home), "platbase": str(home)}))
    (packages / "project.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    pip = [str(python), "-m", "pip", "install", "--quiet", "--constraint", str(CONSTRAINTS)]
    if peer.without:
        package, *others = peer.requirements
        _run([*pip, "--no-deps", package])
        code = f"import importlib.metadata as m; print('\\n'.join(m.requires({package.split('==')[0]!r}) or ()))"
        declared = subprocess.run([str(python), "-c", code], check=True, capture_output=True, text=True).stdout
        needed = [line for line in declared.splitlines() if "extra ==" not in line]
        _run([*pip, *(n for n in needed if re.split(r"[^\w.-]", n)[0].lower() not in peer.without), *others])
    else:
        _run([*pip, *peer.requirements])
    stamp.write_text(wanted, encoding="utf-8")
    return python


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise PeerError(last_line(done.stderr or done.stdout))


def last_line(text: str) -> str:
    """The line that says what went wrong, short and without this machine's folders."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"(ERROR: |[\w.]*(Error|Exception|Interrupt)\b)", line)]
    said = (errors or lines or ["no message"])[-1].removeprefix("ERROR: ")
    said = re.sub(r"(?:/[\w.+-]+){2,}/", "…/", said)
    return said if len(said) <= 200 else said[:197] + "…"
