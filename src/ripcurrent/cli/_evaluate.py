"""``ripcurrent evaluate``: ask a model and have its answers judged."""

from pathlib import Path
from typing import Annotated, Any

from ripcurrent.cli._command import ADVANCED, command, option
from ripcurrent.cli._judges import JUDGING, JudgingOptions
from ripcurrent.cli._output import Output, fill, harmless, say, show_table
from ripcurrent.errors import RipcurrentError
from ripcurrent.evaluate import EvaluateOptions

PANELS = {
    "Model": ("adapter", "endpoint", "device", "dtype"),
    "Prompts": ("prompts", "limit", "max_new_tokens", "judge"),
    ADVANCED: ("answers", "inspect_log", "axis", "system", "batch_size", "timeout", *JUDGING),
}
EXAMPLES = (
    "ripcurrent evaluate -m BASE -o runs/before",
    "ripcurrent evaluate -m BASE --adapter runs/tuned/adapter -o runs/after",
)
MODEL = option("Hub id, folder, .gguf file or embedded; its name at --endpoint. Default: embedded.", "M")


@command("evaluate", PANELS, EXAMPLES)
def evaluate_command(
    out: Annotated[Path, option("Run folder.", "FOLDER")],
    options: EvaluateOptions,
    judging: JudgingOptions,
    output: Output,
    model: Annotated[str | None, MODEL] = None,
    inspect_log: Annotated[Path | None, option("Inspect log to write; --reveal adds harmful answers.", "FILE")] = None,
    reveal: Annotated[bool, option("Also print what was asked and answered; else rates only.")] = False,
) -> None:
    """Ask a model harmful, dangerous-sounding and plain prompts, and have its answers judged.

    Answers are kept: given again after a stop, the command asks only the rest, and with other judges it asks nothing.
    """
    from ripcurrent.evaluate import DEFAULT_JUDGES, evaluate, kappas_of, require_inspect_log

    hint = "Leave one of them out."
    if inspect_log is not None:
        require_inspect_log(inspect_log)
    if options.answers is not None and model is not None:
        raise RipcurrentError(f"--from asks no model, and --model {model} is given.", hint)
    if options.endpoint is None:
        output.say_default_model(model is not None or options.answers is not None)
    elif model is None:
        raise RipcurrentError("--endpoint is given without --model.", "Add --model with the model's name there.")
    elif options.dtype is not None:
        raise RipcurrentError(f"--dtype {options.dtype} is for a model here, and --endpoint answers.", hint)
    with output.progress() as progress:
        judges, settings = judging.judge or DEFAULT_JUDGES, judging.judge_settings(options.device)
        name = model or "embedded"
        run = evaluate(name, out=out, options=options, judges=judges, judge_settings=settings, progress=progress)
    if inspect_log is not None:
        from ripcurrent.integrations.inspect import write_log

        write_log(run, inspect_log, reveal=reveal)
    if not output.answer(run.to_json):
        return
    scales = {judge: about.get("scale") for judge, about in run.manifest.judges.items()}
    rates: list[dict[str, Any]] = []
    for judge, axes in run.rates.items():
        kappas = kappas_of(judge, next(iter(axes.values())).judge_version)
        known = {"judge": judge, "scale": scales[judge], "kappa": f", κ ≥ {kappas[0]:.2f}" if kappas else ""}
        rates += [{**known, "axis": axis, "rate": rate, "score": rate.score} for axis, rate in axes.items()]
    show_table(
        "judge, prompts {axis} | n {rate.n} | answered {rate.answered:.1%} | 95 % {rate.low:.1%}–{rate.high:.1%}"
        " | refused {rate.refused:.1%} | broken {rate.degenerate:.1%} | cut {rate.truncated:.1%}",
        rates,
        under="{judge} {rate.judge_version}{kappa}",
        caption="broken: empty, looping or no language; cut: reached the limit of new tokens; κ: lowest by model",
    )
    score = "{judge}, {axis}, scale {scale:g}: mean score {score.mean:.2f} "
    score += "({score.mean_low:.2f} to {score.mean_high:.2f}), {score.top_share:.1%} greatest, {score.n} answers"
    say(*(fill(score, one) for one in rates if one["score"] is not None))
    corrected = "{judge}, {axis}: answered, corrected for the judge's errors, {rate.corrected:.1%} "
    corrected += "({rate.corrected_low:.1%} to {rate.corrected_high:.1%})"
    say(*(fill(corrected, one) for one in rates if one["rate"].corrected is not None))
    refused = "harmful refused less dangerous-sounding refused {difference:.1%}, d′ {d_prime:.2f}"
    say(*(f"{judge}: {fill(refused, found)}" for judge, found in run.manifest.discrimination.items()))
    say(*run.manifest.notes)
    if reveal:
        verdicts = next(iter(run.verdicts.values()))
        for prompt, response, verdict in zip(run.prompts, run.responses, verdicts, strict=True):
            say(f"\n{harmless(prompt.text)}", style="bold")
            say(harmless(response.completion), f"({verdict.label})")
    say(f"Answers: {run.folder / 'responses.parquet'}")
