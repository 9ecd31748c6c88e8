"""Write docs/cli.md from the commands themselves: ``python -m scripts.cli_docs``."""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from ripcurrent.cli import app

TARGET = Path(__file__).parents[1] / "docs" / "cli.md"

HEAD = """# Commands

Made by `python -m scripts.cli_docs`: change the help in the code, not here.

Exit codes of every command: 0 done, 1 a mistake in usage or input, 2 nothing could be measured, 3 a gate
failed, 4 not enough evidence, 130 stopped. A stopped command continues when it is given again.
Every command takes `--json` and `--quiet`. Where they make sense: `--out`, `--model`, `--adapter`, `--device`,
`--dtype`, `--limit`, `--seed`, and for rows `--format`, `--map`, `--spec`.
"""
SHARED = set(re.findall(r"`--(?!json|quiet)[a-z]+`", HEAD))


def commands(group: Any, prefix: str = "ripcurrent") -> Iterator[tuple[str, Any]]:
    for name, one in sorted(group.commands.items()):
        if getattr(one, "commands", None):
            yield from commands(one, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}", one


def text(value: object) -> str:
    if isinstance(value, list | tuple):
        value = ", ".join(map(str, value))
    return "" if value is None else " ".join(str(value).split())


def option_row(parameter: Any) -> tuple[str, str]:
    names = ", ".join(f"`{one}`" for one in [*parameter.opts, *parameter.secondary_opts])
    if parameter.param_type_name == "argument":
        names = f"`{text(parameter.metavar or parameter.name.upper())}`"
    kinds = (parameter.metavar or "").split("|")
    choices = (
        f" One of {', '.join(f'`{one}`' for one in kinds)}." if len(kinds) > 1 and all(map(str.islower, kinds)) else ""
    )
    default = parameter.default
    shown = "" if default in (None, False, ()) or callable(default) else f" Default: `{text(default)}`."
    return names, text(parameter.help) + choices + shown


def rows_of(one: Any) -> list[tuple[str, str]]:
    return [option_row(each) for each in one.params if each.name != "help"]


def listed(rows: list[tuple[str, str]]) -> str:
    return "\n".join(f"- {names}: {about}" for names, about in rows)


def document() -> str:
    every = list(commands(typer.main.get_command(app)))
    counts = Counter(row for name, one in every for row in rows_of(one))
    parts = [HEAD, "## Options of several commands", listed(sorted(row for row in counts if counts[row] > 1))]
    for name, one in every:
        rows = rows_of(one)
        several = (names.split(", ")[-1] for names, about in rows if 1 < counts[names, about] < len(every))
        common = ", ".join(name for name in several if name.startswith("`--") and name not in SHARED)
        parts += [f"## {name}", one.help]
        if own := [row for row in rows if counts[row] == 1]:
            parts.append(listed(own))
        parts += [f"Also: {common}."] * bool(common)
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    TARGET.write_text(document(), encoding="utf-8")
