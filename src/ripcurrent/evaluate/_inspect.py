"""Answers that a log of Inspect (``.eval``) holds, read to be judged."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import BadZipFile

from pydantic import BaseModel, ConfigDict

from ripcurrent.errors import ExitCode, MissingExtraError, RipcurrentError
from ripcurrent.evaluate._endpoint import writable
from ripcurrent.evaluate._options import Axis
from ripcurrent.evaluate._prompts import Prompt, PromptSet, own_axis, own_category, set_of
from ripcurrent.evaluate._responses import Response
from ripcurrent.evaluate.judges import Facts

if TYPE_CHECKING:
    from inspect_ai.log import EvalLog, EvalSample
    from inspect_ai.model import ModelOutput

WITHHELD = "ripcurrent_withheld"
"""Of a sample's metadata: true where the answer is not in the log."""
UNREAD = {"events", "events_data", "timelines", "store"}
"""Parts of a sample that hold no answer, and most of a log."""


class LogInfo(BaseModel):
    """What a manifest keeps of a model whose answers an Inspect log holds."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    log: str
    """The file, without its folder."""
    name: str
    """The model, as Inspect names it."""
    task: str
    status: str


@dataclass(frozen=True, slots=True)
class LoggedAnswers:
    """The answers of an Inspect log, in its order; in one of several epochs a prompt comes as often as it was asked."""

    prompts: tuple[Prompt, ...]
    responses: tuple[Response, ...]
    prompt_set: PromptSet
    info: LogInfo
    generation: Facts


def require_inspect_log(path: Path) -> None:
    """Raise RipcurrentError where such a log cannot be read or written: another suffix, or Inspect is not installed."""
    if path.suffix not in (".eval", ".json"):
        raise RipcurrentError(f"{path} is no Inspect log by its name.", "Such a log ends in .eval or .json.")
    try:
        import inspect_ai.log  # noqa: F401
    except ImportError:
        raise MissingExtraError("inspect-ai", "inspect") from None


def read_inspect_log(path: Path, *, limit: int | None = None, axis: Axis = "harmful") -> LoggedAnswers:
    """Read the answers of an Inspect log.

    ``limit`` takes the first N prompts of each axis. ``axis`` is that of samples whose metadata do not say theirs, by
    ``axis`` or ``label``. Samples that ended in an error, hold no answer or withhold it are left out, which the
    prompt set's notes say.

    Raises:
        RipcurrentError: No log, a damaged one, an unknown axis, or no answer in it.
    """
    require_inspect_log(path)
    log = _opened(path)
    samples, asked = log.samples or [], log.plan.config
    drafts: list[tuple[Prompt, Response]] = []
    taken: dict[Axis, set[str]] = {}
    left_out: dict[str, list[str]] = {}
    for sample in samples:
        if why := _lacks_answer(sample):
            left_out.setdefault(why, []).append(str(sample.id))
            continue
        pair = _read_sample(sample, path, axis)
        ids = taken.setdefault(pair[0].axis, set())
        if limit is None or len(ids) < limit or str(sample.id) in ids:
            ids.add(str(sample.id))
            drafts.append(pair)
    notes = [
        f"{path.name}: {len(ids)} of {len(samples)} samples {why} and are left out (the first is {ids[0]})."
        for why, ids in left_out.items()
    ]
    if all(response.rejected is not None for _, response in drafts):
        what = f"{path} (status {log.status}) holds no answer to judge in its {len(samples)} samples."
        hint = " ".join(notes) or "Run the evaluation with Inspect first, and keep its samples in the log."
        raise RipcurrentError(what, hint, code=ExitCode.NOT_MEASURED)
    found = set_of(path.name, [prompt for prompt, _ in drafts], None, (*notes, *_notes_on_log(path, log)))
    pairs = zip(found.prompts, drafts, strict=True)
    return LoggedAnswers(
        found.prompts,
        tuple(replace(response, prompt_id=prompt.id) for prompt, (_, response) in pairs),
        found.model_copy(update={"limit": limit, "prompts": ()}),
        LogInfo(log=path.name, name=log.eval.model, task=log.eval.task, status=log.status),
        {"engine": "inspect", "temperature": asked.temperature, "max_new_tokens": asked.max_tokens},
    )


def _opened(path: Path) -> EvalLog:
    """The log, whole but for what holds no answer."""
    from inspect_ai.log import read_eval_log

    if not path.is_file():
        raise RipcurrentError(f"There is no file {path}.", "Inspect writes its logs into ./logs unless told otherwise.")
    try:
        return read_eval_log(path, resolve_attachments="core", exclude_fields=UNREAD)
    except (BadZipFile, EOFError, LookupError, OSError, RuntimeError, ValueError) as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        hint = "Open it with `inspect view`; if that fails too, run the evaluation again."
        raise RipcurrentError(f"Inspect cannot read {path}: {said}.", hint) from error


def _notes_on_log(path: Path, log: EvalLog) -> Iterator[str]:
    """What should be known of the log as a whole."""
    epochs, planned = log.eval.config.epochs or 1, log.eval.dataset.samples or 0
    if log.status != "success":
        of = f" of the {planned * epochs} that were planned" if planned else ""
        yield f"{path.name} has the status {log.status!r}, and {len(log.samples or ())} samples{of}."
    if log.invalidated:
        yield f"{path.name} was marked as invalid in Inspect."
    if epochs > 1:
        yield f"{path.name} has {epochs} epochs: each answer counts, so intervals are too narrow."


def _lacks_answer(sample: EvalSample) -> str | None:
    """Why a sample holds no answer that could be judged."""
    if sample.metadata.get(WITHHELD):
        return "withhold the answer (the log was written without --reveal)"
    if sample.error is not None:
        return "ended in an error"
    if not sample.output.choices:
        return "have no output"
    asks = isinstance(sample.input, str) or any(turn.role == "user" for turn in sample.input)
    return None if asks else "have no user turn"


def _read_sample(sample: EvalSample, path: Path, axis: Axis) -> tuple[Prompt, Response]:
    """The prompt and answer of one sample that has them; the prompt is the last turn of the user."""
    given, fields = sample.input, {name.lower(): value for name, value in sample.metadata.items()}
    asked = given if isinstance(given, str) else [turn.text for turn in given if turn.role == "user"][-1]
    name = writable(str(sample.id)) + (f"/{sample.epoch}" if sample.epoch > 1 else "")
    of = own_axis(fields, axis, f"{path}, sample {sample.id}")
    prompt = Prompt(name, writable(asked), of, own_category(fields), str(fields.get("source") or path.name))
    said, cut, rejected = read_output(sample.output)
    tokens = sample.output.usage.output_tokens if sample.output.usage is not None else None
    return prompt, Response(name, said, tokens, cut or sample.limit is not None, rejected)


def read_output(output: ModelOutput) -> tuple[str, bool, str | None]:
    """An answer's text, whether a limit cut it, and what a provider's filter said that let none through."""
    said, parts = output.completion, output.message.content
    if not said and isinstance(parts, list):
        # thoughts without an answer are kept as those of other engines are: as a block that is not closed
        said = next((f"<think>\n{part.reasoning}" for part in parts if part.type == "reasoning"), "")
    filtered = output.stop_reason == "content_filter" and not said
    rejected = (output.error or "the provider's filter withheld the answer") if filtered else None
    return writable(said), output.stop_reason in ("max_tokens", "model_length"), rejected
