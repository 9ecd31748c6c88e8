"""Conversations as text: the tokenizer's own chat template, and where each assistant turn lies in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from ripcurrent.data._types import Message, Row
from ripcurrent.errors import RipcurrentError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PROBE = "ripcurrentprobe"

DATE = datetime(2024, 7, 26, 12)
"""The date that every chat template prints: the one that Llama 3's templates fall back to."""

_CODES = ("%-d", "%-m", "%-H", "%-I", *(f"%{letter}" for letter in "AaBbdeHIjMmpSYy"))
_ON_THAT_DAY = (
    "{%- macro strftime_now(layout) -%}{{ layout"
    + "".join(f' | replace("{code}", "{DATE.strftime(code)}")' for code in _CODES)
    + ' }}{%- endmacro %}{{ "" }}'
)
"""Put before a template, replaces the function of the date that transformers gives it."""


class TemplateMismatch(Exception):  # noqa: N818 - a row's reason, not a failure
    """The chat template rejects the conversation, or renders it so that its turns cannot be found."""


@dataclass(frozen=True, slots=True)
class Span:
    """One assistant turn in the rendered text, in characters."""

    start: int
    """Where the turns before it, with the generation prompt, end."""
    end: int
    """Where the turn's own rendering ends, end-of-turn token and template tail included."""
    content_start: int
    """Where its text begins."""
    content_end: int
    """Where its text ends, before the end-of-turn token."""


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, *, chat: bool) -> None:
    """Raise `RipcurrentError` for a tokenizer without offsets or, where ``chat``, without a chat template."""
    name = tokenizer.name_or_path or type(tokenizer).__name__
    if not tokenizer.is_fast:
        raise RipcurrentError(
            f"The tokenizer of {name} gives no character offsets, so responses cannot be found in the text.",
            "Use a model with a fast tokenizer (a tokenizer.json file).",
        )
    if chat and default_template(tokenizer) is None:
        raise RipcurrentError(
            f"The tokenizer of {name} has no chat template, so no conversation can be rendered as it will be trained.",
            "Use the chat (instruct) version of the model, or add a chat_template.jinja file to its folder.",
        )


def default_template(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The chat template, of several the one by that name; None without one."""
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    return template or None


def chat_text(
    messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase, *, generation_prompt: bool = False
) -> str:
    """The conversation in the tokenizer's chat template. Raises `TemplateMismatch` where the template refuses it."""
    turns = [{"role": message.role, "content": message.content} for message in messages]
    with template_errors(tokenizer):
        return rendered(tokenizer, turns, generation_prompt=generation_prompt) if turns else _empty_chat(tokenizer)


@contextmanager
def template_errors(tokenizer: PreTrainedTokenizerBase) -> Iterator[None]:
    """Raise `TemplateMismatch` for what a template refuses, `RipcurrentError` for a template that is broken."""
    from jinja2.exceptions import TemplateError, TemplateSyntaxError

    try:
        yield
    except TemplateSyntaxError as error:
        raise RipcurrentError(
            f"The chat template of {tokenizer.name_or_path} is broken: {error.message}.",
            "Mend the model's chat template.",
        ) from error
    except (TemplateError, TypeError, ValueError) as error:
        # TypeError, ValueError: a template that joins or indexes what this conversation does not have.
        raise TemplateMismatch(str(error)) from error


def rendered(tokenizer: PreTrainedTokenizerBase, turns: Sequence[Mapping[str, Any]], *, generation_prompt: bool) -> str:
    """Turns in the tokenizer's chat template, on :data:`DATE` whenever it is."""
    return str(
        tokenizer.apply_chat_template(
            turns, chat_template=dated_template(tokenizer), tokenize=False, add_generation_prompt=generation_prompt
        )
    )


def dated_template(tokenizer: PreTrainedTokenizerBase, template: str | None = None, *, tools: object = None) -> str:
    """The template, or the tokenizer's own (that for tools, where there are), printing :data:`DATE` whenever it is."""
    template = template or str(tokenizer.get_chat_template(tools=tools))
    return _ON_THAT_DAY + template if "strftime_now" in template else template


def _empty_chat(tokenizer: PreTrainedTokenizerBase) -> str:
    """What stands before an assistant turn that opens the conversation; `apply_chat_template` refuses to say."""
    from transformers.utils.chat_template_utils import render_jinja_template

    texts, _ = render_jinja_template(
        conversations=[[]],
        chat_template=dated_template(tokenizer),
        add_generation_prompt=True,
        **tokenizer.special_tokens_map,
    )
    return str(texts[0])


def answer_head(tokenizer: PreTrainedTokenizerBase) -> str:
    """What the chat template puts before an answer; nothing without a template, or where it puts nothing there."""
    if default_template(tokenizer) is None:
        return ""
    try:
        asked = [Message("user", _PROBE)]
        return chat_text(asked, tokenizer, generation_prompt=True).removeprefix(chat_text(asked, tokenizer))
    except TemplateMismatch:
        return ""


def assistant_spans(
    text: str, messages: Sequence[Message], turns: Sequence[int], tokenizer: PreTrainedTokenizerBase
) -> Iterator[Span]:
    """Spans of those turns in ``text``, the rendering of all ``messages``, one at a time.

    Raises `TemplateMismatch` where a rendered beginning is no beginning of the whole (methods.md, section 1).
    """
    for turn in turns:
        before = chat_text(messages[:turn], tokenizer, generation_prompt=True)
        through = text if turn + 1 == len(messages) else chat_text(messages[: turn + 1], tokenizer)
        if not text.startswith(through) and tokenizer.eos_token:
            # Phi-3's and others' end whatever they render with the end of text
            through = through.removesuffix(str(tokenizer.eos_token))
        if not text.startswith(before):
            raise TemplateMismatch("what it renders up to an answer is not the beginning of the whole conversation")
        if not text.startswith(through):
            raise TemplateMismatch("it renders an earlier answer otherwise than the last one")
        start, end = len(before), len(through)
        yield Span(start, end, *_content_span(text, start, end, messages[: turn + 1], tokenizer))


def _content_span(
    text: str, start: int, end: int, messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase
) -> tuple[int, int]:
    """Where the last message's own text lies between ``start`` and ``end``."""
    content = messages[-1].content
    # Templates keep the text or strip it; before it stands at most white space or a header, so the first hit is it.
    for form in (content, content.strip()):
        found = text.find(form, start, end)
        if found >= 0:
            return found, found + len(form)
    # A template that rewrites the text (one that drops a reasoning part, say) still closes every turn alike.
    probe = chat_text([*messages[:-1], Message("assistant", _PROBE)], tokenizer)
    tail = probe[probe.rfind(_PROBE) + len(_PROBE) :]
    if _PROBE not in probe or not text.endswith(tail, start, end):
        raise TemplateMismatch("the response is not in the rendering")
    return start, end - len(tail)


def render(row: Row, tokenizer: PreTrainedTokenizerBase) -> str:
    """The text that is tokenised for a row: the whole conversation in the chat template, or the document itself.

    Raises:
        RipcurrentError: the row is no conversation, or the template rejects it.
    """
    if row.text is not None:
        return row.text
    if not row.messages:
        raise RipcurrentError(f"Row {row.index} cannot be rendered: {row.problem}.", "Choose another row.")
    check_tokenizer(tokenizer, chat=True)
    try:
        return chat_text(row.messages, tokenizer)
    except TemplateMismatch as error:
        raise RipcurrentError(
            f"Row {row.index} cannot be rendered: the chat template says: {error}.", "Choose another row or model."
        ) from error
