"""From the file's arms, shares and sizes to single arms."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from ripcurrent.errors import RipcurrentError
from ripcurrent.experiment._config import NAME, ArmRule, ExperimentConfig, Size
from ripcurrent.experiment._read import missing_name

BASE = "base"
"""The arm that is the model as it is."""

MAIN = ""
"""The name of the scan that arms use unless they name another."""


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
    """The sweep it belongs to: percents of a mixture, or sizes of one arm."""
    order: float | None = None
    """Its place in the sweep; None where the rows taken are its place."""
    of: str | None = None
    """The arm that it is matched to."""
    control: str | None = None
    """The arm that it is compared with."""

    @property
    def kind(self) -> str:
        """The rule's word: ``top``, ``random``, ``length_matched`` and so on."""
        return str(self.rule.select) if self.rule.rule == "select" else self.rule.rule


def expand_arms(config: ExperimentConfig, *, where: str = "the experiment") -> tuple[Arm, ...]:
    """Every single arm of an experiment, in the order of the file.

    Raises:
        RipcurrentError: A name that is no folder's or comes twice, an arm that refers to one that does not exist (the
            nearest one is named) or to itself, or an unknown scan.
    """
    arms: dict[str, Arm] = {}
    for arm in (arm for name, rule in config.arms.items() for arm in _variants(name, rule, config)):
        if not NAME.fullmatch(arm.name) or arm.name == BASE:
            raise RipcurrentError(
                f"{where}: {arm.name!r} cannot be the name of an arm.",
                f"Use letters, digits, dots, hyphens and underscores; {BASE!r} is the untrained model.",
            )
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
                raise RipcurrentError(
                    f"{where}: verdict_on: arm {name} has no control, so nothing is decided by it.",
                    "Name arms that are compared with one.",
                )
    return tuple(arms.values())


def _variants(name: str, rule: ArmRule, config: ExperimentConfig) -> Iterator[Arm]:
    """An arm with each percent of its mixture, and with each of the experiment's sizes."""
    sized = config.arms.get(rule.matched or "", rule)
    sizes = config.sizes if sized.takes_size and sized.size is None else ()
    size = (rule.size or config.size) if rule.takes_size else None
    if rule.all_but is not None and rule.all_but.takes_size and rule.all_but.size is None:
        rule = rule.model_copy(update={"all_but": rule.all_but.model_copy(update={"size": config.size})})
    percents = rule.mix.percent if rule.mix else ()
    for percent in percents or (None,):
        arm = Arm(name, rule, size, rule.recipe or config.recipe, rule.scan or MAIN)
        if rule.mix is not None and percent is not None and len(percents) > 1:
            one = rule.model_copy(update={"mix": rule.mix.model_copy(update={"percent": (percent,)})})
            arm = replace(arm, rule=one, name=f"{name}-{percent:g}", group=name, order=percent)
        if not sizes:
            yield arm
        for each in sizes:
            yield replace(arm, name=f"{arm.name}-{_in_name(each)}", size=each, group=arm.name, order=None)


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
        raise RipcurrentError(
            f"{at} is made from {named}, of which there are several arms, and none of its size.",
            f"Name one of them: {', '.join(variants)}.",
        )
    if of is None:
        raise missing_name(f"{at}: there is no arm", named, [name for name in arms if name != arm.name], "Arms")
    if of.rule.matched is not None or arm.rule.scan not in (None, of.scan):
        raise RipcurrentError(
            f"{at} is made from arm {of.name}, which is of another scan, or a control itself.",
            "Name an arm of the same scan that is matched to none.",
        )
    return replace(arm, of=of.name, scan=of.scan)


def _control(arm: Arm, arms: Mapping[str, Arm], config: ExperimentConfig, where: str) -> str | None:
    """What an arm is compared with: the control of its size; of another scan or recipe, random rows of that if any."""
    if config.control is None:
        return None
    size = arms[arm.of].size if arm.of is not None else arm.size
    variants = [other for other in arms.values() if other.group == config.control]
    control = _same_size(config.control, size, arms)
    if control is None and variants and size is not None:
        raise RipcurrentError(
            f"{where}: arm {arm.name} has {size} rows, and none of the arms of {config.control} does.",
            f"Add an arm {config.control}-{_in_name(size)} of that size, or write `control: null`.",
        )
    control = control or (variants[-1] if variants else None)
    if control is None:
        listing = "Add `random: random`, or write `control: null`. Arms"
        raise missing_name(f"{where}: control: there is no arm", config.control, list(arms), listing)
    if control.kind == "random" != arm.kind and (arm.scan, arm.recipe) != (control.scan, control.recipe):
        alike = (one for one in arms.values() if one.kind == "random" and one.size == size)
        control = next((one for one in alike if (one.scan, one.recipe) == (arm.scan, arm.recipe)), control)
    # random rows of a sweep are controls themselves, as are those that another recipe is given
    is_control = control.kind == arm.kind == "random" and (arm.group is not None or arm.recipe != control.recipe)
    return None if is_control or control.name == arm.name else control.name


def _same_size(name: str, size: Size | None, arms: Mapping[str, Arm]) -> Arm | None:
    """The arm of that name, or its variant of a size."""
    return arms.get(f"{name}-{_in_name(size)}") or arms.get(name)
