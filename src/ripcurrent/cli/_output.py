"""What every command shares: printing one JSON object, errors without tracebacks, progress on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import typer

from ripcurrent.progress import Progress, SilentProgress

if TYPE_CHECKING:
    from ripcurrent.cli._command import Output
    from ripcurrent.errors import RipcurrentError


def print_json(value: Mapping[str, Any]) -> None:
    """Print one JSON object on stdout; numbers that are not finite become null."""
    typer.echo(json.dumps(finite(value), ensure_ascii=False))


def finite(value: Any) -> Any:
    """The value with NaN and infinities replaced by None, all the way down."""
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def print_error(error: RipcurrentError) -> None:
    """Print what is wrong and what to do now, on stderr."""
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True, soft_wrap=True)
    console.print(Text.assemble(("Error: ", "bold red"), error.message))
    if error.hint:
        console.print(Text(error.hint))


def say_default_model(context: typer.Context, quiet: bool) -> None:
    """Say on stderr that the model is the demo's, where none was named."""
    if not quiet and is_default(context, "model"):
        typer.echo("The model is embedded, the demo's: name yours with --model.", err=True)


def is_default(context: typer.Context, option: str) -> bool:
    """Whether an option was left out."""
    source = context.get_parameter_source(option)
    return source is not None and source.name == "DEFAULT"


def progress_of(output: Output, *, json_too: bool = False) -> AbstractContextManager[Progress]:
    """Progress on stderr, or none where the command is quiet; with ``json_too`` none beside JSON either."""
    quiet = output.quiet or (json_too and output.json)
    return nullcontext(SilentProgress()) if quiet else TerminalProgress().shown()


SAY_EVERY = 30.0
"""Seconds between two lines of progress where there is no terminal."""


class TerminalProgress:
    """Progress on stderr: a bar with rate and time left where there is a terminal, now and then a line elsewhere."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            SpinnerColumn,
            TextColumn,
            TimeRemainingColumn,
        )

        self._console = Console(stderr=True)
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task: Any = None
        self._name, self._unit, self._total, self._done = "", "rows", 0, 0
        self._computed = 0
        self._began = self._said = 0.0

    @contextmanager
    def shown(self) -> Iterator[TerminalProgress]:
        """Show progress inside the block."""
        with self._bar:
            yield self

    def step(self, name: str) -> None:
        """A step without a count begins."""
        self._end_task()
        if self._console.is_terminal:
            self._task = self._bar.add_task(name, total=None, rate="")
        else:
            print(f"{name} …", file=sys.stderr, flush=True)

    def start(self, name: str, total: int, unit: str = "rows") -> None:
        """A counted step begins."""
        import time

        self._end_task()
        self._name, self._unit, self._total, self._done = name, unit, total, 0
        self._computed, self._began = 0, time.perf_counter()
        self._said = self._began
        if self._console.is_terminal:
            self._task = self._bar.add_task(name, total=total, rate="")
        else:
            print(f"{name}: {total} {unit} …", file=sys.stderr, flush=True)

    def rows(self, count: int) -> None:
        """So many rows were computed."""
        import time

        now = time.perf_counter()
        self._computed += count
        self._done += count
        rate = self._computed / max(now - self._began, 1e-9)
        if not self._console.is_terminal:
            # a shard begins by telling of no row; nothing can be said of what is left before there is one
            if self._computed and now - self._said >= SAY_EVERY and self._done < self._total:
                self._said = now
                left = (self._total - self._done) / rate / 60
                done = f"{self._name}: {self._done} of {self._total} {self._unit}"
                print(f"{done}, {rate:.1f} {self._unit}/s, about {left:.0f} min left", file=sys.stderr, flush=True)
        elif self._task is not None:
            self._bar.update(self._task, advance=count, rate=f"{rate:.1f} {self._unit}/s")

    def skipped(self, count: int) -> None:
        """So many rows were already there."""
        self._done += count
        if self._task is not None:
            self._bar.update(self._task, advance=count, rate="resumed")

    def finish(self) -> None:
        """The counted step ended."""
        self._end_task()

    def _end_task(self) -> None:
        if self._task is not None:
            self._bar.remove_task(self._task)
            self._task = None
