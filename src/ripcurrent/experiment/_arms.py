"""From the file's arms, grids and sizes to single arms."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from itertools import product
from typing import Any

from ripcurrent.errors import RipcurrentError
from ripcurrent.experiment._config import NAME, ArmRule, ExperimentConfig, Share, Size

BASE = "base"
"""The arm that is the model as it is."""

CONTROLS = ("random", "length_matched", "format_matched")
"""Kinds of arms that others are compared with; with ``bottom`` they do not decide the verdict."""

SIZED = ("select", "draw", "share", "mix", "within_length", "file")
"""Rules that take a number of rows."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One arm: rows by a rule, trained once with every seed."""

    name: str
    """Its name, unique in the experiment."""
    rule: ArmRule
    """Where its rows come from."""
    size: Size | None
    """Rows asked for; None where the rule says how many."""
    bin: int | None = None
    """Which bin, from 0, of an arm of ``bins``."""
    group: str | None = None
    """The sweep it belongs to: bins, shares or sizes of one arm."""
    order: float | None = None
    """Its place in the sweep: number of the bin, percent, rows; None where only the rows taken say how many."""
    of: str | None = None
    """The arm that it is matched to or leaves out."""
    control: str | None = None
    """The arm that it is compared with."""

    @property
    def kind(self) -> str:
        """The rule's word: ``top``, ``random``, ``length_matched``, ``bins`` and so on."""
        return str(self.rule.select) if self.rule.rule == "select" else self.rule.rule


def expand_arms(config: ExperimentConfig, *, where: str = "the experiment") -> tuple[Arm, ...]:
    """Every single arm of an experiment, in the order of the file.

    Raises:
        RipcurrentError: A name that is no folder's or comes twice, an arm that refers to one that does not exist (the
            nearest one is named) or to itself, or an unknown scan.
    """
    arms: list[Arm] = []
    for name, rule in [*config.arms.items(), *_grid(config, where)]:
        arms += _sized(name, rule, config)
    names = [arm.name for arm in arms]
    for name in names:
        if not re.fullmatch(NAME, name) or name == BASE:
            raise RipcurrentError(
                f"{where}: {name!r} cannot be the name of an arm.",
                f"Use letters, digits, dots, hyphens and underscores; {BASE!r} is the untrained model.",
            )
        if names.count(name) > 1:
            raise RipcurrentError(f"{where}: two arms are named {name!r}.", "Give one of them another name.")
    for arm in arms:
        for scan in scans_of(arm.rule):
            if scan not in config.scans:
                raise missing_name(f"{where}: arm {arm.name}: there is no scan", scan, list(config.scans), "Scans")
    by_name = {arm.name: arm for arm in arms}
    by_name = {arm.name: _completed(arm, by_name, config) for arm in arms}
    arms = list(by_name.values())
    linked = [_linked(arm, by_name, config, where) for arm in arms]
    for pair in config.compare:
        for name in pair:
            if name not in by_name and name != BASE:
                raise missing_name(f"{where}: compare: there is no arm", name, names, "Arms")
    controls = {arm.name: arm.control for arm in linked}
    for name in config.verdict_on:
        if name not in by_name:
            raise missing_name(f"{where}: verdict_on: there is no arm", name, names, "Arms")
        if controls[name] is None:
            raise RipcurrentError(
                f"{where}: verdict_on: arm {name} has no control, so nothing is decided by it.",
                "Name arms that are compared with one.",
            )
    _refuse_circles(linked, where)
    return tuple(linked)


def scans_of(rule: ArmRule) -> list[str]:
    """Further scans that a rule names."""
    inner = [rule.all_but] if isinstance(rule.all_but, ArmRule) else []
    return [one.scan for one in (rule, *inner) if one.scan is not None]


