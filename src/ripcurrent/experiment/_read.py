"""From an experiment's file to its checked configuration; mistakes are named with their nearest cure."""

from __future__ import annotations

import os
import re
import types
import typing
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from ripcurrent.errors import RipcurrentError
from ripcurrent.experiment._config import (
    RULES,
    Accuracy,
    ArmRule,
    ExperimentConfig,
    Mix,
    PromptSource,
    Scan,
    Share,
)

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


class _EachKeyOnce(yaml.SafeLoader):
    """PyYAML keeps the last of keys that are alike, and says nothing of the others."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                raise yaml.MarkedYAMLError(problem=f"{key.value!r} stands there twice", problem_mark=key.start_mark)
            seen.add(key.value)
        found: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        return found


def read_experiment_file(path: str | Path) -> dict[str, Any]:
    """The keys of an experiment's file, with environment variables filled in.

    Raises:
        RipcurrentError: No such file, not YAML, no keys in it, or a variable that is not set.
    """
    path = Path(path)
    if not path.is_file():
        near = get_close_matches(path.name, [file.name for file in path.parent.glob("*.y*ml")], n=1)
        raise RipcurrentError(
            f"There is no experiment file {path}.{_did_you_mean(near)}", "Ready ones are in the folder experiments."
        )
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_EachKeyOnce)
    except (yaml.YAMLError, ValueError, TypeError) as error:  # such as a date that is none, or a key that is a mapping
        first = str(error).splitlines()[0]
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: {getattr(error, 'problem', first)}" if mark else first
        raise RipcurrentError(f"{path} is not readable as YAML: {where}.", "Mend it there.") from None
    if not isinstance(values, dict) or not values:
        raise RipcurrentError(f"{path} is no experiment: it has no keys.", "See docs/experiments.md for the keys.")
    filled: dict[str, Any] = _fill(values, str(path))
    return {"name": path.stem, **filled}


def load_experiment(path: str | Path) -> ExperimentConfig:
    """An experiment of arms from its YAML file.

    Raises:
        RipcurrentError: What `read_experiment_file` raises; an unknown key, arm or selection (the nearest one is
            named); or a value that is not possible.
    """
    return parse_experiment(read_experiment_file(path), where=str(path))


def parse_experiment(values: Mapping[str, Any], *, where: str) -> ExperimentConfig:
    """An experiment of arms from its keys and values; ``where`` names their source in errors.

    Raises:
        RipcurrentError: A key, an arm or a value that is not possible, named.
    """
    from ripcurrent.experiment._arms import expand_arms

    built = dict(values)
    for key, model in (("arms", ArmRule), ("scans", Scan)):
        if isinstance(built.get(key), Mapping):
            items = {str(name): value for name, value in built[key].items()}
            built[key] = {name: _build(model, value, f"{where}: {key}: {name}") for name, value in items.items()}
        elif key in built:
            raise RipcurrentError(
                f"{where}: {key} {built[key]!r} is not possible: each of them needs a name.",
                "Write `arms: {NAME: RULE}`, such as `arms: {random: random, riskiest: top}`."
                if key == "arms"
                else "Write `scans: {NAME: SCAN}`, such as `scans: {second: runs/second}`.",
            )
    if isinstance(built.get("judges"), str):
        built["judges"] = [built["judges"]]
    if isinstance(built.get("prompts"), str | Mapping):
        built["prompts"] = [built["prompts"]]
    if isinstance(built.get("prompts"), list):
        built["prompts"] = [_build(PromptSource, one, f"{where}: prompts") for one in built["prompts"]]
    if built.get("gsm8k") is not None:
        built["gsm8k"] = _build(Accuracy, built["gsm8k"], f"{where}: gsm8k")
    config: ExperimentConfig = _build(ExperimentConfig, built, where)
    expand_arms(config, where=where)
    return config


def parse_rule(values: Any, *, where: str) -> ArmRule:
    """An arm's rule from its keys and values; a bare word is what is selected.

    Raises:
        RipcurrentError: A key or a value that is not possible, named.
    """
    rule: ArmRule = _build(ArmRule, values, where)
    return rule


_BARE = {ArmRule: "select", PromptSource: "source", Scan: "run", Accuracy: "file"}
"""What a bare word means where a mapping may stand."""


def _build(model: type[BaseModel], values: Any, where: str) -> Any:
    """A model from keys and values, parts that are models built first so that their errors say where."""
    if isinstance(values, str) and model in _BARE:
        values = {_BARE[model]: values}
    if not isinstance(values, Mapping):
        raise RipcurrentError(f"{where}: {values!r} is no mapping of keys to values.", "See docs/experiments.md.")
    built = {str(key): value for key, value in values.items()}
    if model is ArmRule and isinstance(built.get("all_but"), Mapping):
        built["all_but"] = _build(ArmRule, built["all_but"], f"{where}: all_but")
    if model is ArmRule and isinstance(built.get("share"), Mapping):
        built["share"] = _build(Share, built["share"], f"{where}: share")
    if model is ArmRule and isinstance(built.get("mix"), Mapping):
        built["mix"] = _build(Mix, built["mix"], f"{where}: mix")
    try:
        return model(**built)
    except ValidationError as error:
        raise _named(error, where, model) from None


def _fill(value: Any, where: str) -> Any:
    """A value with ``${NAME}`` replaced by the environment's, all the way down."""
    if isinstance(value, str):
        return _VARIABLE.sub(lambda found: _variable(found.group(1), where), value)
    if isinstance(value, Mapping):
        return {key: _fill(item, where) for key, item in value.items()}
    if isinstance(value, list):
        return [_fill(item, where) for item in value]
    return value


