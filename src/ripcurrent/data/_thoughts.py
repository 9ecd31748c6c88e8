"""The ``<think>`` blocks of reasoning models: what is said in them is no answer."""

from __future__ import annotations

import re

_THOUGHT = re.compile(r"<(think|thinking)>.*?</\1>", re.DOTALL | re.IGNORECASE)
_CLOSED_ONLY = re.compile(r"\A.*</think(?:ing)?>", re.DOTALL | re.IGNORECASE)
_OPENED_ONLY = re.compile(r"<think(?:ing)?>.*\Z", re.DOTALL | re.IGNORECASE)
_OPENED_LAST = re.compile(r"<think(?:ing)?>\s*\Z", re.IGNORECASE)


def strip_thoughts(text: str) -> str:
    """The answer without its ``<think>…</think>`` blocks.

    A closing tag alone ends thoughts that the chat template opened; an opening tag alone begins thoughts that the
    token limit cut, so that no answer was given.
    """
    return _OPENED_ONLY.sub("", _CLOSED_ONLY.sub("", _THOUGHT.sub("", text))).strip()


def opened_thought(prompt: str) -> str:
    """The opening tag that ends a prompt, where the chat template lets a model begin with its thoughts; or nothing."""
    found = _OPENED_LAST.search(prompt)
    return "" if found is None else found.group()
