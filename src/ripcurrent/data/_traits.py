"""Traits of a response (methods.md, section 7): list, maths, code, refusal; and the thoughts that are no part of it."""

import re
from importlib import resources

from ripcurrent.data._types import Traits

REFUSAL_PHRASES: tuple[str, ...] = tuple(
    line
    for line in resources.files("ripcurrent.data").joinpath("refusals.txt").read_text(encoding="utf-8").splitlines()
    if not line.startswith("#")
)
"""The safety pre-filter's criterion, our own list and as broad as the published one: it finds rows whose response
refuses, warns, moralises or speaks of law and fairness, many of them harmless. It is no judge of refusal."""

BULLET_LINE = re.compile(r"^[ \t]*(?:[-*•‣◦▪●○·–—][ \t]*|\+[ \t]+)(?=[^\s\-*=_|])", re.MULTILINE)
NUMBERED_LINE = re.compile(r"^[ \t]*(?:\*\*)?(?:[(\[]?\d{1,3}(?:\.(?!\d)|[)\]])|[Ss]tep \d{1,3}\b)", re.MULTILINE)
_FIRST_NUMBER = re.compile(r"\s*(?:\*\*)?(?:[(\[]?1(?:\.(?!\d)|[)\]])|[Ss]tep 1\b)")
_MATHS = re.compile(
    r"""
    <<[^<>=]*+=[^<>]*+>>                                # a calculator mark, <<3*4=12>>
    | \d\s*[+*×÷^]\s*[$€£]?\(?\d                        # 3 + 4
    | \d\s+/\s+[$€£]?\(?\d                              # 6 / 2, but not 1/2 cup or 24/7
    | \d/\d+\s*=                                        # 48/2 =
    | \d\s+[-−–]\s+[$€£]?\d[\d.,]*\s*=                  # 7 - 2 =
    | (?<![<>=!])=\s*[$€£]?[-−]?\d[\d.,]*(?![\w"'])     # … = 12
    | \b[a-z]\s*[+*/^−-]\s*\d+\s*=                      # x + 2 =
    | \b\d*[a-z](?:\^\d|[²³])                           # 3x^2
    | \\(?:frac|sqrt|sum|int|cdot|times)\b              # LaTeX
    | √\s*\d
    """,
    re.VERBOSE,
)
# parts that could share white space take it for good, so that a long run of it costs no more than its length
_CODE = re.compile(
    r"""
    ^[ \t]*(?:```|~~~)                                          # a fence
    | ^[ \t]*(?:def|class)\s+\w+\s*[(:].*                       # Python
    | ^[ \t]*(?:from\s+[\w.]+\s+)?import[ \t]+[\w.*{},](?:[ \t]*+[\w.*{},])*+[ \t]*+;?[ \t]*$
    | ^[ \t]*\#include\s*[<"]
    | ^[ \t]*(?:public|private|protected|static|void|function|const|let|var)
      [ \t]++[\w<>\[\],](?:[ \t]*+[\w<>\[\],])*+\s*+[({=]
    | ^[ \t]*(?:SELECT|INSERT\s+INTO|CREATE\s+TABLE|UPDATE\s+\w+\s+SET)\b
    | ^[ \t]*(?:for|while|if)\s*\(.*\)\s*\{
    | ^[ \t]*(?:print|console\.log|System\.out\.println|printf)\s*\(
    | ^[ \t]*</?(?:html|head|body|div|p|a|ul|li|table|script|style|h[1-6])\b[^>]*>
    | ^[ \t]*[a-z_]\w*\s*=\s*\w+\.\w+\(.*\);?[ \t]*$
    | [;{][ \t]*\n[ \t]*\}
    """,
    re.VERBOSE | re.MULTILINE,
)
_THOUGHT = re.compile(r"<(think|thinking)>.*?</\1>", re.DOTALL | re.IGNORECASE)
_CLOSED_ONLY = re.compile(r"\A.*</think(?:ing)?>", re.DOTALL | re.IGNORECASE)
_OPENED_ONLY = re.compile(r"<think(?:ing)?>.*\Z", re.DOTALL | re.IGNORECASE)
_OPENED_LAST = re.compile(r"<think(?:ing)?>\s*\Z", re.IGNORECASE)


def traits_of(response: str) -> Traits:
    """Format traits of a response.

    A list has two or more lines that begin with a bullet or a number, in any mixture. ``<think>`` blocks are no part of
    it, unless there is nothing else.
    """
    response = strip_thoughts(response) or response
    bullets = len(BULLET_LINE.findall(response))
    numbers = len(NUMBERED_LINE.findall(response))
    return Traits(
        is_list=bullets + numbers >= 2,
        is_bullet=bullets >= 2,
        is_numbered=numbers >= 2,
        opens_numbered=_FIRST_NUMBER.match(response) is not None,
        is_maths=_MATHS.search(response) is not None,
        is_code=_CODE.search(response) is not None,
        has_refusal=has_refusal(response),
    )


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


def has_refusal(text: str) -> bool:
    """Whether a phrase of `REFUSAL_PHRASES` is anywhere in the text, in any case; curly apostrophes are plain ones."""
    plain = text.lower().replace("’", "'").replace("‘", "'")
    return any(phrase in plain for phrase in REFUSAL_PHRASES)
