"""What every command shares: one JSON object, or lines and tables, on stdout; errors and progress on stderr."""

import json
import os
import re
import shlex
import sys
import textwrap
import time
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from string import Formatter
from typing import Any

import typer
from rich import box, progress
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ripcurrent.errors import RipcurrentError
from ripcurrent.files import plain_numbers
from ripcurrent.progress import Progress, SilentProgress

SAY_FIRST, SAY_EVERY = 5.0, 30.0
"""Seconds to the first line of progress where there is no terminal, and between two of them."""

between_words = partial(textwrap.wrap, break_long_words=False, break_on_hyphens=False)


@dataclass(frozen=True, slots=True)
class Output:
    """How a command speaks; a parameter of this type gives a command ``--json`` and ``--quiet``."""

    json: bool
    quiet: bool

    def answer(self, to_json: Callable[[], Mapping[str, Any]]) -> bool:
        """Print the result as one JSON object where that is asked for; returns whether people are to be shown it."""
        if self.json:
            typer.echo(json.dumps(plain_numbers(to_json()), ensure_ascii=False))
        return not (self.json or self.quiet)

    @contextmanager
    def progress(self) -> Iterator[Progress]:
        """Progress on stderr, or none where the command is quiet."""
        if self.quiet:
            yield SilentProgress()
        else:
            shown = TerminalProgress()
            with nullcontext() if shown.bar.disable else shown.bar:
                yield shown

    def say_default_model(self, named: bool) -> None:
        """Say on stderr that the model is the demo's, unless one was named."""
        if not named and not self.quiet:
            typer.echo("The model is embedded, the demo's: name yours with --model.", err=True)


def print_error(error: RipcurrentError) -> None:
    """Print what is wrong and what to do now, on stderr."""
    hint = f"\n{error.hint}" if error.hint else ""
    console, said = Console(stderr=True), Text.assemble(("Error: ", "bold red"), error.message, hint)
    console.print(said, soft_wrap=not console.is_terminal)


def say(*lines: str | Text, style: str = "") -> None:
    """Print lines, in a terminal folded between words; nothing in them is markup."""
    console = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
    # what a program reads keeps its lines
    folded = console.is_terminal or "COLUMNS" in os.environ
    for line in lines:
        if folded and isinstance(line, str):
            deeper = " " * (len(line) - len(line.lstrip(" ")) + 2)
            parts = (between_words(one, console.width, subsequent_indent=deeper) for one in line.split("\n"))
            line = "\n".join("\n".join(part) for part in parts)
        console.print(line, style=style, soft_wrap=not folded or isinstance(line, str))


def say_commands(commands: Mapping[str, Sequence[str]]) -> None:
    """Print what to do next, each with its command: one line, or where it is longer several that a shell takes."""
    width, room = Console().width, max(map(len, commands)) + 4
    for purpose, words in commands.items():
        # a quoted word stays whole, and an option with its value
        parts = " ".join(shlex.quote(word).replace(" ", "\0") for word in words)
        lines = between_words(re.sub(r"(?<= )(--[a-z-]+) (?!-)", "\\1\0", parts), width - 6)
        fits = len(lines) == 1 and room + len(lines[0]) <= width
        text = f"{purpose:<{room - 2}}{lines[0]}" if fits else f"{purpose}\n    " + " \\\n    ".join(lines)
        print(f"  {text}".replace("\0", " "))


def show_table(
    layout: str,
    records: Iterable[object],
    *,
    title: str | None = None,
    caption: str | None = None,
    words: Collection[int] = (0,),
    under: str = "",
) -> None:
    """Print records as a table; nothing in it is markup.

    The layout names the columns, as in ``model {name} | answered {rate:.1%}``: each its heading, and from the brace on
    what `fill` makes of a record. ``words`` are columns that fold where the terminal is narrow; figures are never cut.
    Records that fill ``under`` alike stand together below that.
    """
    headings, cells = zip(*(re.split(r" ?(?=\{)", column, maxsplit=1) for column in layout.split(" | ")), strict=True)
    rows, group, console = list[list[str]](), "", Console(highlight=False, markup=False, emoji=False)
    for record in records:
        if (own := fill(under, record)) != group:
            rows.append([group := own])
        first, *rest = (fill(cell, record) for cell in cells)
        rows.append([f"  {first}" if group else first, *rest])
    for fold in (False, True):
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title=title, caption=caption)
        for number, heading in enumerate(headings):
            if number in words:
                table.add_column(heading, overflow="fold", min_width=len(heading))
            else:
                table.add_column(heading, justify="right", no_wrap=True)
        for row in rows:
            # in a narrow terminal a long name folds where it has an underscore
            table.add_row(*(re.sub(r"(\w{6,14}_)(?=\w{4})", "\\1\n", cell) if fold else cell for cell in row))
        if Console(width=1000).measure(table).maximum <= console.width:
            break
    console.print(table)