def _completed(arm: Arm, by_name: Mapping[str, Arm], config: ExperimentConfig) -> Arm:
    """The arm with what its rule leaves to others: the scan of the arm or rule that it is made from, and rows of it."""
    rule = arm.rule
    changes: dict[str, Any] = {}
    if isinstance(rule.all_but, ArmRule):
        inner = rule.all_but
        scan = inner.scan or rule.scan
        size = inner.size or (None if inner.select == "all" else config.size)
        changes = {"all_but": inner.model_copy(update={"scan": scan, "size": size})}
        if scan is not None and rule.scan is None:
            changes["scan"] = scan
    elif rule.refers_to is not None and rule.scan is None:
        # an arm's rows are numbers of its own dataset
        seen, other = {arm.name}, by_name.get(_same_size(rule.refers_to, arm, by_name))
        while other is not None and other.rule.scan is None and other.rule.refers_to and other.name not in seen:
            seen.add(other.name)
            other = by_name.get(_same_size(other.rule.refers_to, other, by_name))
        if other is not None and (scans := scans_of(other.rule)):
            changes["scan"] = scans[0]
    return replace(arm, rule=rule.model_copy(update=changes)) if changes else arm


def _grid(config: ExperimentConfig, where: str) -> Iterator[tuple[str, ArmRule]]:
    """All combinations of each grid's lists, named by their values."""
    from ripcurrent.experiment._read import parse_rule

    for entry in config.grid:
        prefix = entry.get("name")
        keys = {key: value for key, value in entry.items() if key != "name"}
        varied = [key for key, value in keys.items() if isinstance(value, list)]
        for values in product(*(keys[key] for key in varied)):
            chosen = {**keys, **dict(zip(varied, values, strict=True))}
            name = "-".join(map(_plain, ([prefix] if prefix else []) + list(values)))
            yield name or "grid", parse_rule(chosen, where=f"{where}: grid: {name}")


def _plain(value: Any) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", f"{value:g}" if isinstance(value, float) else str(value)).strip("-")


def _sized(name: str, rule: ArmRule, config: ExperimentConfig) -> Iterator[Arm]:
    """An arm with each of the sizes, bins and shares."""
    takes_size = rule.rule in SIZED and rule.select != "all"
    if rule.bins is not None:
        for place in range(rule.bins):
            yield Arm(f"{name}-{place + 1}", rule, rule.size, bin=place, group=name, order=place + 1)
        return
    if takes_size and rule.size is None and config.sizes:
        for size in config.sizes:
            for arm in _shares(name, rule, size):
                own = f"{arm.name}-{_plain(str(size).replace('%', 'pc'))}"
                yield replace(arm, name=own, group=arm.name, order=None)
        return
    if rule.refers_to is not None and config.sizes and not takes_size and _varies(rule, config):
        for size in config.sizes:
            yield Arm(f"{name}-{_plain(str(size).replace('%', 'pc'))}", rule, size, group=name)
        return
    yield from _shares(name, rule, (rule.size or config.size) if takes_size else rule.size)


def _varies(rule: ArmRule, config: ExperimentConfig) -> bool:
    """Whether the arm that a rule refers to comes in the experiment's sizes."""
    other = config.arms.get(rule.refers_to or "") or dict(_grid(config, "grid")).get(rule.refers_to or "")
    return other is not None and other.size is None and other.rule in SIZED and other.select != "all"


def _shares(name: str, rule: ArmRule, size: Size | None) -> Iterator[Arm]:
    if rule.share is None or len(rule.share.percent) == 1:
        yield Arm(name, rule, size, order=rule.share.percent[0] if rule.share else None)
        return
    for percent in rule.share.percent:
        one = rule.model_copy(update={"share": Share(format=rule.share.format, percent=(percent,))})
        yield Arm(f"{name}-{percent:g}", one, size, group=name, order=percent)


