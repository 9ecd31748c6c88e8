"""What every command shares: one JSON object or a shown result on stdout, errors and progress on stderr."""

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import typer
from rich import progress
from rich.console import Console
from rich.text import Text

from ripcurrent.errors import RipcurrentError
from ripcurrent.files import plain_numbers
from ripcurrent.progress import Progress, SilentProgress

SAY_EVERY = 30.0
"""Seconds between two lines of progress where there is no terminal."""


@dataclass(frozen=True, slots=True)
class Output:
    """How a command speaks; a parameter of this type gives a command ``--json`` and ``--quiet``."""

    json: bool = False
    quiet: bool = False

    def answer(self, to_json: Callable[[], Mapping[str, Any]], show: Callable[[], None]) -> None:
        """Print the result: as one JSON object, in which numbers that are not finite are null, or for people."""
        if self.json:
            typer.echo(json.dumps(plain_numbers(to_json()), ensure_ascii=False))
        elif not self.quiet:
            show()

    @contextmanager
    def progress(self) -> Iterator[Progress]:
        """Progress on stderr, or none where the command is quiet."""
        if self.quiet:
            yield SilentProgress()
        else:
            shown = TerminalProgress()
            with shown.bar:
                yield shown

    def say_default_model(self, named: bool) -> None:
        """Say on stderr that the model is the demo's, unless one was named."""
        if not named and not self.quiet:
            typer.echo("The model is embedded, the demo's: name yours with --model.", err=True)


def print_error(error: RipcurrentError) -> None:
    """Print what is wrong and what to do now, on stderr."""
    console = Console(stderr=True, soft_wrap=True)
    console.print(Text.assemble(("Error: ", "bold red"), error.message))
    if error.hint:
        console.print(Text(error.hint))


class TerminalProgress(Progress):
    """Progress on stderr: a bar with rate and time left where there is a terminal, now and then a line elsewhere."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._terminal = console.is_terminal
        self.bar = progress.Progress(
            progress.SpinnerColumn(),
            "{task.description}",
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            "{task.fields[rate]}",
            progress.TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not self._terminal,
        )
        self._name, self._unit, self._total, self._done, self._computed = "", "rows", 0, 0, 0
        self._began = self._said = 0.0

    def step(self, name: str) -> None:
        self._begin(name, None, f"{name} …")

    def start(self, name: str, total: int, unit: str = "rows") -> None:
        self._begin(name, total, f"{name}: {total} {unit} …")
        self._name, self._unit, self._total, self._done, self._computed = name, unit, total, 0, 0
        self._began = self._said = time.perf_counter()

    def _begin(self, name: str, total: int | None, line: str) -> None:
        self.finish()
        if self._terminal:
            self.bar.add_task(name, total=total, rate="")
        else:
            print(line, file=sys.stderr, flush=True)

    def rows(self, count: int) -> None:
        now = time.perf_counter()
        self._computed += count
        rate = self._computed / max(now - self._began, 1e-9)
        self._advance(count, f"{rate:.1f} {self._unit}/s")
        # a shard begins by telling of no row; nothing can be said of what is left before there is one
        if self._computed and now - self._said >= SAY_EVERY and self._done < self._total and not self._terminal:
            self._said = now
            left = (self._total - self._done) / rate / 60
            done = f"{self._name}: {self._done} of {self._total} {self._unit}"
            print(f"{done}, {rate:.1f} {self._unit}/s, about {left:.0f} min left", file=sys.stderr, flush=True)

    def skipped(self, count: int) -> None:
        self._advance(count, "resumed")

    def _advance(self, count: int, rate: str) -> None:
        self._done += count
        for task in self.bar.task_ids:
            self.bar.update(task, advance=count, rate=rate)

    def finish(self) -> None:
        for task in self.bar.task_ids:
            self.bar.remove_task(task)
