"""What the terminal shows: lines and tables of one look, and texts made safe for it."""

import unicodedata
from collections.abc import Collection, Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text


def say(*lines: str | Text, style: str = "") -> None:
    """Print lines, each whole however narrow the terminal is; nothing in them is markup."""
    console = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
    for line in lines:
        console.print(line, style=style)


def show_table(
    headings: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    title: str | None = None,
    caption: str | None = None,
    words: Collection[int] = (0,),
) -> None:
    """Print a table. Words fold where the terminal is narrow, figures are never cut; nothing in it is markup.

    Args:
        headings: One a column.
        rows: The cells of each row, from the left; the rest stays empty.
        title: Above it.
        caption: Below it.
        words: Numbers of the columns that hold words.
    """
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title=title, caption=caption)
    for number, heading in enumerate(headings):
        if number in words:
            table.add_column(heading, overflow="fold", min_width=len(heading))
        else:
            table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    Console(highlight=False, markup=False, emoji=False).print(table)


def figure(value: float | None, form: str = ".2f") -> str:
    """A figure, or a dash for None and NaN."""
    return "–" if value is None or value != value else f"{value:{form}}"


def interval(low: float | None, high: float | None, form: str = ".2f") -> str:
    """Both ends, or one dash for an interval that is not known."""
    return "–" if figure(low, form) == "–" else f"{figure(low, form)}–{figure(high, form)}"


def one_line(text: str) -> str:
    """A dataset's text as one line that cannot command the terminal: no line ends, no control characters."""
    return " ".join("".join(" " if _commands(c) else c for c in text).split())


def harmless(text: str) -> str:
    """A text as it is, lines and all, in which nothing can command the terminal."""
    return "".join("�" if _commands(c) and c not in "\n\t" else c for c in text)


def _commands(character: str) -> bool:
    """Whether a character can command a terminal: control characters, lone surrogates, marks that turn text around.

    Spaces and joiners of any language are text.
    """
    turns_around = "\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
    return unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") or character in turns_around


def shorten(text: str, room: int) -> str:
    """One line of at most ``room`` characters, an ellipsis at the end of what was cut."""
    line = one_line(text)
    return line if len(line) <= room else line[: room - 1] + "…"
