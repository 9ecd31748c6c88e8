"""``ripcurrent anchors``: look at an anchor set before trusting it."""

from typing import Annotated

from ripcurrent.cli._command import argument, command, group
from ripcurrent.cli._output import Output, say, show_table
from ripcurrent.scan import ScanOptions

PANELS = {"Model": ("model", "adapter", "device", "dtype"), "Method": ("signals", "scope", "max_tokens")}
NOT_OF_ANCHORS = (
    *("anchors", "anchor_check", "row_tokens", "drop_refusals", "limit", "format", "mapping", "tokens"),
    *("spec", "memory", "shard_rows"),
)
EXAMPLES = ("ripcurrent anchors check mine.jsonl -m Qwen/Qwen2.5-7B-Instruct",)


@command("check", PANELS, EXAMPLES, without=NOT_OF_ANCHORS, of=group("anchors", "Look at anchor sets."))
def check_command(
    options: ScanOptions,
    output: Output,
    file: Annotated[str, argument("FILE", "builtin, second_family, or a JSON-lines file.")] = "builtin",
) -> None:
    """Check an anchor set on a model: does each signal tell harmful from safe anchors, each left out in turn?

    Exits with 2 when gradient_balanced, gradient_bidirectional or representation_bidirectional is below an AUROC of
    0.7.
    """
    from ripcurrent.scan import check_anchors, require_separation

    with output.progress() as progress:
        check = check_anchors(file, progress=progress, **options.model_dump(exclude={"anchors"}))
    if output.answer(check.to_json):
        # headings of several words wrap, where narrow terminals would cut one long one
        scores = (name.replace("_", "\n") + f" {{scores.{name}:+.3f}}" for name in check.scores)
        layout = " | ".join(("set {set} | category {category} | # {number}", *scores, "norm {norm:.2f}"))
        show_table(layout, check.anchors, title=f"Anchors {check.name}", words=(0, 1))
        say(*(f"{name}: leave-one-out AUROC {value:.3f}" for name, value in check.separation.items()))
    require_separation(check.name, check.separation)