def _variable(name: str, where: str) -> str:
    if not os.environ.get(name):
        raise RipcurrentError(
            f"{where} needs the environment variable {name}, which is not set.",
            f"Set it to the folder that holds the data: export {name}=FOLDER",
        )
    return os.environ[name]


def _named(error: ValidationError, where: str, model: type[BaseModel]) -> RipcurrentError:
    """The first thing wrong, in words, with the nearest valid key or value."""
    # of a union, pydantic lists every member's complaint: an unknown key or value says most
    first = min(error.errors(), key=lambda found: found["type"] not in ("extra_forbidden", "literal_error"))
    key = str(first["loc"][0]) if first["loc"] else ""
    value = first.get("input")
    if first["type"] == "extra_forbidden":
        keys = tuple(model.model_fields)
        return RipcurrentError(f"{where}: there is no key {key!r}.{_nearest(key, keys)}", f"Keys: {', '.join(keys)}.")
    if first["type"] == "literal_error":
        allowed = _values_in(model.model_fields[key].annotation)
        if key == "select":
            near = _nearest(str(value), (*allowed, *RULES))
            return RipcurrentError(
                f"{where}: there is no selection {value!r}.{near}", f"Selections: {', '.join(allowed)}."
            )
        return RipcurrentError(
            f"{where}: {key} {value!r} is not possible.{_nearest(str(value), allowed)}",
            f"Possible: {', '.join(allowed)}.",
        )
    reason = first["msg"].removeprefix("Value error, ")
    if key == "seeds":
        reason = "write a number such as 3, or a list such as [0, 1, 2]"
    elif first["type"] in ("tuple_type", "list_type"):
        reason = "write a list, as in [ONE, OTHER]"
    shown = f" {value!r}" if isinstance(value, str | int | float) else ""
    what = f"{key}{shown} is not possible: {reason}" if key else reason
    return RipcurrentError(f"{where}: {what}.", "See docs/experiments.md for the keys.")


def _values_in(annotation: Any) -> tuple[str, ...]:
    if get_origin(annotation) is Literal:
        return tuple(map(str, get_args(annotation)))
    if get_origin(annotation) in (typing.Union, types.UnionType):
        return tuple(value for part in get_args(annotation) for value in _values_in(part))
    return ()


def _nearest(name: str, known: Sequence[str]) -> str:
    return _did_you_mean(get_close_matches(name, known, n=1, cutoff=0.5))


def _did_you_mean(near: Sequence[str]) -> str:
    return f" Did you mean {near[0]}?" if near else ""
