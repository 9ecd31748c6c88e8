"""The command line: parses, calls ``api``, prints. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import io
import os
import sys
from typing import cast

import typer

from ripcurrent.cli._anchors import anchors_app
from ripcurrent.cli._calibrate import calibrate_command
from ripcurrent.cli._demo import demo_command
from ripcurrent.cli._doctor import doctor_command
from ripcurrent.cli._evaluate import evaluate_command
from ripcurrent.cli._experiment import experiment_command
from ripcurrent.cli._finetune import register as register_finetune
from ripcurrent.cli._judges import judges_app
from ripcurrent.cli._people import agree_command, rate_command
from ripcurrent.cli._report import report_command
from ripcurrent.cli._scan import scan_command
from ripcurrent.cli._select import register as register_select
from ripcurrent.errors import ExitCode, RipcurrentError

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""

# Newer versions of typer carry their own copy of click, older ones use the package: this is the base class in either.
CommandLineError = cast(type[typer.BadParameter], typer.BadParameter.__mro__[2])

app = typer.Typer(
    name="ripcurrent",
    help="Find the calm-looking rows of a fine-tuning set that carry a chat model's safety out.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("scan")(scan_command)
register_select(app)
register_finetune(app)
app.command("evaluate")(evaluate_command)
app.command("experiment")(experiment_command)
app.command("calibrate")(calibrate_command)
app.command("report")(report_command)
app.add_typer(anchors_app, name="anchors")
judges_app.command("rate")(rate_command)
judges_app.command("agree")(agree_command)
app.add_typer(judges_app, name="judges")
app.command("doctor")(doctor_command)
app.command("demo")(demo_command)


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", help="Print the version and exit."),
) -> None:
    """Find the calm-looking rows of a fine-tuning set that carry a chat model's safety out."""
    if version:
        from importlib.metadata import version as installed

        typer.echo(f"ripcurrent {installed('ripcurrent')}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(int(ExitCode.USAGE))


def main() -> None:
    """Run the command line and exit with a documented code; no traceback for anything a user can mend."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command; returns its exit code: 0 ok, 1 usage or input, 2 not measured, 3 gate failed, 4 no evidence."""
    from ripcurrent.cli._output import print_error

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # a terminal or pipe that knows few characters shows a mark for the others
            stream.reconfigure(errors="replace")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        code = app(args=arguments, standalone_mode=False)
    except RipcurrentError as error:
        print_error(error)
        return int(error.code)
    except CommandLineError as error:
        print_error(RipcurrentError(error.format_message(), "See --help."))
        return int(ExitCode.USAGE)
    except (typer.Abort, KeyboardInterrupt):
        code = INTERRUPTED
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print_error(
            RipcurrentError(f"{where}{error.strerror or error}.", "Check the path, its permissions and the space left.")
        )
        return int(ExitCode.USAGE)
    except (RuntimeError, MemoryError) as error:
        from ripcurrent.models import first_line, is_out_of_memory

        if not is_out_of_memory(error):
            raise
        print_error(
            RipcurrentError(
                f"Memory ran out: {first_line(error)}.",
                "What was finished is kept: scan goes on from there with --memory, evaluate with a smaller "
                "--batch-size. --token-budget, --dtype or --device make another run. docs/memory.md says more.",
            )
        )
        return int(ExitCode.NOT_MEASURED)
    if code == INTERRUPTED:
        print_error(RipcurrentError("Stopped.", "What was finished is kept: give the same command again to go on."))
    return code if isinstance(code, int) else int(ExitCode.OK)
