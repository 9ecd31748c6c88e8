"""``ripcurrent select``: rows of a finished scan, and with ``--controls`` their controls."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from ripcurrent.cli._command import ADVANCED, argument, command
from ripcurrent.cli._output import Output, say, show_table
from ripcurrent.select import SelectOptions

if TYPE_CHECKING:
    from ripcurrent.select import SelectionRecord

PANELS = {
    "Rows": ("top", "bottom", "union", "between", "decisions", "by", "drop", "controls"),
    "Output": ("out", "name"),
    ADVANCED: ("format_draw", "rows", "seed", "data"),
}
EXAMPLES = ("ripcurrent select runs/support --top 5% --drop", "ripcurrent select runs/support --between 90%:100%")


@command("select", PANELS, EXAMPLES)
def select_command(
    run: Annotated[Path, argument("RUN", "Folder of a finished scan.")], options: SelectOptions, output: Output
) -> None:
    """Select rows by score, and write them in the dataset's own format.

    A record of the rule, the rows and their scores lies beside them.
    """
    from ripcurrent.select import select

    with output.progress() as progress:
        progress.step("selecting rows")
        records = select(run, options)
    found = [_facts(record) for record in records]
    if not output.answer(lambda: {"run": str(run), "selections": found}):
        return
    whole = records[0].summary
    for one in found:
        one["label"] = one["name"].replace(f"{one['control_of']}-control-", "  ")
        one["apart"] = one["distances"][0]["mean_absolute_difference"] if one["distances"] else None
    usable = {"label": "all usable rows", "rows": whole.whole_rows, "shortfall": 0, "apart": None}
    usable |= {"mean_response_tokens": whole.whole_length.mean}
    usable |= {f"{kind}_share": whole.whole_format_shares[f"is_{kind}"] for kind in ("list", "maths")}
    show_table(
        "selection {label} | rows {rows} | short {shortfall} | mean\ntokens {mean_response_tokens:.1f}"
        " | lists {list_share:.0%} | maths {maths_share:.0%} | distance {apart:.1f}",
        [*found, usable],
        caption="short: rows that there were not; distance: mean difference in response tokens from the selection",
    )
    say(
        *(f"{one['name']}: {note}" for one in found for note in one["notes"]),
        *(f"Rows:    {one['file']}" for one in found if one["control_of"] is None),
        *(f"Without: {one['remaining_file']}" for one in found if one["remaining_file"]),
        *(["Controls and records are beside them."] if len(records) > 1 else []),
    )


def _facts(record: SelectionRecord) -> dict[str, Any]:
    selection, summary = record.selection, record.summary
    return {
        **{name: value for name, value in asdict(selection).items() if name not in ("indices", "scores")},
        "rows": summary.rows,
        "mean_response_tokens": summary.length.mean,
        "list_share": summary.format_shares["is_list"],
        "maths_share": summary.format_shares["is_maths"],
        "file": str(record.path),
        "record": str(record.record_path),
        "remaining_file": None if record.remaining_path is None else str(record.remaining_path),
    }
