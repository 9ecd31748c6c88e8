"""LLaMA-Factory (0.9.6.dev0): its own templates, each turn tokenised apart, loss on every answer's turn."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Literal

from pydantic import ValidationError, model_validator

from ripcurrent.data._formats import Unusable, mappings, plain_text
from ripcurrent.data._llamafactory_templates import BOS, EOS, PROBE, TEMPLATES, Slots, TurnTemplate, template_of
from ripcurrent.data._render import TemplateMismatch, check_tokenizer, rendered, template_errors
from ripcurrent.data._spec import facts_of, from_json
from ripcurrent.data._trained_tokens import LabelledTokens, TrainedTokens, problem_of, unread
from ripcurrent.data._types import Fields
from ripcurrent.errors import RipcurrentError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Turn = tuple[str, str]
"""Role and content."""

_FACTS = facts_of("llamafactory")
_COLUMNS, _TAGS = _FACTS["columns"], _FACTS["tags"]
_ROLES = {tag: tag.removesuffix("_tag") for tag in _TAGS if tag not in ("role_tag", "content_tag")}
_ASKING, _ANSWERING = ("user", "observation"), ("assistant", "function")
_THINKING_OFF = "detailed thinking off"
_THOUGHT = ("<think>\n", "\n</think>\n\n")

_OF_ROWS = ("formatting", "columns", "tags")
"""Options that ``dataset_info.json`` has, and not the training file."""


class LlamaFactory(TrainedTokens):
    """LLaMA-Factory's supervised fine-tuning; `from_config` reads its own files."""

    template: str | None = None
    """Name of the template; without one it is taken from the tokenizer's chat template, as LLaMA-Factory does."""
    formatting: Literal["alpaca", "sharegpt", "openai", "v1"] = "alpaca"
    """``formatting`` of the data set in ``dataset_info.json``; ``v1``: messages of typed parts, trained by v1."""
    columns: dict[str, str | None] | None = None
    """``columns`` of ``dataset_info.json``; where given, columns that it does not name are not read."""
    tags: dict[str, str | None] | None = None
    """``tags`` of ``dataset_info.json``; where given, tags that it does not name do not exist."""
    mask_history: bool = False
    """Loss on the last answer alone; a long conversation then loses its earliest turns."""
    train_on_prompt: bool = False
    """Loss on the questions and the system text too."""
    default_system: str | None = None
    """System text of rows without one, in place of the template's own."""
    enable_thinking: bool | None = True
    """Of reasoning templates: whether an empty thought before an answer bears loss; false removes all thoughts."""
    preserve_thinking: bool = False
    """Of reasoning templates with ``mask_history``: whether earlier answers keep their thoughts."""
    packing: bool = False
    """Several rows in one, which is one token shorter then; unless ``neat_packing``, they see those before them."""
    neat_packing: bool = False
    """The same, of which each row sees itself alone."""

    @model_validator(mode="after")
    def _fits(self) -> LlamaFactory:
        if self.template is not None and self.template not in TEMPLATES:
            raise ValueError(f"template {self.template!r} is not held; held are {', '.join(TEMPLATES)}")
        if self.formatting == "v1" and self.model_fields_set != {"formatting"}:
            raise ValueError("with formatting v1 no other option is held")
        if self.mask_history and self.train_on_prompt:
            raise ValueError("mask_history and train_on_prompt exclude each other")
        if self.train_on_prompt and self.template and TEMPLATES[self.template].efficient_eos:
            raise ValueError(f"the template {self.template} does not take train_on_prompt")
        for given, known in ((self.columns, _COLUMNS), (self.tags, _TAGS)):
            if unknown := set(given or ()) - set(known):
                raise ValueError(f"{', '.join(sorted(unknown))}: not one of {', '.join(known)}")
        return self

    def label(self, fields: Fields, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> LabelledTokens:
        if self.formatting == "v1":
            return _v1(fields, tokenizer, max_tokens)
        system, turns, lists_tools = self._conversation(fields)
        template = template_of(tokenizer) if self.template is None else TEMPLATES[self.template]
        if self.default_system is not None:
            template = template._replace(default_system=self.default_system)
        system = system or template.default_system
        if system or lists_tools:
            template, turns = _with_system(template, turns, system)
        pairs = self._encoded(template, turns, _encoder(tokenizer, template))
        longest = max_tokens - (self.packing or self.neat_packing)
        ids, weights = self._cut(pairs, longest, ends=template.efficient_eos)
        if template.efficient_eos:
            ids, weights = ids + _special(tokenizer, EOS), [*weights, 1.0]
        return LabelledTokens(ids, weights)

    def _conversation(self, fields: Fields) -> tuple[str, list[Turn], bool]:
        """System text, turns that ask and answer alternately, and whether the row has an empty list of tools."""
        columns = dict.fromkeys(_COLUMNS) | self.columns if self.columns is not None else _COLUMNS
        read = ("prompt", "query", "response") if self.formatting == "alpaca" else ("messages",)
        named = [column for name in read if (column := columns[name])]
        if not set(named) & set(fields):
            hint = "Name them as dataset_info.json does: 'llamafactory,columns={prompt: COLUMN, response: COLUMN}'"
            reads = f"{', '.join(named) or 'no column'} of {self.formatting} rows"
            raise unread("LLaMA-Factory", reads, fields, hint, _FACTS["ways"])
        row = {name: fields.get(column) if column else None for name, column in columns.items()}
        if row["images"] or row["videos"] or row["audios"]:
            raise Unusable("not_text")
        lists_tools = row["tools"] == "[]" or (self.formatting == "openai" and row["tools"] == [])
        if row["tools"] and not lists_tools:
            raise Unusable("tools_not_held")
        if isinstance(row["kto_tag"], bool):
            raise Unusable("dropped_by_trainer")
        system, turns = _alpaca(row) if self.formatting == "alpaca" else self._messages(row)
        if self.formatting == "openai":
            system = _with_thinking_off(system, lists_tools)
        if any(role == "function" for role, _ in turns):
            raise Unusable("tools_not_held")
        for text in (system, *(content for _, content in turns)):
            plain_text(text)
        return system, turns, lists_tools

    def _messages(self, row: Fields) -> tuple[str, list[Turn]]:
        """A row of ``sharegpt`` or ``openai``; what does not alternate is dropped."""
        tags = dict.fromkeys(_TAGS) | self.tags if self.tags is not None else _TAGS
        role_key, content_key = str(tags["role_tag"]), str(tags["content_tag"])
        messages = mappings(row["messages"])
        if messages and not any(role_key in message for message in messages):
            raise RipcurrentError(
                f"LLaMA-Factory reads a message's role from {role_key!r}, and messages have {', '.join(messages[0])}.",
                "Name the tags as dataset_info.json does, for example: "
                "tags={role_tag: role, content_tag: content, user_tag: user, assistant_tag: assistant}",
            )
        given = [(message.get(role_key), message.get(content_key), message.get("tool_calls")) for message in messages]
        system = row["system"] or ""
        if tags["system_tag"] and given and given[0][0] == tags["system_tag"]:
            system, given = given[0][1] or "", given[1:]
        roles = {tags[tag]: role for tag, role in _ROLES.items() if tags[tag]}
        if self.formatting == "openai":
            if any(role not in roles for role, *_ in given):
                raise Unusable("invalid_conversation")
            calling = ["function" if calls and roles[role] in _ANSWERING else roles[role] for role, _, calls in given]
            turns = _with_joined_results([(role, text) for role, (_, text, _) in zip(calling, given, strict=True)])
        else:
            turns = [(roles.get(role, ""), text) for role, text, _ in given]
        expected = [_ANSWERING if place % 2 else _ASKING for place in range(len(turns))]
        alternate = all(role in accepted for (role, _), accepted in zip(turns, expected, strict=True))
        if not turns or len(turns) % 2 or not alternate:
            raise Unusable("dropped_by_trainer")
        return system, turns

    def _encoded(
        self, template: TurnTemplate, turns: Sequence[Turn], encode: Callable[[Slots], list[int]]
    ) -> list[tuple[list[int], list[int]]]:
        """Token ids of each question and its answer."""
        contents = [content for _, content in turns]
        answers = range(1, len(turns), 2)
        discards = template.reasons and self.mask_history and not self.preserve_thinking
        if template.reasons:
            for place in answers if self.enable_thinking is False else answers[:-1] if discards else ():
                contents[place] = re.sub(".*?".join(_THOUGHT), "", contents[place], flags=re.DOTALL).lstrip("\n")
        pieces = []
        for place, ((role, _), content) in enumerate(zip(turns, contents, strict=True)):
            number = place // 2 if role == "user" and not template.joins_system else None
            slots = _filled(getattr(template, role) or template.user, content, number)
            pieces.append(encode(template.prefix + slots if place == 0 else slots))
        if template.reasons:
            thought = encode(("".join(_THOUGHT),))
            for place in answers[-1:] if discards else answers:
                if not any(mark.strip() in contents[place] for mark in _THOUGHT):
                    if self.enable_thinking:
                        pieces[place] = thought + pieces[place]
                    else:
                        pieces[place - 1] = pieces[place - 1] + thought
        return [(pieces[place - 1], pieces[place]) for place in answers]

    def _cut(
        self, pairs: list[tuple[list[int], list[int]]], max_tokens: int, *, ends: bool
    ) -> tuple[list[int], list[float]]:
        """Pairs until ``max_tokens`` is used up; a pair that does not fit loses the ends of question and answer."""
        ids: list[int] = []
        weights: list[float] = []
        used = int(ends)
        for number, (asked, answer) in enumerate(reversed(pairs) if self.mask_history else pairs):
            if used >= max_tokens:
                break
            if ends and number:
                # there LLaMA-Factory puts the end of text as the label of the next question's first token
                raise Unusable("shifted_labels")
            asked_kept, answer_kept = _lengths(len(asked), len(answer), max_tokens - used)
            used += asked_kept + answer_kept
            trained = 0.0 if self.mask_history and number else 1.0
            own = asked[:asked_kept] + answer[:answer_kept]
            own_weights = [float(self.train_on_prompt)] * asked_kept + [trained] * answer_kept
            ids, weights = (
                (own + ids, own_weights + weights) if self.mask_history else (ids + own, weights + own_weights)
            )
        return ids, weights


def from_config(config: Fields, dataset_info: Fields) -> tuple[LlamaFactory, int]:
    """The policy and the length limit of a training file of LLaMA-Factory and its ``dataset_info.json``.

    What chooses rows (``val_size``, ``max_samples``, ``num_samples``) is not read.

    Raises:
        RipcurrentError: A setting changes the trained tokens in a way that is not held, or the data set is not one.
    """
    for name, held in _FACTS["unheld"].items():
        if config.get(name, held) not in (held, None):
            raise RipcurrentError(
                f"The LLaMA-Factory file sets {name}: {config[name]}, which changes what is trained and is not held.",
                f"Remove {name} from the file, or scan the rows as LLaMA-Factory tokenizes them (tokenized_path).",
            )
    names = config.get("dataset") or ()
    datasets = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
    if len(datasets) != 1 or not isinstance(dataset_info.get(datasets[0]), Mapping):
        known = ", ".join(map(str, dataset_info)) or "none"
        raise RipcurrentError(
            f"The LLaMA-Factory file names the data sets {', '.join(datasets) or '(none)'}; one is needed that "
            f"dataset_info.json has: {known}.",
            "Leave one name in dataset:, and scan each data set by itself.",
        )
    entry = dataset_info[datasets[0]]
    if entry.get("ranking"):
        raise RipcurrentError(f"The data set {datasets[0]} holds rankings.", "Name a data set of conversations.")
    given = {name: config[name] for name in LlamaFactory.model_fields if name in config and name not in _OF_ROWS}
    given["formatting"] = entry.get("formatting", "alpaca")
    for part, known_names in (("columns", _COLUMNS), ("tags", _TAGS)):
        if part in entry:
            given[part] = {name: value for name, value in entry[part].items() if name in known_names}
    try:
        policy = LlamaFactory(**given)
    except ValidationError as error:
        raise RipcurrentError(
            f"The LLaMA-Factory file is not held: {problem_of(error)}.",
            "Scan the rows as LLaMA-Factory tokenizes them (tokenized_path).",
        ) from error
    return policy, int(config.get("cutoff_len", 2048))


def _alpaca(row: Fields) -> tuple[str, list[Turn]]:
    """A row of ``alpaca``: instruction and input are joined by one line feed."""
    turns: list[Turn] = []
    for pair in row["history"] if isinstance(row["history"], list) else ():
        if not isinstance(pair, list) or len(pair) != 2:
            raise Unusable("invalid_conversation")
        turns += [("user", pair[0]), ("assistant", pair[1])]
    asked = [text for text in (row["prompt"], row["query"]) if text]
    if not all(isinstance(text, str) for text in asked):
        raise Unusable("invalid_conversation")
    if not isinstance(row["response"], str):
        raise Unusable("dropped_by_trainer")
    return row["system"] or "", [*turns, ("user", "\n".join(asked)), ("assistant", row["response"])]


def _with_joined_results(turns: Sequence[Turn]) -> list[Turn]:
    """Results of tools that follow each other as one turn; those at the end are left out."""
    joined: list[Turn] = []
    for result, group in groupby(turns, lambda turn: turn[0] == "observation"):
        own = list(group)
        texts = [text if isinstance(text, str) else "" for _, text in own]
        joined += [("observation", "\n</tool_response>\n<tool_response>\n".join(texts))] if result else own
    return joined[:-1] if joined and joined[-1][0] == "observation" else joined


def _with_thinking_off(system: str, lists_tools: bool) -> str:
    """What ``openai`` formatting adds to the system text."""
    if lists_tools:
        return system and f"{system}\n"
    named = _THINKING_OFF in system or "detailed thinking on" in system
    return system if named else "\n".join(filter(None, (system, _THINKING_OFF)))


def _with_system(template: TurnTemplate, turns: list[Turn], system: str) -> tuple[TurnTemplate, list[Turn]]:
    """The system text before the first turn, or in it."""
    slots = _filled(template.system, system)
    if not template.joins_system:
        return template._replace(prefix=template.prefix + slots), turns
    (role, asked), *rest = turns
    return template, [(role, slots[0] + asked if role == "user" else asked), *rest]


def _encoder(tokenizer: PreTrainedTokenizerBase, template: TurnTemplate) -> Callable[[Slots], list[int]]:
    """Slots to token ids, each slot by itself."""
    known = tokenizer.added_tokens_encoder if template.stop_words else {}
    missing = [word for word in template.stop_words if word not in known]
    own = "".join((*template.user, *template.assistant))
    if added := [word for word in missing if word in own]:
        raise _not_in_vocabulary(", ".join(added), tokenizer)

    def encode(slots: Slots) -> list[int]:
        ids: list[int] = []
        for slot in slots:
            if slot in (BOS, EOS):
                ids += _special(tokenizer, slot)
            elif word := next((word for word in missing if word in slot), ""):
                raise TemplateMismatch(f"{word} is not in the vocabulary of the model")
            elif slot:
                ids += tokenizer.encode(slot, add_special_tokens=False)
        return ids

    return encode


def _not_in_vocabulary(tokens: str, tokenizer: PreTrainedTokenizerBase) -> RipcurrentError:
    said = f"LLaMA-Factory adds {tokens} to the vocabulary of {tokenizer.name_or_path}, which the model does not have."
    return RipcurrentError(said, "Name the template that is the model's own.")


def _special(tokenizer: PreTrainedTokenizerBase, slot: str) -> list[int]:
    """The first token of a text, where the tokenizer has one, or the last."""
    token = tokenizer.bos_token_id if slot == BOS else tokenizer.eos_token_id
    if token is None and slot == EOS:
        raise _not_in_vocabulary("an end of text", tokenizer)
    return [] if token is None else [int(token)]


def _filled(slots: Slots, content: str, number: int | None = None) -> Slots:
    """Slots with the turn's text in place of ``{{content}}``, and its number in place of ``{{idx}}``."""
    texts = tuple(slot.replace(PROBE, content, 1) for slot in slots)
    return texts if number is None else tuple(text.replace("{{idx}}", str(number), 1) for text in texts)


def _lengths(asked: int, answer: int, limit: int) -> tuple[int, int]:
    """How many tokens of a question and its answer are kept within ``limit``; the shorter of them first."""
    if answer * 2 < limit:
        most = limit
    elif asked * 2 < limit:
        most = limit - asked
    else:
        most = int(limit * (answer / (asked + answer)))
    answer_kept = min(most, answer)
    return min(max(limit - answer_kept, 0), asked), answer_kept


def _v1(fields: Fields, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> LabelledTokens:
    """A row's tokens; its answers, which v1 trains as rows of their own, as one where they have the same beginning."""
    check_tokenizer(tokenizer, chat=True)
    special = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special and len(str(token)) > 1]
    messages, tools = mappings(fields.get("messages")), from_json(fields.get("tools"))
    turns = [_v1_turn(message, sorted(special, key=len, reverse=True)) for message in messages]
    tools = tools if isinstance(tools, list) or not tools else [tools]

    def tokens(end: int, thinks: bool, *, opens: bool) -> list[int]:
        with template_errors(tokenizer):
            text = rendered(tokenizer, turns[:end], generation_prompt=opens, tools=tools, enable_thinking=thinks)
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    ids: list[int] = []
    weights: list[float] = []
    for end, (turn, message) in enumerate(zip(turns, messages, strict=True)):
        weight = message.get("loss_weight", 1.0)
        if turn["role"] == "assistant" and weight > 1e-6:
            thinks = "reasoning_content" in turn
            before, through = tokens(end, thinks, opens=True), tokens(end + 1, thinks, opens=False)
            if through[: len(before)] != before or before[: len(ids)] != ids:
                raise TemplateMismatch("it renders what is before an answer otherwise than with the answer")
            weights += [0.0] * (len(before) - len(ids)) + [float(weight)] * (len(through) - len(before))
            ids = through
    if not any(weights[:max_tokens]):
        raise Unusable("dropped_by_trainer" if ids else "no_loss_tokens")
    return LabelledTokens(ids[:max_tokens], weights[:max_tokens])


def _v1_turn(message: Fields, special: list[str]) -> Fields:
    """A message as chat templates read it, with special tokens in its text broken by a space of no width."""
    texts = {"text": "", "reasoning": ""}
    calls = []
    for part in mappings(message.get("content")):
        kind, value = part.get("type"), plain_text(part.get("value"))
        held = [token for token in special if token in value]
        if kind == "tool_call":
            call = from_json(value)
            if held or not isinstance(call, Mapping) or not {"name", "arguments"} <= set(call):
                raise Unusable("invalid_conversation")
            calls.append({"type": "function", "function": {name: call[name] for name in ("name", "arguments")}})
        elif kind in texts:
            for token in held:
                value = value.replace(token, f"{token[0]}\u200b{token[1:]}")
            texts[kind] += value
        else:
            raise Unusable("not_text")
    more = {"tool_calls": calls, "reasoning_content": texts["reasoning"]}
    return {"role": message.get("role"), "content": texts["text"]} | {name: one for name, one in more.items() if one}