def fill(template: str, record: object) -> str:
    """A template such as ``{name}: {rate.low:.1%}`` with a record's fields or keys; a dash for None and NaN."""
    # an interval that is not known is one dash
    return _Fields().vformat(template, (record,), {}).replace("–––", "–")


class _Fields(Formatter):
    def get_field(self, field_name: str, args: Any, kwargs: Any) -> Any:
        value = args[0]
        for part in field_name.split("."):
            if value is not None:
                value = value[part] if isinstance(value, dict) else getattr(value, part)
        return value, field_name

    def format_field(self, value: Any, format_spec: str) -> str:
        if isinstance(value, list | tuple):
            return " ".join(self.format_field(one, format_spec) for one in value)
        return "–" if value is None or value != value else format(value, format_spec)


def harmless(text: str, mark: str = "�") -> str:
    """A text, lines and all, in which nothing can command the terminal: marks stand for control characters and others.

    Spaces and joiners of any language are text; marks that turn it around and lone surrogates are not.
    """
    turns_around = "\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
    return "".join(
        mark if c not in "\n\t" and (unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") or c in turns_around) else c
        for c in text
    )


def shorten(text: str, room: int) -> str:
    """A text as one harmless line of at most ``room`` characters, an ellipsis at the end of what was cut."""
    line = " ".join(harmless(text, " ").split())
    # between words, but for one that is very long
    end = line.rfind(" ", room // 2, room)
    return line if len(line) <= room else line[: room - 1 if end < 0 else end] + "…"


class TerminalProgress(Progress):
    """Progress on stderr: a bar with rate and time left where there is a terminal, now and then a line elsewhere."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._terminal = console.is_terminal
        # its own time left is known late, and counts rows that were there before
        columns = ("{task.description}", progress.BarColumn(20), "{task.fields[left]}")
        self.bar = progress.Progress(
            progress.SpinnerColumn(), *columns, console=console, transient=True, disable=not self._terminal
        )
        self._unit, self._computed, self._began, self._said = "rows", 0.0, 0.0, 0.0

    def step(self, name: str) -> None:
        self._begin(name, f"{name} …")

    def start(self, name: str, total: int, unit: str = "rows") -> None:
        self._unit, self._computed, self._began = unit, 0.0, time.perf_counter()
        self._said = self._began - SAY_EVERY + SAY_FIRST
        self._begin(name, f"{name}: {total} {unit} …", total)

    def rows(self, count: float) -> None:
        now = time.perf_counter()
        self._computed += count
        for task in self.bar.tasks:
            self.bar.update(task.id, advance=count)
            # a shard begins with no row; nothing can be said of what is left before there is one
            if self._computed and task.remaining is not None:
                rate = self._computed / max(now - self._began, 1e-9)
                left = f"{rate:.1f} {self._unit}/s, {duration(task.remaining / rate)} left"
                self.bar.update(task.id, left=f"{task.completed:.0f}/{task.total:.0f}, {left}")
                if task.remaining and now - self._said >= SAY_EVERY:
                    self._said = now
                    self._print(f"{task.description}: {task.completed:.0f} of {task.total:.0f} {self._unit}, {left}")

    def skipped(self, count: int) -> None:
        for task in self.bar.task_ids:
            self.bar.update(task, advance=count)

    def finish(self) -> None:
        for task in self.bar.task_ids:
            self.bar.remove_task(task)

    def _begin(self, name: str, line: str, total: int | None = None) -> None:
        self.finish()
        self.bar.add_task(name, total=total, left=f"0/{total}, measuring the time left" if total else "")
        self._print(line)

    def _print(self, line: str) -> None:
        if not self._terminal:
            print(line, file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
