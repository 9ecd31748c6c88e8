"""From an experiment's file to its configuration and single arms; mistakes are named with the nearest valid word."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from ripcurrent.errors import RipcurrentError
from ripcurrent.experiment._config import KNOWN, NAME, RULES, ArmRule, ExperimentConfig, Size
from ripcurrent.finetune import load_recipe
from ripcurrent.options import did_you_mean

READY = Path(__file__).parent / "ready"
BASE = "base"
"""The arm that is the model as it is."""
MAIN = ""
"""The name of the scan that arms use unless they name another."""

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_SEE = "`ripcurrent experiment list` shows the ready ones; docs/experiment.md has the keys."


class _Loader(yaml.SafeLoader):
    """Fills in ``${NAME}`` from the environment, and refuses equal keys, of which PyYAML silently keeps the last."""

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        value = super().construct_scalar(node)
        return _VARIABLE.sub(self._variable, value) if isinstance(value, str) else value

    def _variable(self, found: re.Match[str]) -> str:
        if not os.environ.get(found[1]):
            hint = f"Set it to the folder that holds the data: export {found[1]}=FOLDER"
            raise RipcurrentError(f"{self.name} needs the environment variable {found[1]}, which is not set.", hint)
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
    return {path.stem: str(yaml.safe_load(path.read_text("utf-8"))["title"]) for path in sorted(READY.glob("*.yaml"))}


def read_experiment_file(path: str | Path) -> dict[str, Any]:
    """The keys of an experiment's file, or of a ready one by its name, with environment variables filled in.

    Refuses no such file, what is not YAML or has no keys, and a variable that is not set.
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

    Refuses a key, an arm or a value that is not possible, and names the nearest one that is.
    """
    if values.get("sizes") == "by recipe":
        values = {**values, "sizes": load_recipe(str(values.get("recipe", "embedded"))).ladder_sizes()}
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
    inner = ("int", "str", "[key]")
    *names, key = [part for part in first["loc"] if isinstance(part, str) and part not in inner] or [""]
    at = ": ".join([where, *names])
    if kind == "extra_forbidden":
        return RipcurrentError(f"{at}: there is no key {key!r}.{did_you_mean(key, KNOWN)}", _SEE)
    if kind == "literal_error":
        allowed = tuple(re.findall(r"'([^']+)'", str(first["ctx"]["expected"])))
        near = did_you_mean(str(value), (*allowed, *RULES) if key == "select" else allowed)
        return RipcurrentError(f"{at}: {key} {value!r} is not possible.{near}", f"Possible: {', '.join(allowed)}.")
    reason = first["msg"].removeprefix("Value error, ")
    if key == "seeds":
        reason = "write a number such as 3, or a list such as [0, 1, 2]"
    elif kind in ("tuple_type", "list_type"):
        reason = "write a list, as in [ONE, OTHER]"
    elif kind in ("model_type", "dict_type"):
        reason = f"{value!r} is no mapping of keys to values"
    shown = f" {value!r}" if isinstance(value, str | int | float) else ""
    message = f"{at}: {f'{key}{shown} is not possible: ' if key else ''}{reason}."
    return RipcurrentError(message.replace("?.", "?"), _SEE)


def missing_name(what: str, name: str, known: Sequence[str], listing: str) -> RipcurrentError:
    """An error for a name that is not known, with the nearest one that is."""
    hint = f"{listing}: {', '.join(known) or 'none'}."
    return RipcurrentError(f"{what} {name!r}.{did_you_mean(name, tuple(known))}", hint)


@dataclass(frozen=True, slots=True)
class Arm:
    """One arm: rows by a rule, trained once with every seed."""

    name: str
    rule: ArmRule
    size: Size | None
    """Rows asked for; None where the rule says how many."""
    recipe: str
    scan: str = MAIN
    """The scan that its rows are chosen by."""
    group: str | None = None
    """The arm of the file that it varies: percents of a mixture, or sizes."""
    of: str | None = None
    """The arm that it is matched to."""
    control: str | None = None
    """The arm that it is compared with."""


def expand_arms(config: ExperimentConfig, *, where: str = "the experiment") -> tuple[Arm, ...]:
    """Every single arm of an experiment, in the order of the file.

    Refuses a name that is no folder's or comes twice, and names of arms and scans that do not exist.
    """
    arms: dict[str, Arm] = {}
    for arm in (arm for name, rule in config.arms.items() for arm in _variants(name, rule, config)):
        if not NAME.fullmatch(arm.name) or arm.name == BASE:
            hint = f"Use letters, digits, dots, hyphens and underscores; {BASE!r} is the untrained model."
            raise RipcurrentError(f"{where}: {arm.name!r} cannot be the name of an arm.", hint)
        if arm.name in arms:
            raise RipcurrentError(f"{where}: two arms are named {arm.name!r}.", "Give one of them another name.")
        if arm.scan not in (MAIN, *config.scans):
            raise missing_name(f"{where}: arm {arm.name}: there is no scan", arm.scan, list(config.scans), "Scans")
        arms[arm.name] = arm
    arms = {name: _matched(arm, arms, where) for name, arm in arms.items()}
    arms = {name: replace(arm, control=_control(arm, arms, config, where)) for name, arm in arms.items()}
    named = {"compare": [name for pair in config.compare for name in pair], "verdict_on": config.verdict_on}
    for key, names in named.items():
        for name in names:
            if name not in arms and not (key == "compare" and name == BASE):
                raise missing_name(f"{where}: {key}: there is no arm", name, list(arms), "Arms")
            if key == "verdict_on" and arms[name].control is None:
                message = f"{where}: verdict_on: arm {name} has no control, so nothing is decided by it."
                raise RipcurrentError(message, "Name arms that are compared with one.")
    return tuple(arms.values())


def _variants(name: str, rule: ArmRule, config: ExperimentConfig) -> Iterator[Arm]:
    """An arm with each percent of its mixture, and with each of the experiment's sizes."""
    sized = config.arms.get(rule.matched or "", rule)
    sizes = config.sizes if sized.takes_size and sized.size is None else ()
    size = (rule.size or config.size) if rule.takes_size else None
    if rule.all_but is not None and rule.all_but.takes_size and rule.all_but.size is None:
        rule = rule.model_copy(update={"all_but": rule.all_but.model_copy(update={"size": config.size})})
    arms = [Arm(name, rule, size, rule.recipe or config.recipe, rule.scan or MAIN)]
    if rule.mix is not None and len(rule.mix.percent) > 1:
        mixes = [rule.mix.model_copy(update={"percent": (one,)}) for one in rule.mix.percent]
        rules = [rule.model_copy(update={"mix": mix}) for mix in mixes]
        names = [f"{name}-{percent:g}" for percent in rule.mix.percent]
        arms = [replace(arms[0], name=own, rule=one, group=name) for own, one in zip(names, rules, strict=True)]
    for arm in arms:
        of_sizes = [replace(arm, name=f"{arm.name}-{_in_name(one)}", size=one, group=arm.name) for one in sizes]
        yield from of_sizes or [arm]


