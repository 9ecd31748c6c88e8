"""The command line: parses, calls a verb, prints. Nothing heavy is imported before a command runs."""

import io
import os
import sys
from importlib import import_module
from typing import cast

import typer

from ripcurrent.cli._command import app, show_help
from ripcurrent.cli._output import print_error
from ripcurrent.errors import ExitCode, RipcurrentError

INTERRUPTED = 130  # after Ctrl-C, as shells have it

# Newer versions of typer carry their own copy of click, older ones use the package: this is the base class in either.
CommandLineError = cast(type[typer.BadParameter], typer.BadParameter.__mro__[2])

__all__ = ["app", "main", "run"]

# in the order of the help
VERBS = (
    "demo",
    "check",
    "scan",
    "gate",
    "doctor",
    "select",
    "view",
    "finetune",
    "evaluate",
    "experiment",
    "calibrate",
    "judges",
    "anchors",
)
for name in VERBS:
    import_module(f"ripcurrent.cli._{name}")


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context, version: bool = typer.Option(False, "--version", help="Print the version and exit.")
) -> None:
    if version:
        from importlib.metadata import version as installed

        typer.echo(f"ripcurrent {installed('ripcurrent')}")
        raise typer.Exit
    show_help(context)


def main() -> None:
    """Run the command line and exit with a documented code."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command; returns its exit code: 0 ok, 1 usage or input, 2 not measured, 3 gate failed, 4 no evidence."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # a terminal or pipe that knows few characters shows a mark for the others
            stream.reconfigure(errors="replace")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        code = app(args=arguments, standalone_mode=False)
    except RipcurrentError as error:
        return _failed(error)
    except CommandLineError as error:
        return _failed(RipcurrentError(error.format_message(), "See --help."))
    except (typer.Abort, KeyboardInterrupt):
        code = INTERRUPTED
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        message = f"{where}{error.strerror or error}."
        return _failed(RipcurrentError(message, "Check the path, its permissions and the space left."))
    except (RuntimeError, MemoryError) as error:
        from ripcurrent.models import first_line, is_out_of_memory

        if not is_out_of_memory(error):
            raise
        hint = "What was finished is kept: scan goes on with --memory, evaluate with a smaller --batch-size. "
        hint += "finetune takes a larger accumulation. --token-budget, --dtype or --device make another run."
        message = f"Memory ran out: {first_line(error)}."
        return _failed(RipcurrentError(message, hint, code=ExitCode.NOT_MEASURED))
    if code == INTERRUPTED:
        print_error(RipcurrentError("Stopped.", "What was finished is kept: give the same command again to go on."))
    return code if isinstance(code, int) else int(ExitCode.OK)


def _failed(error: RipcurrentError) -> int:
    print_error(error)
    return int(error.code)
