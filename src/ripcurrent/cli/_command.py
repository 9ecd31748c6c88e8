"""Commands made from functions and pydantic models: each option is declared once, as a field of its model."""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Literal, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from ripcurrent.errors import RipcurrentError
from ripcurrent.options import Options, did_you_mean, flag

SHORT = {"model": "-m", "out": "-o", "limit": "-n", "quiet": "-q"}
"""Short flags, the same in every command."""
ADVANCED = "Advanced"
"""Panel of the options that are not in sight at first."""

SETTABLE: dict[str, dict[str, type[Options]]] = {}
"""By command, the options that ``--set`` reaches, with the model of each."""

METAVARS: dict[object, str] = {int: "N", float: "X", str: "TEXT", Path: "PATH", bool: ""}


@dataclass(frozen=True, slots=True)
class Output:
    """How a command speaks; a parameter of this type gives a command ``--json`` and ``--quiet``."""

    json: bool = False
    quiet: bool = False


def group(app: typer.Typer, name: str, about: str) -> typer.Typer:
    """A group of commands, which prints its help where none of them is named."""
    made = typer.Typer(help=about)

    @made.callback(invoke_without_command=True)
    def root(context: typer.Context) -> None:
        if context.invoked_subcommand is None:
            typer.echo(context.get_help(), err=True)
            raise typer.Exit(1)

    root.__doc__ = about
    app.add_typer(made, name=name)
    return made


