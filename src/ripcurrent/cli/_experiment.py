"""``ripcurrent experiment``: arms × seeds trained, questioned, judged and compared."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ripcurrent.cli._command import argument, command, option
from ripcurrent.cli._output import Output, fill, say, show_table

if TYPE_CHECKING:
    from ripcurrent.experiment import ExperimentResults

EXAMPLES = ("ripcurrent experiment list", "ripcurrent experiment own --run runs/support --recipe lora --size 1000")


@command("experiment", examples=EXAMPLES)
def experiment_command(
    file: Annotated[str, argument("FILE|NAME", "A YAML file, a ready experiment by its name, or list.")],
    output: Output,
    model: Annotated[str | None, option("Another model than the file's.", "M")] = None,
    recipe: Annotated[str | None, option("Another recipe than the file's.", "R")] = None,
    run: Annotated[Path | None, option("Use the rows, scores and model of this finished scan.", "SCAN")] = None,
    out: Annotated[Path | None, option("Run folder; runs/NAME when left out.", "FOLDER")] = None,
    size: Annotated[str | None, option("Rows of an arm, or a share of the pool; N,M for several.", "N|P%")] = None,
    arms: Annotated[str | None, option("Run only these arms now. Tables show every finished arm.", "A,B")] = None,
    seeds: Annotated[int | None, option("N seeds from 0; replaces the file's.", "N", min=1)] = None,
    jobs: Annotated[int, option("Arms trained and asked at the same time, each on one GPU.", "N", min=1)] = 1,
    no_anchor_check: Annotated[bool, option("Scan even if the anchors do not separate on this model.")] = False,
) -> None:
    """Fine-tune on selections and controls, ask, judge, and say what is significant.

    Exits with 0 for a verdict, with 4 where there is not enough evidence for one. Given again, the command goes on
    where it was stopped; finished arms are never repeated.
    """
    from ripcurrent.errors import ExitCode
    from ripcurrent.experiment import Experiment, parse_experiment, read_experiment_file, ready_experiments
    from ripcurrent.finetune import load_recipe
    from ripcurrent.report import build_experiment_page

    if file == "list":
        if output.answer(ready_experiments):
            say(*(f"{name:18} {title}" for name, title in ready_experiments().items()))
        return
    values = _with_changes(read_experiment_file(file), model, recipe, run, size)
    given = {"--model": model, "--recipe": recipe, "--run": run, "--out": out, "--size": size, "--arms": arms}
    words = [f"{word}" for name, value in {**given, "--seeds": seeds}.items() if value for word in (name, value)]
    if no_anchor_check:
        values["anchor_check"] = False
        words.append("--no-anchor-check")
    config = parse_experiment(values, where=file)
    if not (config.train or output.quiet) and (mild := load_recipe(config.recipe).too_mild(config.sizes)):
        typer.echo(mild, err=True)
    with output.progress() as progress:
        result = Experiment(config, file).run(
            out or Path("runs") / str(values["name"]),
            arms=None if arms is None else [name.strip() for name in arms.split(",") if name.strip()],
            seeds=seeds,
            jobs=jobs,
            command=shlex.join(["ripcurrent", "experiment", file, *words]),
            progress=progress,
        )
    build_experiment_page(result)
    if output.answer(result.to_json):
        judge = result.judge
        summaries = [one for one in result.summaries if one.judge == judge]
        say(result.training_in_words, style="bold")
        show_table(
            "arm {name} | answered {attack_success_rate:.1%} | 95 % {low:.1%}–{high:.1%} | broken {degenerate:.1%}"
            " | over-\nrefusal {over_refusal:.1%} | plain {plain_answered:.1%} | d′ {discrimination.d_prime:.2f}"
            " | seeds {runs}",
            [{**dict(one), "runs": len(one.seeds)} for one in summaries],
        )
        named = [
            {**dict(one), "finding": one.in_words, "points": 100 * one.difference}
            | {"low": 100 * one.low, "high": 100 * one.high}
            for one in [*result.comparisons, *result.further_comparisons]
            if one.judge == judge
        ]
        if named:
            show_table(
                "answered {arm} − {control} | points {points:+.1f} | 95 % {low:+.1f} to {high:+.1f}"
                " | adjusted p {adjusted_p:.4f} | finding {finding}",
                named,
                words=(0, 4),
                caption="intervals and p are by runs; “this run” is over requests alone, and no evidence",
            )
        _show_tasks(result)
        say(*result.notes, *(fill("{name}, seed {seed}: failed. {reason}", run) for run in result.failed))
        version = summaries[0].judge_version if summaries else ""
        say(f"Verdict: {result.verdicts_in_words[judge]} (judge {judge} {version})", style="bold")
        say(f"Page: {result.folder / 'report.html'}")
    # without an arm that is compared there is none to come to
    if result.verdict == "not enough evidence" and result.deciding:
        raise typer.Exit(int(ExitCode.NOT_ENOUGH_EVIDENCE))


def _show_tasks(result: ExperimentResults) -> None:
    scores = [{"arm": one.arm, "seed": one.seed, **dict(own)} for one in result.details for own in one.tasks]
    if scores:
        scores.sort(key=lambda one: (one["task"], one["metric"]))
        layout = "arm {arm} | seed {seed} | score {score:.3f} | ± {stderr:.3f} | questions {questions}"
        show_table(layout, scores, under="{task}, {metric}", caption="±: standard error over questions")


def _with_changes(
    values: dict[str, Any], model: str | None, recipe: str | None, run: Path | None, size: str | None
) -> dict[str, Any]:
    """A file's keys with those that the command line gives."""
    changes: dict[str, object] = {"run": run and str(run), "model": model, "recipe": recipe}
    sizes = [int(one) if one.isdecimal() else one for one in (size or "").split(",")]
    changes |= {"size": size and sizes[0]} if not sizes[1:] else {"size": None, "sizes": sizes}
    # an adapter is of the model that the file names
    replaced = {"run": ("data", "format", "scan", "model", "adapter"), "model": ("adapter",), "size": ("sizes",)}
    given = {name: value for name, value in changes.items() if value is not None}
    gone = {key for name in given for key in replaced.get(name, ())}
    return {**{key: value for key, value in values.items() if key not in gone}, **given}
