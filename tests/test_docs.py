"""What the documents say of names is what the code has: options, columns, statuses, formats, quirks, links."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import click
import pytest
import typer

from ripcurrent.cli import app
from ripcurrent.data import FORMAT_NAMES, RowStatus
from ripcurrent.scan._columns import COLUMNS
from ripcurrent.scan._options import ScanOptions

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
FOREIGN = {"--no-deps", "--strict", "--strength", "--array", "--gpus", "--nproc-per-node", "--no-python"}
"""Options of pip, of mypy, of the guard's training script, of SLURM and of torchrun."""


def options_by_command() -> dict[str, set[str]]:
    """Long options of every command, by its words; of a group, those of its commands too."""
    found: dict[str, set[str]] = {}
    waiting: list[tuple[str, click.Command]] = [("", typer.main.get_command(app))]
    while waiting:
        words, command = waiting.pop()
        found[words] = {name for parameter in command.params for name in parameter.opts if name.startswith("--")}
        waiting += [(f"{words} {name}".strip(), inner) for name, inner in getattr(command, "commands", {}).items()]
    return found


def bench_options() -> set[str]:
    """Options of the measurements, which are no part of the command line."""
    scripts = (path.read_text(encoding="utf-8") for path in (ROOT / "bench").rglob("*.py"))
    return {name for text in scripts for name in re.findall(r'add_argument\(\s*"(--[a-z-]+)"', text)}


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def first_cells(text: str, heading: str) -> list[str]:
    """The first column of the first table after a heading."""
    table = text[text.index(heading) :].split("\n|", 1)[1].split("\n\n", 1)[0]
    cells = [line.split("|")[1 if line.startswith("|") else 0].strip() for line in table.splitlines()]
    return [cell.strip("`") for cell in cells[2:]]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_option_that_is_named_exists(path: Path) -> None:
    known = set().union(*options_by_command().values()) | FOREIGN | {"--help"} | bench_options()
    written = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*[a-z]", path.read_text(encoding="utf-8")))
    assert written <= known


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_line_that_is_shown_has_its_options(path: Path) -> None:
    options = options_by_command()
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    for prompt, line in re.findall(r"(\$ )?\bripcurrent ([^\n`#]*)", text):
        words = line.split()
        command = next((" ".join(words[:n]) for n in (2, 1) if " ".join(words[:n]) in options), None)
        # in a sentence the name may stand alone, or before a word that is no command
        assert command is not None or not prompt or words[:1] in ([], ["--version"], ["--help"]), line
        if command is not None:
            assert set(re.findall(r"--[a-z-]+", line)) <= options[command] | {"--help"}, line


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if not target.startswith(("http", "#")):
            assert (path.parent / target.partition("#")[0]).exists(), target


def test_the_table_of_columns_is_the_codes() -> None:
    rows = [
        f"| `{column.name}` | {column.kind} | {column.direction_of_risk or ''} | {column.meaning} |"
        for column in COLUMNS
    ]
    assert "\n".join(rows) in page("docs/methods.md")


def test_the_table_of_statuses_is_the_codes() -> None:
    # The room's constants are imported here, as it loads torch.
    from ripcurrent.scan._signal_stage import DROPPED, NOT_EMBEDDED

    assert first_cells(page("docs/methods.md"), "### Statuses") == [*get_args(RowStatus), NOT_EMBEDDED, DROPPED]


def test_the_table_of_formats_is_the_codes_and_in_its_order() -> None:
    assert first_cells(page("docs/data.md"), "## Row formats") == list(FORMAT_NAMES)


def test_the_table_of_quirks_is_the_released_presets() -> None:
    named = first_cells(page("docs/methods.md"), "### Presets")
    quirks = ScanOptions(preset="released").quirks
    written = {name if value is True else f"{name}: {value}" for name, value in quirks.items()}
    assert set(named) == written