def _linked(arm: Arm, by_name: Mapping[str, Arm], config: ExperimentConfig, where: str) -> Arm:
    """The arm with what it refers to and what it is compared with, of its own size where there is one."""
    of = arm.rule.refers_to
    if of is not None:
        variants = [other.name for other in by_name.values() if other.group == of]
        one = _same_size(of, arm, by_name)
        if of not in by_name and len(variants) > 1 and not one.startswith(f"{of}-{_plain_size(arm)}"):
            raise RipcurrentError(
                f"{where}: arm {arm.name} is made from {of}, of which there are several arms, and none of its size.",
                f"Name one of them: {', '.join(variants)}.",
            )
        of = one
        if of not in by_name:
            raise missing_name(
                f"{where}: arm {arm.name}: there is no arm", of, [n for n in by_name if n != arm.name], "Arms"
            )
        if by_name[of].rule.file is not None:
            raise RipcurrentError(
                f"{where}: arm {arm.name} is made from arm {of}, whose rows are of a file: they have no scores, nor "
                "others beside them.",
                "Scan that file under `scans:`, and choose rows of it with `scan:`.",
            )
    control = _control(arm, of, by_name, config, where)
    order = arm.order
    # what an arm that leaves rows out trains on grows the other way: it is ordered by the rows taken
    if arm.group is not None and order is None and arm.rule.all_but is None and str(arm.size).isdigit():
        order = float(str(arm.size))
    return replace(arm, of=of, control=control, order=order)


def _control(arm: Arm, of: str | None, by_name: Mapping[str, Arm], config: ExperimentConfig, where: str) -> str | None:
    """What an arm is compared with: the control of its size; of another scan or recipe, random rows of that if any."""
    if config.control is None:
        return None
    matched = of is not None and arm.size is None and arm.rule.all_but is None
    size = by_name[str(of)].size if matched else arm.size
    name = _same_size(config.control, replace(arm, size=size), by_name)
    if name not in by_name:
        if "control" not in config.model_fields_set:
            raise RipcurrentError(
                f"{where}: every arm is compared with one named {name}, and there is none.",
                "Add `random: random` to the arms, name another arm with `control:`, or write `control: null`.",
            )
        raise missing_name(f"{where}: control: there is no arm", name, list(by_name), "Arms, or null for none")
    control = by_name[name]
    if control.group == config.control and size is not None and control.size != size:
        raise RipcurrentError(
            f"{where}: arm {arm.name} has {size} rows, and none of the arms of {config.control} does.",
            f"Add an arm {config.control}-{_plain(str(size))} of that size, or write `control: null`.",
        )
    scan, recipe = arm.rule.scan or control.rule.scan, arm.rule.recipe or config.recipe
    of_control = control.rule.scan, control.rule.recipe or config.recipe
    if control.kind == "random" != arm.kind and (arm.rule.scan or control.rule.scan, recipe) != of_control:
        name = next(
            (
                other.name
                for other in by_name.values()
                if other.kind == "random"
                and (other.rule.scan or control.rule.scan, other.rule.recipe or config.recipe) == (scan, recipe)
                and other.size == size
            ),
            name,
        )
    if by_name[name].kind == arm.kind == "random":
        # random rows of a sweep are controls themselves, as are those that another recipe is given
        other_recipe = recipe != (by_name[name].rule.recipe or config.recipe)
        return None if name == arm.name or arm.group is not None or other_recipe else name
    return None if name == arm.name else name


def _plain_size(arm: Arm) -> str:
    return _plain(str(arm.size).replace("%", "pc"))


def _same_size(name: str, arm: Arm, by_name: Mapping[str, Arm]) -> str:
    """The arm of that name, or its variant of this arm's size."""
    sized = f"{name}-{_plain_size(arm)}"
    if sized in by_name:
        return sized
    if name in by_name:
        return name
    variants = [other.name for other in by_name.values() if other.group == name]
    return variants[-1] if variants else name


def _refuse_circles(arms: list[Arm], where: str) -> None:
    of = {arm.name: arm.of for arm in arms}
    for arm in arms:
        seen: set[str] = set()
        name: str | None = arm.name
        while name is not None:
            if name in seen:
                raise RipcurrentError(f"{where}: arm {arm.name} refers to itself.", "Let it refer to another arm.")
            seen.add(name)
            name = of[name]


def missing_name(what: str, name: str, known: Sequence[str], listing: str) -> RipcurrentError:
    """An error for a name that is not known, with the nearest one that is."""
    near = get_close_matches(name, known, n=1, cutoff=0.4)
    return RipcurrentError(
        f"{what} {name!r}." + (f" Did you mean {near[0]}?" if near else ""),
        f"{listing}: {', '.join(known) or 'none'}.",
    )
