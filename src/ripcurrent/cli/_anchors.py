"""``ripcurrent anchors``: look at an anchor set before trusting it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ripcurrent.cli._command import command, group
from ripcurrent.cli._output import Output
from ripcurrent.scan import ScanOptions

if TYPE_CHECKING:
    from ripcurrent.scan import AnchorCheck

PANELS = {"Model": ("model", "adapter", "device", "dtype"), "Method": ("signals", "scope", "max_tokens")}
NOT_OF_ANCHORS = (
    *("anchors", "anchor_check", "row_tokens", "windows", "drop_refusals", "limit", "format", "mapping", "tokens"),
    *("memory", "shard_rows"),
)
EXAMPLES = ("ripcurrent anchors check mine.jsonl -m Qwen/Qwen2.5-7B-Instruct",)

anchors = group("anchors", "Look at anchor sets.")


@command("check", PANELS, EXAMPLES, without=NOT_OF_ANCHORS, of=anchors)
def check_command(
    options: ScanOptions,
    output: Output,
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="builtin, second_family, or a JSON-lines file.")
    ] = "builtin",
) -> None:
    """Check an anchor set on a model: does each signal tell harmful from safe anchors, each left out in turn?

    Exits with 2 when gradient_balanced, gradient_bidirectional or representation_bidirectional is below an AUROC of
    0.7.
    """
    from ripcurrent.scan import check_anchors, require_separation

    with output.progress() as progress:
        check = check_anchors(file, progress=progress, **options.model_dump(exclude={"anchors"}))
    output.answer(check.to_json, lambda: _show(check))
    require_separation(check.name, check.separation)


def _show(check: AnchorCheck) -> None:
    from ripcurrent.cli._text import figure, say, show_table

    show_table(
        # headings of several words wrap, where narrow terminals would cut one long one
        ("set", "category", "#", *(name.replace("_", "\n") for name in check.scores), "norm"),
        [
            (
                *(anchor.set, anchor.category or "", str(anchor.number)),
                *(f"{anchor.scores[name]:+.3f}" for name in check.scores),
                figure(anchor.norm),
            )
            for anchor in check.anchors
        ],
        title=f"Anchors {check.name}",
        words=(0, 1),
    )
    say(*(f"{name}: leave-one-out AUROC {value:.3f}" for name, value in check.separation.items()))
