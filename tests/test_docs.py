"""What the documents say of names is what the code has: options, columns, statuses, formats, links, experiments."""

import re
from pathlib import Path
from typing import get_args

import pytest

from ripcurrent.data import FORMAT_NAMES, RowStatus
from ripcurrent.experiment import ready_experiments
from ripcurrent.scan import COLUMNS
from tests.cli.command import commands

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [*ROOT.glob("*.md"), *(path for name in ("docs", "scripts", "research") for path in (ROOT / name).rglob("*.md"))]
)
HISTORY = {ROOT / "CHANGELOG.md", *(ROOT / "research").rglob("*.md")}
"""Pages that name options which are gone."""


def first_cells(page: str, heading: str) -> list[str]:
    """The first column of the first table after a heading."""
    text = (ROOT / page).read_text(encoding="utf-8")
    table = text[text.index(heading) :].split("\n|", 1)[1].split("\n\n", 1)[0]
    return [line.split("|")[1].strip().strip("`") for line in table.splitlines()[2:]]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_somewhere(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if target.startswith("http"):
            continue
        file, _, heading = target.partition("#")
        page = path.parent / file if file else path
        assert page.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.M)
            assert heading in {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}, target


@pytest.mark.parametrize("path", [path for path in PAGES if path not in HISTORY], ids=lambda path: path.name)
def test_every_command_line_that_is_shown_is_possible(path):
    options = {
        words: {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
        for words, command in commands().items()
    }
    blocks = re.findall(r"```.*?```", path.read_text(encoding="utf-8").replace("\\\n", " "), flags=re.S)
    for line in re.findall(r"(?m)^(?:\$ |torchrun .*)?ripcurrent ([^\n#]*)", "\n".join(blocks)):
        words = line.split()
        command = next((" ".join(words[:n]) for n in (2, 1) if " ".join(words[:n]) in options), None)
        assert command is not None, line
        assert set(re.findall(r"(?<!\S)--?[a-z][a-z-]*", line)) <= options[command], line


def test_the_tables_of_columns_statuses_formats_and_experiments_are_the_codes():
    rows = [f"| `{one.name}` | {one.kind} | {one.direction_of_risk or ''} | {one.meaning} |" for one in COLUMNS]
    assert "\n".join(rows) in (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    statuses = [*get_args(RowStatus), "token_not_embedded", "dropped_refusal"]
    assert first_cells("docs/methods.md", "### Statuses") == statuses
    assert first_cells("docs/data.md", "## Row formats") == list(FORMAT_NAMES)
    named = {name for cell in first_cells("docs/experiment.md", "## Ready") for name in re.findall(r"\w+", cell)}
    assert named == set(ready_experiments())


def test_the_pictures_are_of_the_stored_numbers():
    from scripts.pictures import IMAGES, concepts, result

    assert (IMAGES / "result.svg").read_text(encoding="utf-8") == result()
    assert (IMAGES / "concepts.svg").read_text(encoding="utf-8") == concepts()