def command(
    app: typer.Typer,
    name: str,
    panels: Mapping[str, Sequence[str]] | None = None,
    examples: Sequence[str] = (),
    without: Sequence[str] = (),
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a function as a command.

    A parameter annotated with an `Options` model becomes one option for each field that ``panels`` names. The other
    fields are reached by ``--set NAME=VALUE``. The function gets the validated model.

    Args:
        app: Where the command is registered.
        name: What the user types.
        panels: Panel title to the options in it, fields and parameters alike; parameters it does not name stand first.
        examples: Command lines shown below the help.
        without: Fields that mean nothing to the command.
    """

    def register(function: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(function, eval_str=True)
        panel_of = {option: title for title, options in (panels or {}).items() for option in options}
        models: dict[str, type[Options]] = {}
        parameters: list[inspect.Parameter] = [_keyword("context", typer.Context, inspect.Parameter.empty)]
        for parameter in signature.parameters.values():
            annotation = parameter.annotation
            if annotation is typer.Context:
                continue
            if annotation is Output:
                parameters += [
                    _keyword("json", Annotated[bool, typer.Option("--json", help="Print one JSON object.")], False),
                    _keyword("quiet", Annotated[bool, typer.Option("-q", "--quiet", help="Print only errors.")], False),
                ]
            elif isinstance(annotation, type) and issubclass(annotation, Options):
                models[parameter.name] = annotation
                fields = annotation.model_fields.items()
                parameters += [_option(key, field, panel_of[key]) for key, field in fields if key in panel_of]
            else:
                parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
        offered = {key: model for model in models.values() for key in model.model_fields if key not in without}
        if settable := {key: model for key, model in offered.items() if key not in panel_of}:
            parameters.append(_set_option(settable))
            SETTABLE[name] = settable

        order = list(panels or {})
        parameters.sort(key=lambda one: order.index(panel) if (panel := _panel(one)) in order else -1)

        @wraps(function)
        def run(**given: object) -> None:
            context = typing.cast("typer.Context", given["context"])
            named = {key: value for key, value in given.items() if _was_named(context, key)}
            settings = dict(_settings(typing.cast("Sequence[str]", given.get("set") or ()), settable))
            arguments: dict[str, object] = {}
            for parameter in signature.parameters.values():
                if parameter.name in models:
                    arguments[parameter.name] = _filled(models[parameter.name], named, settings)
                elif parameter.annotation is Output:
                    arguments[parameter.name] = Output(bool(given["json"]), bool(given["quiet"]))
                else:
                    arguments[parameter.name] = given[parameter.name]
            function(**arguments)

        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        # each paragraph is one line: typer keeps line ends within one
        epilog = "\n\n".join(["Examples:", *examples]) if examples else None
        app.command(name, epilog=epilog)(run)
        return function

    return register


def _panel(parameter: inspect.Parameter) -> str:
    about = getattr(parameter.annotation, "__metadata__", (None,))[0]
    return getattr(about, "rich_help_panel", None) or ""


def _keyword(name: str, annotation: object, default: object) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _option(name: str, field: FieldInfo, panel: str) -> inspect.Parameter:
    """The command-line option of a field. Values stay text, so that every error is the model's."""
    extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    names = [SHORT[name]] if name in SHORT else []
    names.append(str(extra.get("flag", flag(name))))
    kind = _plain_type(field.annotation)
    about = " ".join((field.description or "").replace("``", "").replace("`", "").split())
    metavar = str(extra["metavar"]) if "metavar" in extra else _metavar(kind)
    if kind is bool:
        if field.default is True:
            names, about = [flag(f"no_{name}")], str(extra.get("off", f"Do not: {about}"))
        shown = typer.Option(*names, help=about, rich_help_panel=panel)
        return _keyword(name, Annotated[bool, shown], False)
    default = None if field.default is None or field.is_required() else field.default
    if get_origin(kind) in (tuple, list, dict):
        shown = typer.Option(*names, help=f"{about} Repeatable.", metavar=metavar, rich_help_panel=panel)
        many = [str(one) for one in default] if isinstance(default, tuple | list) and default else None
        return _keyword(name, Annotated[list[str] | None, shown], many)
    shown = typer.Option(*names, help=about, metavar=metavar, rich_help_panel=panel)
    return _keyword(name, Annotated[str | None, shown], None if default is None else str(default))


def _set_option(settable: Mapping[str, type[Options]]) -> inspect.Parameter:
    help_text = f"Any further option, repeatable: {', '.join(settable)}. docs/cli.md explains them."
    shown = typer.Option("--set", metavar="NAME=VALUE", help=help_text, rich_help_panel=ADVANCED)
    return _keyword("set", Annotated[list[str] | None, shown], None)


def _settings(pairs: Sequence[str], settable: Mapping[str, type[Options]]) -> Iterator[tuple[str, object]]:
    """What ``--set`` names, with values read as YAML reads them."""
    import yaml

    for pair in pairs:
        name, is_pair, text = pair.partition("=")
        name = name.strip().replace("-", "_")
        if not is_pair:
            raise RipcurrentError(f"--set {pair} has no value.", "Write --set NAME=VALUE.")
        if name not in settable:
            raise RipcurrentError(
                f"--set knows no option {name!r}.{did_you_mean(name, tuple(settable))}",
                f"Options: {', '.join(settable)}.",
            )
        try:
            yield name, yaml.safe_load(text)
        except yaml.YAMLError:
            yield name, text


def as_typed(error: RipcurrentError, arguments: Sequence[str]) -> RipcurrentError:
    """The error with its options as this command takes them: those without a flag as ``--set NAME=VALUE``."""
    settable = {name for word in arguments[:2] for name in SETTABLE.get(word, ())}

    def typed(found: re.Match[str]) -> str:
        name, value = found[1].replace("-", "_"), found[2]
        return (f"--set {name}={value}" if value else f"--set {name}") if name in settable else found[0]

    message, hint = (
        re.sub(r"--([a-z]+(?:-[a-z]+)*)(?: (\d+|\S+(?= is (?:not possible|for ))))?", typed, text)
        for text in (error.message, error.hint)
    )
    return RipcurrentError(message, hint, code=error.code)


def _filled(model: type[Options], named: Mapping[str, object], settings: Mapping[str, object]) -> Options:
    """The model with what the user named; what was left out keeps the model's default."""
    from ripcurrent.data import parse_mapping

    changes: dict[str, object] = {}
    for name, field in model.model_fields.items():
        if name in settings:
            changes[name] = settings[name]
        elif name in named:
            kind, value = _plain_type(field.annotation), named[name]
            if get_origin(kind) is dict:
                value = parse_mapping(typing.cast("list[str]", value))
            elif kind is bool and field.default is True:
                value = not value
            changes[name] = value
    return model.resolve(None, changes)


def _was_named(context: typer.Context, option: str) -> bool:
    source = context.get_parameter_source(option)
    return source is not None and source.name != "DEFAULT"


def _plain_type(annotation: object) -> object:
    """The type without ``None`` and without notes; of several, the first."""
    if get_origin(annotation) is Annotated:
        return _plain_type(get_args(annotation)[0])
    if get_origin(annotation) in (typing.Union, types.UnionType):
        return next(_plain_type(one) for one in get_args(annotation) if one is not type(None))
    return annotation


def _metavar(kind: object) -> str:
    if get_origin(kind) is Literal:
        return "|".join(map(str, get_args(kind)))
    if get_origin(kind) is dict:
        return "FIELD=COLUMN"
    return METAVARS.get(kind, "TEXT")
