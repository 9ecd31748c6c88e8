"""Conversations as text: the tokenizer's own chat template, and where each assistant turn lies in it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from ripcurrent.data._formats import THOUGHTS, Unusable
from ripcurrent.data._types import Fields, Message, Row
from ripcurrent.errors import RipcurrentError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROBE = "ripcurrentprobe"

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
    messages: Sequence[Message],
    tokenizer: PreTrainedTokenizerBase,
    *,
    tools: list[Any] | None = None,
    generation_prompt: bool = False,
) -> str:
    """The conversation in the tokenizer's chat template. Raises `TemplateMismatch` where the template refuses it."""
    turns = [{"role": message.role, "content": message.content, **message.parts} for message in messages]
    try:
        with template_errors(tokenizer):
            return rendered(tokenizer, turns, tools=tools, generation_prompt=generation_prompt)
    except TemplateMismatch:
        written = [_with_arguments_as_text(message) for message in messages]
        if written == list(messages):
            raise
    return chat_text(written, tokenizer, tools=tools, generation_prompt=generation_prompt)


def _with_arguments_as_text(message: Message) -> Message:
    """Its tool calls as DeepSeek's and other templates join them."""
    texts = [one if isinstance(one := call["arguments"], str) else json.dumps(one) for call in message.calls]
    calls = zip(message.parts.get("tool_calls", ()), texts, strict=True)
    made = [{**call, "function": {**call["function"], "arguments": text}} for call, text in calls]
    return replace(message, parts={**message.parts, "tool_calls": made}) if made else message


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


def rendered(
    tokenizer: PreTrainedTokenizerBase,
    turns: Sequence[Fields],
    *,
    generation_prompt: bool,
    tools: list[Any] | None = None,
    **variables: object,
) -> str:
    """Turns in the tokenizer's chat template, on :data:`DATE` whenever it is."""
    how = {**variables, "tools": tools, "tokenize": False, "add_generation_prompt": generation_prompt}
    return str(tokenizer.apply_chat_template(turns, chat_template=dated_template(tokenizer, tools=tools), **how))


def dated_template(tokenizer: PreTrainedTokenizerBase, template: str | None = None, *, tools: object = None) -> str:
    """The template, or the tokenizer's own (that for tools, where there are), printing :data:`DATE` whenever it is."""
    template = template or str(tokenizer.get_chat_template(tools=tools))
    return _ON_THAT_DAY + template if "strftime_now" in template else template


def answer_head(tokenizer: PreTrainedTokenizerBase) -> str:
    """What the chat template puts before an answer; nothing without a template, or where it puts nothing there."""
    if default_template(tokenizer) is None:
        return ""
    try:
        asked = [Message("user", PROBE)]
        return chat_text(asked, tokenizer, generation_prompt=True).removeprefix(chat_text(asked, tokenizer))
    except TemplateMismatch:
        return ""


def assistant_spans(
    text: str,
    messages: Sequence[Message],
    turns: Sequence[int],
    tokenizer: PreTrainedTokenizerBase,
    tools: list[Any] | None = None,
) -> Iterator[Span]:
    """Spans of those turns in ``text``, the rendering of all ``messages``, one at a time.

    Raises `TemplateMismatch` where a rendered beginning is no beginning of the whole (methods.md, section 1), and
    `Unusable` where a turn's tool calls do not stand in its span.
    """
    for turn in turns:
        if turn:
            before = chat_text(messages[:turn], tokenizer, tools=tools, generation_prompt=True)
        else:
            # templates render no conversation without turns
            before, head = chat_text([Message("assistant", PROBE)], tokenizer, tools=tools), answer_head(tokenizer)
            before = before.partition(PROBE)[0]
            before = before[: before.rfind(head) + len(head)] if head in before else before
        through = text if turn + 1 == len(messages) else chat_text(messages[: turn + 1], tokenizer, tools=tools)
        if not text.startswith(through) and tokenizer.eos_token:
            # Phi-3's and others' end whatever they render with the end of text
            through = through.removesuffix(str(tokenizer.eos_token))
        if not text.startswith(before):
            raise TemplateMismatch("what it renders up to an answer is not the beginning of the whole conversation")
        if not text.startswith(through):
            raise TemplateMismatch("it renders an earlier answer otherwise than the last one")
        start, end = len(before), len(through)
        if calls := messages[turn].calls:
            if not all(_stands(said, through[start:]) for call in calls for said in _sayings(call)):
                raise Unusable("tools_not_held")
            # what is between the calls and the end of the turn differs from that behind a text
            yield Span(start, end, start, start + len(through[start:].rstrip().removesuffix(str(tokenizer.eos_token))))
        else:
            yield Span(start, end, *_content_span(text, start, end, messages[: turn + 1], tokenizer))


def hides_tools(text: str, row: Row, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether ``text``, the row's rendering, is without its tools, or without a call or an answer of one."""
    for message in row.messages:
        said = [word for call in message.calls for word in _sayings(call)]
        if not all(_stands(word, text) for word in [*said, *([message.content] if message.role == "tool" else ())]):
            return True
    try:
        return row.tools is not None and chat_text(row.messages, tokenizer) == text
    except TemplateMismatch:
        return False


def hides_thoughts(text: str, messages: Sequence[Message]) -> bool:
    """Whether reasoning that a row has beside its answers is left out of its rendering."""
    thoughts = (message.parts[key] for message in messages for key in THOUGHTS if key in message.parts)
    return not all(_stands(thought, text) for thought in thoughts)


def _sayings(value: Any) -> Iterator[str]:
    """Texts and keys in a tool call."""
    if isinstance(value, Mapping):
        yield from (key for key in value if key not in ("name", "arguments"))
    if isinstance(value, Mapping | list):
        for one in value.values() if isinstance(value, Mapping) else value:
            yield from _sayings(one)
    elif isinstance(value, str):
        yield value


def _stands(said: str, text: str) -> bool:
    """Whether the text has these words, as they are or as JSON writes them."""
    forms = (said.strip(), json.dumps(said)[1:-1], json.dumps(said, ensure_ascii=False)[1:-1])
    return any(form in text for form in forms)


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
    probe = chat_text([*messages[:-1], Message("assistant", PROBE)], tokenizer)
    tail = probe[probe.rfind(PROBE) + len(PROBE) :]
    if PROBE not in probe or not text.endswith(tail, start, end):
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
        return chat_text(row.messages, tokenizer, tools=row.tools)
    except TemplateMismatch as error:
        raise RipcurrentError(
            f"Row {row.index} cannot be rendered: the chat template says: {error}.", "Choose another row or model."
        ) from error
