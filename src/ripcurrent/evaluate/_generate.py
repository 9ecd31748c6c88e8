"""Answers to prompts: batched greedy decoding on the model at hand, or a model behind an endpoint."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import takewhile
from operator import itemgetter
from typing import TYPE_CHECKING

from ripcurrent.data import opened_thought, rendered
from ripcurrent.errors import ExitCode, RipcurrentError
from ripcurrent.evaluate._endpoint import Endpoint, EndpointFailure
from ripcurrent.evaluate._prompts import Prompt
from ripcurrent.evaluate._responses import Response

if TYPE_CHECKING:
    from ripcurrent.models import ChatModel


def _conversation(prompt: Prompt, system: str | None) -> list[dict[str, str]]:
    """The turns before the answer."""
    opening = [{"role": "system", "content": system}] if system is not None else []
    return [*opening, {"role": "user", "content": prompt.text}]


def answer_locally(
    chat_model: ChatModel, prompts: Sequence[Prompt], *, system: str | None, max_new_tokens: int, batch_size: int
) -> Iterator[list[Response]]:
    """Greedy answers in batches of prompts of like length; a batch that does not fit into memory is halved.

    ``max_new_tokens`` is the longest answer; reaching it makes one ``truncated``. ``system`` None leaves the system
    prompt to the chat template.
    """
    from ripcurrent.evaluate._batches import in_batches
    from ripcurrent.evaluate._decode import Decoded, decode_greedily, read_prefix

    tokenizer, model = chat_model.tokenizer, chat_model.model
    tokens = [_prompt_tokens(chat_model, prompt, system) for prompt in prompts]
    _check_window(chat_model, prompts, tokens, max_new_tokens)
    # what all prompts begin with, at least one token of each left over
    alike = takewhile(lambda column: len(set(column)) == 1, zip(*tokens, strict=False)) if len(tokens) > 1 else ()
    shared = [column[0] for column in alike][: min(map(len, tokens), default=1) - 1]
    prefix = read_prefix(model, shared)
    # the model's own, as its generation configuration has them, and the tokenizer's
    named = getattr(model.generation_config, "eos_token_id", None)
    stops = {tokenizer.eos_token_id, *([named] if isinstance(named, int) else named or ())} - {None}
    pad = tokenizer.pad_token_id or 0
    order = sorted(range(len(prompts)), key=lambda place: len(tokens[place]))

    def decode(places: Sequence[int]) -> list[Decoded]:
        asked = [tokens[place] for place in places]
        return decode_greedily(model, asked, max_new_tokens=max_new_tokens, stops=stops, prefix=prefix, pad=pad)

    def does_not_fit(place: int, said: str) -> RipcurrentError:
        return RipcurrentError(
            f"The prompt {prompts[place].id} ({len(tokens[place])} tokens, and up to {max_new_tokens} of an answer) "
            f"does not fit into the memory of {chat_model.device}, even alone ({said}).",
            "A lower --batch-size (in a file, batch_size) was tried, down to 1. In another folder, lower "
            "--max-new-tokens (max_new_tokens), or use --dtype bfloat16 (dtype) or another --device (device).",
            code=ExitCode.NOT_MEASURED,
        )

    for places, decoded in in_batches(order, batch_size, decode, does_not_fit):
        yield [
            Response(prompts[place].id, _answer_text(chat_model, tokens[place], one.ids), len(one.ids), not one.ended)
            for place, one in zip(places, decoded, strict=True)
        ]


def _answer_text(chat_model: ChatModel, asked: Sequence[int], answered: Sequence[int]) -> str:
    """The text of an answer, with the tag of thoughts that the chat template opened at the prompt's end."""
    text = str(chat_model.tokenizer.decode(list(answered), skip_special_tokens=True))
    if "</think" not in text.lower() and "</think" in str(chat_model.tokenizer.decode(list(answered))).lower():
        # tags that are special tokens are left out, so where the thoughts end is not known
        return text
    # the tag and what spaces follow it are a handful of tokens
    return opened_thought(str(chat_model.tokenizer.decode(list(asked[-12:])))) + text


def answer_by_endpoint(
    endpoint: Endpoint, prompts: Sequence[Prompt], *, system: str | None, max_new_tokens: int
) -> Iterator[list[Response]]:
    """Answers at temperature 0 from an endpoint, each as it is ready; last the prompts that it rejects."""
    rejected: list[Response] = []
    failed: list[tuple[Prompt, EndpointFailure]] = []
    conversations = [_conversation(prompt, system) for prompt in prompts]
    for place, outcome in endpoint.chat(conversations, max_tokens=max_new_tokens):
        if not isinstance(outcome, EndpointFailure):
            yield [Response(prompts[place].id, outcome.text, outcome.tokens, outcome.truncated)]
        elif outcome.kind == "rejected":
            rejected.append(Response(prompts[place].id, "", None, False, rejected=outcome.message))
        else:
            failed.append((prompts[place], outcome))
    if failed:
        prompt, failure = failed[0]
        raise RipcurrentError(
            f"{len(failed)} of {len(prompts)} prompts got no answer from {endpoint.base_url} "
            f"(the first, {prompt.id}: {failure.message}).",
            "The other answers are kept; the same command asks these again.",
            code=ExitCode.NOT_MEASURED,
        )
    if rejected:
        yield rejected


def _prompt_tokens(chat_model: ChatModel, prompt: Prompt, system: str | None) -> list[int]:
    """A prompt as the model reads it: rendered by its chat template up to where the answer begins."""
    from jinja2.exceptions import TemplateError

    tokenizer = chat_model.tokenizer
    try:
        text = rendered(tokenizer, _conversation(prompt, system), generation_prompt=True)
    except (TemplateError, TypeError) as error:
        raise RipcurrentError(
            f"The chat template of {chat_model.name} refuses the prompt: {str(error).rstrip('.')}.",
            "Leave out --system (in a file, system) if the model knows no system turn.",
        ) from error
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def _check_window(
    chat_model: ChatModel, prompts: Sequence[Prompt], tokens: Sequence[Sequence[int]], max_new_tokens: int
) -> None:
    """Raise if the longest prompt and its answer do not fit into the model's window."""
    window = getattr(chat_model.model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    length, longest = max(zip(map(len, tokens), prompts, strict=True), key=itemgetter(0), default=(0, None))
    if window is None or longest is None or length + max_new_tokens <= window:
        return
    raise RipcurrentError(
        f"The prompt {longest.id} has {length} tokens, and with {max_new_tokens} of an answer that is more than the "
        f"{window} positions of {chat_model.name}.",
        "Lower --max-new-tokens (in a file, max_new_tokens), or leave that prompt out.",
    )
