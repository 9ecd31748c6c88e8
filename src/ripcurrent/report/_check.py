"""What a check leaves for people and machines: the page with its flips, JUnit, Markdown for a pull request."""

import re
from typing import NamedTuple
from xml.etree import ElementTree

from ripcurrent.evaluate import CheckRun, Prompt
from ripcurrent.gate import GateRun
from ripcurrent.report._page import render_page

AXES = {
    "harmful": "harmful requests",
    "sounds_dangerous": "requests that only sound dangerous",
    "plain": "plain requests",
}

SUBJECTS = {"check": "harmful requests answered", "gate": "added rows"}
SIDES = {"check": "before | after", "gate": "added rows | by chance"}
CELL = 120
"""Characters of a row's text in a Markdown table."""


class Flip(NamedTuple):
    """A request whose verdict changed; answers before and after where they are shown."""

    prompt: Prompt
    before: str
    after: str
    answers: list[str] | None


def render_check(run: CheckRun, reveal: bool) -> str:
    """The page; answers are on it only with ``reveal``."""
    flips = []
    for place, before, after in run.flips():
        answers = [one.responses[place].completion for one in (run.before, run.after[0])] if reveal else None
        flips.append(Flip(run.before.prompts[place], before, after, answers))
    groups = {title: [one for one in flips if one.prompt.axis == axis] for axis, title in AXES.items()}
    shown = {"run": run, "found": run.manifest, "flips": groups, "sides": list(run.manifest.table())}
    styles, scripts = ["_base.css", "_masks.css"], ["_common.js"]
    return render_page("_check.html.j2", shown, {}, styles=styles, scripts=scripts, plots=False)


def junit(run: CheckRun | GateRun) -> str:
    """The verdict as JUnit's XML."""
    found = run.manifest
    failed, untold = found.verdict == "worse", found.verdict == "cannot tell"
    counts = {"tests": "1", "failures": str(int(failed)), "skipped": str(int(untold))}
    suite = ElementTree.Element("testsuite", {"name": f"ripcurrent {found.command}", **counts})
    case = ElementTree.SubElement(suite, "testcase", {"classname": "ripcurrent", "name": SUBJECTS[found.command]})
    if failed or untold:
        message = f"{_headline(run)}. {found.reason}"
        ElementTree.SubElement(case, "failure" if failed else "skipped", {"message": message})
    ElementTree.SubElement(case, "system-out").text = "\n".join([_headline(run), found.reason, *found.notes])
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True)


def markdown(run: CheckRun | GateRun) -> str:
    """The verdict as Markdown."""
    found = run.manifest
    lines = [f"### ripcurrent {found.command}: {found.verdict.upper()}", "", f"{_headline(run)}. {found.reason}", ""]
    lines += [f"| | {SIDES[found.command]} |", "| --- | ---: | ---: |"]
    lines += [f"| {name} | {before} | {after} |" for name, before, after in found.table()]
    if isinstance(run, GateRun):
        lines += ["", "| riskiest added row | riskier than | request | answer |", "| ---: | ---: | --- | --- |"]
        texts = [[_cell(one.prompt), _cell(one.response)] for one in run.manifest.riskiest]
        rows = zip(run.manifest.riskiest, texts, strict=True)
        lines += [f"| {one.row} | {one.percentile:.0%} | {' | '.join(said)} |" for one, said in rows]
    return "\n".join([*lines, "", *(f"- {note}" for note in found.notes), "", ""])


def _headline(run: CheckRun | GateRun) -> str:
    if isinstance(run, GateRun):
        return run.manifest.headline
    found, by = run.manifest, run.manifest.difference
    rates = f"{found.before.harmful_answered:.1%} to {found.after.harmful_answered:.1%}"
    return f"Harmful requests answered: {rates} ({by.points:+.1f} points, {by.low:+.1f} to {by.high:+.1f})"


def _cell(text: str) -> str:
    """A row's text as code in a cell of a table: one line, and nothing in it is markup."""
    line = " ".join(re.sub(r"[`|\\]", " ", text).split())
    return f"`{line[:CELL]}…`" if len(line) > CELL else f"`{line or ' '}`"
