"""From an experiment's file to its checked configuration; mistakes are named with the nearest valid word."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from ripcurrent.errors import RipcurrentError
from ripcurrent.experiment._config import RULES, ArmRule, ExperimentConfig, Mix, PromptSource, ScanSource
from ripcurrent.options import did_you_mean

READY = Path(__file__).parent / "ready"
"""The experiment files that come with the package."""

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_KEYS = tuple(key for model in (ExperimentConfig, ArmRule, Mix, PromptSource, ScanSource) for key in model.model_fields)
_SEE = "`ripcurrent experiment list` shows the ready ones; docs/experiment.md has the keys."


class _Loader(yaml.SafeLoader):
    """Fills in ``${NAME}`` from the environment, and refuses equal keys, of which PyYAML silently keeps the last."""

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        value = super().construct_scalar(node)
        return _VARIABLE.sub(self._variable, value) if isinstance(value, str) else value

    def _variable(self, found: re.Match[str]) -> str:
        if not os.environ.get(found[1]):
            raise RipcurrentError(
                f"{self.name} needs the environment variable {found[1]}, which is not set.",
                f"Set it to the folder that holds the data: export {found[1]}=FOLDER",
            )
        return os.environ[found[1]]

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                raise yaml.MarkedYAMLError(problem=f"{key.value!r} stands there twice", problem_mark=key.start_mark)
            seen.add(key.value)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        return mapping


def ready_experiments() -> dict[str, str]:
    """Name and title of each experiment file that comes with the package."""
    return {
        path.stem: str(yaml.safe_load(path.read_text(encoding="utf-8"))["title"])
        for path in sorted(READY.glob("*.yaml"))
    }


def read_experiment_file(path: str | Path) -> dict[str, Any]:
    """The keys of an experiment's file, or of a ready one by its name, with environment variables filled in.

    Raises:
        RipcurrentError: No such file, not YAML, no keys in it, or a variable that is not set.
    """
    path, ready = Path(path), READY / f"{path}.yaml"
    if not path.is_file() and ready.parent == READY and ready.is_file():
        path = ready
    if not path.is_file():
        there = [file.name for file in path.parent.glob("*.y*ml")] + [file.stem for file in READY.glob("*.yaml")]
        raise RipcurrentError(f"There is no experiment file {path}.{did_you_mean(path.name, tuple(there))}", _SEE)
    try:
        with path.open(encoding="utf-8") as file:
            values = yaml.load(file, Loader=_Loader)
    except (yaml.YAMLError, ValueError, TypeError) as error:  # such as a date that is none, or a key that is a mapping
        first = str(error).splitlines()[0]
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: {getattr(error, 'problem', first)}" if mark else first
        raise RipcurrentError(f"{path} is not readable as YAML: {where}.", "Correct it there.") from None
    if not isinstance(values, dict) or not values:
        raise RipcurrentError(f"{path} is no experiment: it has no keys.", _SEE)
    return {"name": path.stem, **values}


def parse_experiment(values: Mapping[str, Any], *, where: str) -> ExperimentConfig:
    """An experiment from its keys and values; ``where`` names their source in errors.

    Raises:
        RipcurrentError: A key, an arm or a value that is not possible; the nearest one that is possible is named.
    """
    from ripcurrent.experiment._arms import expand_arms

    try:
        config = ExperimentConfig.model_validate({str(key): value for key, value in values.items()})
    except ValidationError as error:
        raise _named(error, where) from None
    expand_arms(config, where=where)
    return config


def _named(error: ValidationError, where: str) -> RipcurrentError:
    """The first mistake with its place, and the nearest valid key or value."""
    first = min(error.errors(), key=lambda one: one["type"] not in ("extra_forbidden", "literal_error"))
    kind, value = first["type"], first.get("input")
    *names, key = [part for part in first["loc"] if isinstance(part, str) and part not in ("int", "str")] or [""]
    at = ": ".join([where, *names])
    if kind == "extra_forbidden":
        return RipcurrentError(f"{at}: there is no key {key!r}.{did_you_mean(key, _KEYS)}", _SEE)
    reason = first["msg"].removeprefix("Value error, ")
    if kind == "literal_error":
        allowed = tuple(re.findall(r"'([^']+)'", str(first["ctx"]["expected"])))
        near = did_you_mean(str(value), (*allowed, *RULES) if key == "select" else allowed)
        return RipcurrentError(f"{at}: {key} {value!r} is not possible.{near}", f"Possible: {', '.join(allowed)}.")
    if key == "seeds":
        reason = "write a number such as 3, or a list such as [0, 1, 2]"
    elif kind in ("tuple_type", "list_type"):
        reason = "write a list, as in [ONE, OTHER]"
    elif kind in ("model_type", "dict_type"):
        reason = f"{value!r} is no mapping of keys to values"
    shown = f" {value!r}" if isinstance(value, str | int | float) else ""
    return RipcurrentError(f"{at}: {f'{key}{shown} is not possible: ' if key else ''}{reason}.", _SEE)


def missing_name(what: str, name: str, known: Sequence[str], listing: str) -> RipcurrentError:
    """An error for a name that is not known, with the nearest one that is."""
    return RipcurrentError(
        f"{what} {name!r}.{did_you_mean(name, tuple(known))}", f"{listing}: {', '.join(known) or 'none'}."
    )
