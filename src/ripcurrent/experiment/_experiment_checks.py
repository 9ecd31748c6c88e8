"""What can be wrong with an experiment's arms: told before anything is scanned, or before anything is trained."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ripcurrent.data import read_rows
from ripcurrent.errors import RipcurrentError
from ripcurrent.experiment import Arm, ExperimentConfig
from ripcurrent.experiment._arms import missing_name
from ripcurrent.experiment._experiment_arms import ArmRows
from ripcurrent.scan._columns import DIRECTION_OF_RISK, GRADIENT_COLUMNS, REPRESENTATION_COLUMNS

SAME = 0.9
"""Arms of so large a share of common rows are no two arms."""


def check_arms(config: ExperimentConfig, arms: Iterable[Arm]) -> None:
    """Refuse arms of files that cannot be read, and by columns that the scan to be made will not have.

    Raises:
        RipcurrentError: It is one; names the arm.
    """
    signals = config.scan.get("signals", "all")
    unmeasured = {"gradient": REPRESENTATION_COLUMNS, "representation": GRADIENT_COLUMNS}.get(signals, ())
    columns = [name for name in DIRECTION_OF_RISK if name not in unmeasured]
    for arm in arms:
        if arm.rule.file is not None:
            try:
                read_rows(str(arm.rule.file), format=arm.rule.format)
            except RipcurrentError as error:
                raise RipcurrentError(f"arms: {arm.name}: {error.message}", error.hint, code=error.code) from error
        by = arm.rule.by
        # a finished scan may have more columns, and is looked at at once
        made = config.run is None and arm.rule.scan is None and not config.scan.get("per_anchor")
        if by is not None and made and not by.endswith("_window_max") and by not in columns:
            raise missing_name(f"arms: {arm.name}: the scan will have no column", by, columns, "Columns")


def refuse_equal_rows(
    config: ExperimentConfig, arms: Mapping[str, Arm], chosen: Mapping[tuple[str, int], ArmRows]
) -> None:
    """Refuse an arm that trains on (nearly) the rows of its control in the same way: the two cannot differ.

    Raises:
        RipcurrentError: The pool is too small for the size asked for.
    """
    for (name, seed), rows in chosen.items():
        arm = arms[name]
        beside = chosen.get((arm.control or name, seed))
        whole = arm.rule.all_but is not None or arm.rule.all_but_random is not None or arm.kind == "all"
        if beside is None or arm.control in (None, name) or whole:
            continue
        control = arms[str(arm.control)].rule
        own, its = (
            (one.file, one.scan, str(one.recipe or config.recipe), one.training_seed) for one in (arm.rule, control)
        )
        if own != its:
            continue
        common = len({*rows.indices} & {*beside.indices})
        if common >= SAME * max(len(rows.indices), len(beside.indices)):
            raise RipcurrentError(
                f"Arms {name} and {arm.control} have {common} of {len(rows.indices)} rows in common: the pool is too "
                "small for two sets of this size.",
                "Give a smaller size, at most half of the usable rows, or fewer rows to heldout.",
            )
