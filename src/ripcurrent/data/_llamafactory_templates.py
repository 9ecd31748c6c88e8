"""Templates that LLaMA-Factory trains with: what stands around the text of each turn."""

from functools import lru_cache
from typing import NamedTuple

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

from ripcurrent.data._render import rendered
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

    def slots_of(self, role: str) -> Slots:
        """Those of a user's, an assistant's or a tool's turn."""
        return {"user": self.user, "assistant": self.assistant, "observation": self.observation or self.user}[role]


_CHATML = TurnTemplate(
    user=(f"<|im_start|>user\n{PROBE}<|im_end|>\n<|im_start|>assistant\n",),
    assistant=(f"{PROBE}<|im_end|>\n",),
    system=(f"<|im_start|>system\n{PROBE}<|im_end|>\n",),
    stop_words=("<|im_end|>",),
)
_QWEN = _CHATML._replace(
    observation=(f"<|im_start|>user\n<tool_response>\n{PROBE}\n</tool_response><|im_end|>\n<|im_start|>assistant\n",)
)
_GEMMA = TurnTemplate(
    user=(f"<start_of_turn>user\n{PROBE}<end_of_turn>\n<start_of_turn>model\n",),
    assistant=(f"{PROBE}<end_of_turn>\n",),
    system=(f"{PROBE}\n\n",),
    observation=(f"<start_of_turn>tool\n{PROBE}<end_of_turn>\n<start_of_turn>model\n",),
    prefix=(BOS,),
    stop_words=("<end_of_turn>",),
    joins_system=True,
)
_PHI = TurnTemplate(
    user=(f"<|user|>\n{PROBE}<|end|>\n<|assistant|>\n",),
    assistant=(f"{PROBE}<|end|>\n",),
    system=(f"<|system|>\n{PROBE}<|end|>\n",),
    stop_words=("<|end|>",),
)
_DEEPSEEK = TurnTemplate(user=(f"<｜User｜>{PROBE}<｜Assistant｜>",), prefix=(BOS,))
_LLAMA3_OPENS = "<|start_header_id|>assistant<|end_header_id|>\n\n"

TEMPLATES: dict[str, TurnTemplate] = {
    "alpaca": TurnTemplate(
        user=(f"### Instruction:\n{PROBE}\n\n### Response:\n",),
        assistant=(PROBE, EOS, "\n\n"),
        default_system="Below is an instruction that describes a task. "
        "Write a response that appropriately completes the request.\n\n",
    ),
    "chatml": _CHATML._replace(
        observation=(f"<|im_start|>tool\n{PROBE}<|im_end|>\n<|im_start|>assistant\n",),
        stop_words=("<|im_end|>", "<|im_start|>"),
    ),
    "deepseek3": _DEEPSEEK,
    "deepseekr1": _DEEPSEEK._replace(reasons=True),
    "default": TurnTemplate(
        user=(f"Human: {PROBE}", EOS, "\nAssistant:"),
        assistant=(PROBE, EOS, "\n"),
        system=(f"System: {PROBE}", EOS, "\n"),
    ),
    "empty": TurnTemplate(assistant=(PROBE,)),
    "fewshot": TurnTemplate(assistant=(f"{PROBE}\n\n",), efficient_eos=True),
    "gemma": _GEMMA,
    "gemma2": _GEMMA._replace(stop_words=("<eos>", "<end_of_turn>"), efficient_eos=True),
    "llama2": TurnTemplate(
        user=(BOS, f"[INST] {PROBE} [/INST]"), system=(f"<<SYS>>\n{PROBE}\n<</SYS>>\n\n",), joins_system=True
    ),
    "llama3": TurnTemplate(
        user=(f"<|start_header_id|>user<|end_header_id|>\n\n{PROBE}<|eot_id|>{_LLAMA3_OPENS}",),
        assistant=(f"{PROBE}<|eot_id|>",),
        system=(f"<|start_header_id|>system<|end_header_id|>\n\n{PROBE}<|eot_id|>",),
        observation=(f"<|start_header_id|>ipython<|end_header_id|>\n\n{PROBE}<|eot_id|>{_LLAMA3_OPENS}",),
        prefix=(BOS,),
        stop_words=("<|eot_id|>", "<|eom_id|>"),
    ),
    "ministral": TurnTemplate(
        user=(f"[INST]{PROBE}[/INST]",),
        system=(f"{PROBE}\n\n",),
        observation=(f'[TOOL_RESULTS]{{"content": {PROBE}}}[/TOOL_RESULTS]',),
        prefix=(BOS,),
        joins_system=True,
    ),
    "mistral": TurnTemplate(
        user=(f"[INST] {PROBE}[/INST]",),
        assistant=(f" {PROBE}", EOS),
        system=(f"{PROBE}\n\n",),
        observation=(f'[TOOL_RESULTS] {{"content": {PROBE}}}[/TOOL_RESULTS]',),
        prefix=(BOS,),
        joins_system=True,
    ),
    "phi": _PHI,
    "phi4": TurnTemplate(
        user=(f"<|im_start|>user<|im_sep|>{PROBE}<|im_end|><|im_start|>assistant<|im_sep|>",),
        assistant=(f"{PROBE}<|im_end|>",),
        system=(f"<|im_start|>system<|im_sep|>{PROBE}<|im_end|>",),
        stop_words=("<|im_end|>",),
    ),
    "phi_small": _PHI,
    "qwen": _QWEN._replace(default_system="You are Qwen, created by Alibaba Cloud. You are a helpful assistant."),
    "qwen3": _QWEN._replace(reasons=True),
    "qwen3_nothink": _QWEN,
    "smollm": _CHATML,
    "smollm2": _CHATML._replace(default_system="You are a helpful AI assistant named SmolLM, trained by Hugging Face."),
    "yi": _CHATML,
}
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
    added, place = "", 0
    for character in long:
        if place == len(short):
            break
        if short[place] == character:
            place += 1
        else:
            added += character
    return added


def _underivable(tokenizer: PreTrainedTokenizerBase, why: str) -> RipcurrentError:
    return RipcurrentError(
        f"LLaMA-Factory derives no template from the chat template of {tokenizer.name_or_path}: {why}.",
        f"Name the template that you train with: template=NAME, of {', '.join(TEMPLATES)}",
    )
