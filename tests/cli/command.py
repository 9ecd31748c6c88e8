"""Running the command line inside a test and judging what it says when it fails."""

from pathlib import Path

import click
import pytest
import typer

from ripcurrent.cli import app, run
from tests.golden.small import Said as Said


def commands() -> dict[str, click.Command]:
    """Every command and group by its words, the whole program by none."""
    found: dict[str, click.Command] = {}
    waiting: list[tuple[str, click.Command]] = [("", typer.main.get_command(app))]
    while waiting:
        words, command = waiting.pop()
        found[words] = command
        waiting += [(f"{words} {name}".strip(), inner) for name, inner in getattr(command, "commands", {}).items()]
    return found


class Command:
    """The command line with a tiny model, as a fixture gives it."""

    def __init__(self, capsys: pytest.CaptureFixture[str], model: Path, anchors: Path) -> None:
        self._capsys = capsys
        self._tiny = ["--model", str(model), "--device", "cpu", "--dtype", "float32"]
        self._anchors = ["--anchors", str(anchors), "--no-anchor-check"]

    def __call__(self, *arguments: object) -> Said:
        """Run exactly this."""
        self._capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        captured = self._capsys.readouterr()
        return Said(code, captured.out, captured.err)

    def scan(self, dataset: object, *arguments: object) -> Said:
        """``ripcurrent scan`` with the tiny model and the small anchor file; later options win."""
        return self("scan", dataset, *self._tiny, *self._anchors, *arguments)

    def scan_fails(self, dataset: object, *arguments: object, says: tuple[str, ...], code: int = 1) -> Said:
        """A scan that must fail with one clear message and nothing else."""
        said = self.scan(dataset, "--quiet", *arguments)
        judge(said, says, code)
        return said


def judge(said: Said, says: tuple[str, ...], code: int = 1) -> None:
    """One message with its hint on stderr, the exit code, no traceback, nothing on stdout."""
    assert said.code == code, said.err
    assert said.out == ""
    assert said.err.startswith("Error: ")
    assert sum(line.startswith("Error: ") for line in said.err.splitlines()) == 1
    assert "Traceback" not in said.err
    assert 2 <= len(said.err.strip().splitlines()) <= 3, f"a message and what to do now: {said.err}"
    for part in says:
        assert part in said.err
