"""``ripcurrent anchors``: look at an anchor set before trusting it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ripcurrent.cli._scan import (
    ADAPTER,
    ATTENTION,
    DTYPE,
    JSON,
    LAYER,
    MAX_TOKENS,
    MODEL,
    POSITION,
    QUIET,
    SCOPE,
    SEED,
    SIGNALS,
    SPREAD_DEVICE,
)

anchors_app = typer.Typer(help="Look at anchor sets.")


@anchors_app.callback(invoke_without_command=True)
def anchors_root(context: typer.Context) -> None:
    """Look at anchor sets."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(1)


@anchors_app.command("check")
def check_command(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="builtin, second_family, or a JSON-lines file.")
    ] = "builtin",
    model: MODEL = "embedded",
    adapter: ADAPTER = None,
    signals: SIGNALS = "all",
    scope: SCOPE = "all",
    position: POSITION = "last",
    layer: LAYER = None,
    avg_n: Annotated[int, typer.Option(metavar="N", help="How many largest cosines are averaged.")] = 1,
    anchor_tokens: Annotated[int, typer.Option(metavar="T", help="First tokens of an anchor's response used.")] = 10,
    max_tokens: MAX_TOKENS = 1024,
    seed: SEED = 0,
    device: SPREAD_DEVICE = None,
    dtype: DTYPE = None,
    attention: ATTENTION = "sdpa",
    as_json: JSON = False,
    quiet: QUIET = False,
) -> None:
    """Check an anchor set on a model: does each signal tell harmful from safe anchors, each left out in turn?

    Exits with 2 when gradient_balanced, gradient_bidirectional or representation_bidirectional is below an AUROC of
    0.7.
    """
    from ripcurrent.cli._output import TerminalProgress, print_json
    from ripcurrent.scan._check_anchors import check_anchors
    from ripcurrent.scan._separation import require_separation

    options: dict[str, Any] = {
        "model": model,
        "adapter": adapter,
        "signals": signals,
        "scope": scope,
        "position": position,
        "layer": layer,
        "avg_n": avg_n,
        "anchor_tokens": anchor_tokens,
        "max_tokens": max_tokens,
        "seed": seed,
        "device": device,
        "dtype": dtype,
        "attention": attention,
    }
    if quiet or as_json:
        check = check_anchors(file, **options)
    else:
        with TerminalProgress().shown() as progress:
            check = check_anchors(file, progress=progress, **options)
    if as_json:
        print_json(check.to_json())
    elif not quiet:
        from rich import box
        from rich.console import Console
        from rich.markup import escape
        from rich.table import Table

        # headings of several words wrap, where narrow terminals would cut one long one
        headings = [name.replace("_", " ") for name in check.scores]
        table = Table(box=box.SIMPLE_HEAD, title=f"Anchors {escape(check.name)}", padding=(0, 1, 0, 0))
        for heading in ("set", "#"):
            table.add_column(heading)
        table.add_column("category", max_width=12)
        for heading in headings:
            table.add_column(heading, min_width=max(map(len, heading.split())))
        table.add_column("norm", min_width=5)
        for anchor in check.anchors:
            norm = "" if anchor.norm is None else f"{anchor.norm:.2f}"
            cells = [f"{anchor.scores[name]:+.3f}" for name in check.scores]
            table.add_row(escape(anchor.set), str(anchor.number), escape(anchor.category or ""), *cells, norm)
        console = Console()
        console.print(table)
        for name, value in check.separation.items():
            console.print(f"{name}: leave-one-out AUROC {value:.3f}", highlight=False)
    require_separation(check.name, check.separation)