def _in_name(size: Size | None) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", str(size).replace("%", "pc")).strip("-")


def _matched(arm: Arm, arms: Mapping[str, Arm], where: str) -> Arm:
    """The arm with the one that it is matched to, of its own size where there is one, and with that one's scan."""
    if arm.rule.matched is None:
        return arm
    named, at = arm.rule.matched, f"{where}: arm {arm.name}"
    of = _same_size(named, arm.size, arms)
    variants = [other.name for other in arms.values() if other.group == named]
    if of is None and variants:
        message = f"{at} is made from {named}, of which there are several arms, and none of its size."
        raise RipcurrentError(message, f"Name one of them: {', '.join(variants)}.")
    if of is None:
        raise missing_name(f"{at}: there is no arm", named, [name for name in arms if name != arm.name], "Arms")
    if of.rule.matched is not None or arm.rule.scan not in (None, of.scan):
        hint = "Name an arm of the same scan that is matched to none."
        raise RipcurrentError(f"{at} is made from arm {of.name}, which is of another scan, or a control itself.", hint)
    return replace(arm, of=of.name, scan=of.scan)


def _control(arm: Arm, arms: Mapping[str, Arm], config: ExperimentConfig, where: str) -> str | None:
    """What an arm is compared with: the control of its size; of another scan or recipe, random rows of that if any."""
    if config.control is None:
        return None
    size = arms[arm.of].size if arm.of is not None else arm.size
    variants = [other for other in arms.values() if other.group == config.control]
    control = _same_size(config.control, size, arms)
    if control is None and variants and size is not None:
        message = f"{where}: arm {arm.name} has {size} rows, and none of the arms of {config.control} does."
        hint = f"Add an arm {config.control}-{_in_name(size)} of that size, or write `control: null`."
        raise RipcurrentError(message, hint)
    control = control or (variants[-1] if variants else None)
    if control is None:
        listing = "Add `random: random`, or write `control: null`. Arms"
        raise missing_name(f"{where}: control: there is no arm", config.control, list(arms), listing)
    if control.rule.kind == "random" != arm.rule.kind and (arm.scan, arm.recipe) != (control.scan, control.recipe):
        alike = (one for one in arms.values() if one.rule.kind == "random" and one.size == size)
        control = next((one for one in alike if (one.scan, one.recipe) == (arm.scan, arm.recipe)), control)
    # random rows of several sizes are controls themselves, as are those that another recipe is given
    both_random = control.rule.kind == arm.rule.kind == "random"
    is_control = both_random and (arm.group is not None or arm.recipe != control.recipe)
    return None if is_control or control.name == arm.name else control.name


def _same_size(name: str, size: Size | None, arms: Mapping[str, Arm]) -> Arm | None:
    """The arm of that name, or its variant of a size."""
    return arms.get(f"{name}-{_in_name(size)}") or arms.get(name)
