"""Write docs/cli.md from the commands themselves: ``python -m scripts.cli_docs``."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from ripcurrent.cli import SETTABLE, app

TARGET = Path(__file__).parents[1] / "docs" / "cli.md"

HEAD = """# Commands

Made by `python -m scripts.cli_docs`: change the help in the code, not here.

Exit codes of every command: 0 done, 1 a mistake in usage or input, 2 nothing could be measured, 3 worse or over the
bound, 4 not enough evidence, 130 stopped. A stopped command continues when it is given again.
"""


def commands(group: Any, prefix: str = "ripcurrent") -> Iterator[tuple[str, Any]]:
    for name, one in sorted(group.commands.items()):
        if getattr(one, "commands", None):
            yield from commands(one, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}", one


def text(value: object) -> str:
    return " ".join(str(value or "").split()).replace("|", "\\|")


def option_row(parameter: Any) -> str:
    names = ", ".join(f"`{one}`" for one in [*parameter.opts, *parameter.secondary_opts])
    if parameter.param_type_name == "argument":
        names = f"`{parameter.metavar or parameter.name.upper()}`"
    takes = "" if getattr(parameter, "is_flag", False) else f"`{text(parameter.metavar)}`" if parameter.metavar else ""
    default = parameter.default
    shown = "" if default in (None, False, ()) or callable(default) else f"`{text(default)}`"
    return f"| {names} | {takes} | {text(parameter.help)} | {shown} |"


def section(name: str, one: Any) -> str:
    lines = [f"## {name}", "", inspect.cleandoc(one.help or ""), "", "| option | takes | meaning | default |"]
    lines.append("|---|---|---|---|")
    lines += [option_row(parameter) for parameter in one.params if parameter.name != "help" and not parameter.hidden]
    if settable := SETTABLE.get(name.removeprefix("ripcurrent ")):
        lines += ["", "By `--set NAME=VALUE`:", "", "| name | meaning | default |", "|---|---|---|"]
        for key, model in settable.items():
            field = model.model_fields[key]
            about = text(field.description).replace("``", "`")
            lines.append(f"| `{key}` | {about} | `{text(field.default)}` |")
    return "\n".join(lines)


def document() -> str:
    root = typer.main.get_command(app)
    return HEAD + "\n" + "\n\n".join(section(name, one) for name, one in commands(root)) + "\n"


if __name__ == "__main__":
    TARGET.write_text(document(), encoding="utf-8")
