"""Templates that LLaMA-Factory trains with: what stands around the text of each turn."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

from ripcurrent.data._render import rendered
from ripcurrent.data._spec import facts_of
from ripcurrent.data._types import Fields
from ripcurrent.errors import RipcurrentError

Slots = tuple[str, ...]
"""Pieces of text, each tokenised by itself; `BOS` and `EOS` stand for the tokenizer's own tokens."""

PROBE = "{{content}}"
"""Where a turn's text stands in its slots."""
BOS, EOS = "\0bos", "\0eos"


class TurnTemplate(NamedTuple):
    """One of LLaMA-Factory's templates."""

    user: Slots = (PROBE,)
    """A question, with what opens the answer."""
    assistant: Slots = (PROBE, EOS)
    """An answer, with what closes it: all of it bears loss."""
    system: Slots = (PROBE,)
    observation: Slots = ()
    """A tool's result; without slots of its own those of a question."""
    prefix: Slots = ()
    """Before the first turn."""
    default_system: str = ""
    """System text of rows without one."""
    stop_words: Slots = ()
    """Tokens that LLaMA-Factory adds to a tokenizer that lacks them."""
    joins_system: bool = False
    """The system text is put into the first question."""
    efficient_eos: bool = False
    """The end of text is trained once, after the last answer."""
    reasons: bool = False
    """An answer without a thought is given an empty one."""

    @classmethod
    def of(cls, given: Fields) -> TurnTemplate:
        """One of the file of templates."""
        slots: Fields = {key: tuple(one) if isinstance(one, list) else one for key, one in given.items()}
        return cls(**slots)


TEMPLATES = {name: TurnTemplate.of(given) for name, given in facts_of("llamafactory")["templates"].items()}
"""Templates by LLaMA-Factory's names."""


def template_of(tokenizer: PreTrainedTokenizerBase) -> TurnTemplate:
    """What LLaMA-Factory derives from a chat template where no template is named.

    Raises:
        RipcurrentError: It derives none from this one.
    """
    text = tokenizer.chat_template
    return _derived(tokenizer, text) if isinstance(text, str) else TEMPLATES["empty"]


@lru_cache(maxsize=4)
def _derived(tokenizer: PreTrainedTokenizerBase, text: str) -> TurnTemplate:
    """The slots as differences between renderings; ``text`` is the chat template, for the cache."""
    prefix = str(tokenizer.decode(tokenizer.encode("")))
    probe = {"content": PROBE}

    def shown(*turns: dict[str, str], opens: bool = False) -> str:
        return rendered(tokenizer, turns, generation_prompt=opens)[len(prefix) :]

    try:
        system = shown({"role": "system", **probe})
        bare = shown({"role": "system", "content": ""}, {"role": "user", **probe}, opens=True)
        user = shown({"role": "user", **probe}, opens=True)
        assistant = shown({"role": "user", **probe}, {"role": "assistant", **probe})[len(user) :]
    except (TemplateError, TypeError) as error:
        raise _underivable(tokenizer, str(error)) from error
    reasons = "<think>" in assistant
    assistant = assistant.replace("<think>", "").replace("</think>", "").lstrip("\n")
    default_system = ""
    if len(user) > len(bare):
        default_system = _added(bare, user)
        user = user[len(system.replace(PROBE, default_system, 1)) :]
    if not all(PROBE in slot for slot in (system, user, assistant)):
        raise _underivable(tokenizer, "it leaves out the text of a turn")
    return TurnTemplate(
        (user,), (assistant,), (system,), prefix=(prefix,), default_system=default_system, reasons=reasons
    )


def _added(short: str, long: str) -> str:
    """Characters of ``long`` that remain when those of ``short`` are taken from it one after the other."""
    added = ""
    for character in long if short else "":
        if short[:1] == character:
            short = short[1:]
        elif short:
            added += character
    return added


def _underivable(tokenizer: PreTrainedTokenizerBase, why: str) -> RipcurrentError:
    return RipcurrentError(
        f"LLaMA-Factory derives no template from the chat template of {tokenizer.name_or_path}: {why}.",
        f"Name the template that you train with: template=NAME, of {', '.join(TEMPLATES)}",
    )
