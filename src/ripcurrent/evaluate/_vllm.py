"""Answers from vLLM's offline engine: many at once on a GPU, rendered and stopped as on the model at hand."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ripcurrent.errors import MissingExtraError, RipcurrentError
from ripcurrent.evaluate._generate import answer_text, check_window, prompt_tokens, stop_tokens
from ripcurrent.evaluate._prompts import Prompt
from ripcurrent.evaluate._responses import Response
from ripcurrent.models import ChatModel, first_line


def require_vllm() -> None:
    """Raise unless vLLM is installed.

    Raises:
        MissingExtraError: It is not.
    """
    if find_spec("vllm") is None:
        raise MissingExtraError("vllm", "vllm")


def answer_by_vllm(
    chat_model: ChatModel,
    prompts: Sequence[Prompt],
    *,
    system: str | None,
    max_new_tokens: int,
    batch_size: int,
    scratch: Path,
) -> Iterator[list[Response]]:
    """Greedy answers of vLLM, a batch at a time, each with as many responses as prompts.

    The model goes to vLLM as it stands here, adapters merged, through a folder that is deleted at the end. vLLM reports
    usage unless told not to: here it is told.

    Args:
        chat_model: The model, with its tokenizer and template; where it is loaded does not matter.
        prompts: What to ask.
        system: System prompt; None leaves it to the template.
        max_new_tokens: Longest answer; reaching it makes an answer ``truncated``.
        batch_size: Prompts handed over at once, and kept together when they are answered.
        scratch: Where the folder is made, as large as the weights.

    Raises:
        RipcurrentError: vLLM is not there or cannot run the model, or a prompt does not fit into the model's window.
    """
    if not prompts:
        return
    require_vllm()
    tokens = [prompt_tokens(chat_model, prompt, system) for prompt in prompts]
    check_window(chat_model, prompts, tokens, max_new_tokens)
    stops = stop_tokens(chat_model)
    # what a killed command left is as large as the weights
    for left in Path(scratch).glob("vllm-*"):
        shutil.rmtree(left, ignore_errors=True)
    with TemporaryDirectory(prefix="vllm-", dir=scratch) as folder:
        chat_model.model.save_pretrained(folder)
        engine, sampling = _start(chat_model, folder, max(map(len, tokens)) + max_new_tokens, max_new_tokens, stops)
        try:
            for start in range(0, len(prompts), batch_size):
                asked = [{"prompt_token_ids": one} for one in tokens[start : start + batch_size]]
                outputs = engine.generate(asked, sampling, use_tqdm=False)
                yield [
                    _response(chat_model, prompt, one["prompt_token_ids"], output.outputs[0], stops)
                    for prompt, one, output in zip(prompts[start : start + batch_size], asked, outputs, strict=True)
                ]
        finally:
            # judges that are models may need the device next
            engine.llm_engine.engine_core.shutdown()


def _start(chat_model: ChatModel, folder: str, longest: int, max_new_tokens: int, stops: set[int]) -> tuple[Any, Any]:
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    # its default is stdout, which is the command's own
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
    from vllm import LLM, SamplingParams

    # stops are named below, and a generation configuration's penalties are no part of greedy decoding
    settings: dict[str, Any] = {"skip_tokenizer_init": True, "generation_config": "vllm", "trust_remote_code": False}
    try:
        engine = LLM(
            model=folder, dtype=str(chat_model.dtype).removeprefix("torch."), max_model_len=longest, **settings
        )
    except (ValueError, RuntimeError, OSError) as error:
        raise RipcurrentError(
            f"vLLM cannot run {chat_model.name}: {first_line(error)}.",
            "What it printed above says more; without --engine vllm transformers answers.",
        ) from error
    return engine, SamplingParams(
        temperature=0.0, max_tokens=max_new_tokens, stop_token_ids=sorted(stops), detokenize=False
    )


def _response(chat_model: ChatModel, prompt: Prompt, asked: Sequence[int], output: Any, stops: set[int]) -> Response:
    ids = list(output.token_ids)
    ended = bool(ids) and ids[-1] in stops
    said = ids[:-1] if ended else ids
    return Response(prompt.id, answer_text(chat_model, asked, said), len(said), not ended)
