"""Commands made from functions and pydantic models: each option is declared once, as a field or as a parameter."""

import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from functools import partial, wraps
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from pydantic.fields import FieldInfo
from typer.models import OptionInfo

from ripcurrent.cli._output import Output
from ripcurrent.errors import ExitCode
from ripcurrent.options import Options, flag

SHORT = {"model": "-m", "out": "-o", "limit": "-n", "quiet": "-q", "verbose": "-v"}  # the same in every command
ADVANCED = "Advanced"  # panel of the options that are not in sight at first
METAVARS: dict[object, str] = {int: "N", float: "X", Path: "PATH", dict: "FIELD=COLUMN"}
"""What stands for a value in the help, by its type; TEXT for others."""


def show_help(context: typer.Context) -> None:
    """Print the help of a group of commands where none of them is named."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(int(ExitCode.USAGE))


app = typer.Typer(
    name="ripcurrent",
    help="Score the rows of a fine-tuning set by how far they weaken a chat model's safety.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def group(name: str, about: str) -> typer.Typer:
    """A group of commands."""
    made = typer.Typer(help=about, callback=show_help, invoke_without_command=True)
    app.add_typer(made, name=name)
    return made


def argument(metavar: str, about: str) -> Any:
    """A parameter of a command that is given without a flag."""
    return typer.Argument(metavar=metavar, help=about)


def option(about: str, metavar: str | None = None, **rules: Any) -> Any:
    """A parameter of a command that is an option; its flags are its name."""
    return typer.Option(help=about, metavar=metavar, **rules)


def command(
    name: str,
    panels: Mapping[str, Sequence[str]] | None = None,
    examples: Sequence[str] = (),
    without: Sequence[str] = (),
    of: typer.Typer = app,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a function as a command, with its docstring as the help and ``examples`` below it.

    A parameter annotated with an `Options` model becomes one option for each field but those ``without`` meaning to the
    command; the function gets the validated model. ``panels`` are titles to the options in them, fields and parameters
    alike: a parameter in none stands first, a field in none is only listed below the help.
    """

    def register(function: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(function, eval_str=True)
        panel_of = {one: title for title, options in (panels or {}).items() for one in options}
        further: list[str] = []
        parameters: list[inspect.Parameter] = []
        makes: dict[str, Callable[[Mapping[str, Any]], object]] = {}
        for key, parameter in signature.parameters.items():
            kind = parameter.annotation
            if kind is Output:
                parameters.append(_keyword("json", bool, option("Print one JSON object."), False))
                parameters.append(_keyword("quiet", bool, option("Print only errors."), False))
                makes[key] = _output
            elif isinstance(kind, type) and issubclass(kind, Options):
                fields = {key: field for key, field in kind.model_fields.items() if key not in without}
                parameters += [_field(key, field, panel_of.get(key)) for key, field in fields.items()]
                further += [flag(key) for key in fields if key not in panel_of]
                makes[key] = partial(_filled, kind, fields)
            else:
                plain, how = get_args(kind)
                how.rich_help_panel = panel_of.get(key)
                parameters.append(_keyword(key, plain, how, parameter.default))
                makes[key] = itemgetter(key)
        order = list(panels or {})
        parameters.sort(key=lambda one: order.index(panel_of[one.name]) if one.name in panel_of else -1)

        @wraps(function)
        def run(**given: Any) -> None:
            function(**{key: make(given) for key, make in makes.items()})

        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        # each paragraph is one line: typer keeps line ends within one
        about = [" ".join(paragraph.split()) for paragraph in (inspect.getdoc(function) or "").split("\n\n")]
        epilog = [f"Further options, which docs/cli.md explains: {', '.join(further)}."] if further else []
        epilog += ["Examples:", *examples] if examples else []
        of.command(name, help="\n\n".join(about), epilog="\n\n".join(epilog))(run)
        return function

    return register


def _output(given: Mapping[str, Any]) -> Output:
    return Output(given["json"], given["quiet"])


def _keyword(name: str, kind: object, how: Any, default: object = None) -> inspect.Parameter:
    if isinstance(how, OptionInfo):
        # without them typer adds a --no- to a switch
        how.param_decls = how.param_decls or (*([SHORT[name]] if name in SHORT else []), flag(name))
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, how])


def _field(name: str, field: FieldInfo, panel: str | None) -> inspect.Parameter:
    """The command-line option of a field. Values stay text, so that every error is the model's."""
    extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    kind, default = _plain_type(field.annotation), field.default
    of = get_origin(kind)
    how = option(" ".join((field.description or "").replace("`", "").split()), hidden=panel is None)
    how.rich_help_panel = panel
    if "flag" in extra:
        how.param_decls = (extra["flag"],)
    if kind is bool:
        if default is True:
            how.param_decls, how.help = (flag(f"no_{name}"),), extra["off"]
        return _keyword(name, bool, how, False)
    if many := of in (tuple, list, dict):
        how.help += " Repeatable."
    # said here and not declared, so that what is not named is None
    if (shown := ", ".join(map(str, default)) if isinstance(default, tuple) else default) not in (None, ""):
        how.help += f" Default: {shown}."
    values = "|".join(map(str, get_args(kind))) if of is Literal else METAVARS.get(of or kind, "TEXT")
    how.metavar = str(extra.get("metavar", values))
    return _keyword(name, list[str] | None if many else str | None, how)


def _filled(model: type[Options], fields: Mapping[str, FieldInfo], given: Mapping[str, Any]) -> Options:
    """The model with what the user named; what was left out keeps the model's default."""
    from ripcurrent.data import parse_mapping

    changes: dict[str, object] = {}
    for name, field in fields.items():
        kind, value = _plain_type(field.annotation), given.get(name)
        if value not in (None, False, []):
            if get_origin(kind) is dict:
                value = parse_mapping(value)
            changes[name] = not field.default if kind is bool else value
    return model.resolve(None, changes)


def _plain_type(annotation: object) -> object:
    """The type without ``None``; of several, the first."""
    if get_origin(annotation) in (typing.Union, types.UnionType):
        return next(one for one in get_args(annotation) if one is not type(None))
    return annotation
