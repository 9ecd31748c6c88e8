"""What Axolotl's `chat_template` datasets train of a conversation: turns found by what a stand-in changes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ripcurrent.data._formats import Unusable
from ripcurrent.data._render import dated_template, template_errors
from ripcurrent.data._types import Fields

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ripcurrent.data._axolotl import Axolotl

Turn = dict[str, Any]
Labelled = tuple[list[int], list[bool]]
"""Token ids, and which of them bear loss."""
_DUMMY, _DUMMY_THOUGHT = "[[dummy_message]]", "[[dummy_reasoning]]"
"""What Axolotl puts in a turn's place to find the tokens that differ."""
_THOUGHTS = (("<think>", "</think>"), ("<reasoning>", "</reasoning>"),
             ("<|begin_of_thought|>", "<|end_of_thought|>"))  # fmt: skip
_SOLUTION = ("<|begin_of_solution|>", "<|end_of_solution|>")


class AxolotlChat:
    """A row's turns in the chat template, and which of their tokens bear loss."""

    def __init__(self, options: Axolotl, fields: Fields, tokenizer: PreTrainedTokenizerBase) -> None:
        self.options, self.tokenizer = options, tokenizer
        self.thinking = options.template_thinking_key
        self.template = options.template(tokenizer)
        self.dated = dated_template(tokenizer, self.template)
        self.ends = options.turn_ends(self.template, tokenizer)
        self.roles = {name: role for role, names in options.roles.items() for name in names}
        with template_errors(tokenizer):
            self.keys = _message_keys(self.template)
        try:
            self.turns, self.tools = self._turns(fields), _tools(_without_nulls(fields.get("tools")))
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            # a row of another shape, at which Axolotl stops
            raise Unusable("invalid_conversation") from error
        self.ids = self._tokens(self.turns)

    def labelled(self) -> Labelled:
        """Ids, and which of them bear loss: what differs where a turn has another text, and ends of turns near it."""
        own, trained, last = self.options, [False] * len(self.ids), {}
        rules = ((own.train_on_eot or own.train_on_eos, self.ends), (own.train_on_eos, {self.tokenizer.eos_token_id}))
        to_train = {own_role for role in own.roles_to_train for own_role in [self.roles.get(role, role)]}
        for place, turn in enumerate(self.turns):
            details = turn.get("training_detail"), turn.get("reasoning_training_detail")
            bears = turn.get("training")
            if bears is None:
                listed = details != (None, None)
                bears = any(details) if listed else own.train_on_inputs or turn.get("role") in to_train
            if not bears and "all" not in {rule for rule, _ in rules}:
                continue
            dummy = {"role": turn.get("role"), "content": _DUMMY}
            thinks = turn.get(self.thinking) is not None
            if any(details) and thinks:
                dummy[self.thinking] = turn[self.thinking]
            start, end = self._span(place, dummy)
            if bears and start >= 0 and details[0]:
                self._mark(trained, start, turn.get("content"), details[0])
            elif bears and start >= 0 and not details[1]:
                trained[start:end] = [True] * len(trained[start:end])
            if bears and details[1] and thinks:
                dummy = {"role": turn.get("role"), "content": turn.get("content", ""), self.thinking: _DUMMY_THOUGHT}
                self._mark(trained, self._span(place, dummy)[0], turn[self.thinking], details[1])
            for number, (rule, tokens) in enumerate(rules):
                # from -1, where the turn is not found, Axolotl looks at the last token first, and then at all
                found = next((at for at in range(end, len(self.ids)) if self.ids[at] in tokens), -1)
                if found >= 0 and abs(found - end) <= 3:
                    last[number] = found
                    trained[found] |= rule == "all" or (rule == "turn" and bool(bears))
        for number, found in last.items():
            trained[found] |= rules[number][0] == "last"
        return self.ids, trained

    def _tokens(self, turns: Sequence[Fields], **variables: int) -> list[int]:
        with template_errors(self.tokenizer):
            text = self.tokenizer.apply_chat_template(
                turns, tokenize=False, chat_template=self.dated, tools=self.tools or None,
                **{**self.options.chat_template_kwargs, **variables},
            )  # fmt: skip
        return list(self.tokenizer(str(text), add_special_tokens=False)["input_ids"])

    def _span(self, place: int, dummy: Fields) -> tuple[int, int]:
        """The tokens that differ where ``dummy`` stands for the turn; -1, -1 where none do."""
        mistral = "mistral" in self.tokenizer.name_or_path.lower()
        if mistral and place == 0 and self.turns[0].get("role") == "system":
            return -1, -1
        count = {"real_last_index": len(self.turns) - 1} if len(self.turns) > 1 else {}
        whole = place + 1 == len(self.turns) and "real_last_index" not in self.template
        full = self.ids if whole else self._tokens(self.turns[: place + 1], **count)
        other = self._tokens([*self.turns[:place], dummy], **count)
        pairs = list(zip(full, other, strict=False))
        start = next((at for at, (one, two) in enumerate(pairs) if one != two), -1)
        backwards = zip(reversed(full), reversed(other), strict=False)
        end = next((len(full) - at for at, (one, two) in enumerate(backwards) if one != two), -1)
        return (start, end) if 0 <= start < end else (-1, -1)

    def _mark(self, trained: list[bool], start: int, text: object, details: Sequence[Fields]) -> None:
        """Train the tokens of ``text``, which begin at ``start``, that lie in a trained range of characters."""
        if not isinstance(text, str) or not text:
            raise Unusable("invalid_conversation")
        given = self.tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)["offset_mapping"]
        starts = [first for first, _ in given]
        ends = [*(first - 1 for first in starts[1:]), len(text) - 1]
        for detail in details:
            try:
                first, last, bears = (detail[name] for name in ("begin_offset", "end_offset", "train"))
                head = next((at for at, one in enumerate(starts) if one >= first), len(starts))
                head -= head > 0 and ends[head - 1] > first
                tail = next((at for at in reversed(range(len(ends))) if ends[at] <= last), -1)
                tail += tail < len(ends) - 1 and starts[tail + 1] < last
            except (LookupError, TypeError) as error:
                raise Unusable("invalid_conversation") from error
            if start < 0 or not bears or head > tail:
                continue
            for at in range(len(starts)):
                if starts[at] >= starts[head] and ends[at] <= ends[tail] and start + at < len(trained):
                    trained[start + at] = True

    def _turns(self, fields: Fields) -> list[Turn]:
        """The turns as the template reads them."""
        messages = _without_nulls(fields[self.options.field_messages])
        messages = json.loads(messages) if isinstance(messages, str) else messages
        if not isinstance(messages, list):
            raise TypeError
        turns = [self._turn(message) for message in messages]
        if turns[0]["role"] != "system" and "system" in fields:
            turns = [{"role": "system", "content": _without_nulls(fields["system"])}, *turns]
        if self.options.drop_system_message and turns[0]["role"] == "system":
            turns = turns[1:]
        if not turns:
            raise ValueError
        return turns

    def _turn(self, message: Fields) -> Turn:
        own = self.options
        names = {"role": "role", "content": "content"} | own.message_property_mappings
        turn = {key: message[name] for key, name in names.items() if message.get(name) is not None}
        if "role" in turn:
            turn["role"] = self.roles.get(turn["role"], turn["role"])
        if own.split_thinking and turn["role"] == "assistant":
            turn |= _split(turn["content"], self.thinking)
        for key in sorted(self.keys - set(names.values())):
            if message.get(key) is not None:
                turn[key] = message[key]
        for call in turn.get("tool_calls") or ():
            if "function" in call and isinstance(call["function"].get("arguments"), str):
                call["function"]["arguments"] = json.loads(call["function"]["arguments"])
        for key, name in (
            ("training", own.message_field_training),
            ("training_detail", own.message_field_training_detail),
        ):
            if name is not None and message.get(name) is not None:
                turn[key] = message[name]
        for key, name in (("content", "training_detail"), (self.thinking, "reasoning_training_detail")):
            if isinstance(turn.get(key), list):
                turn[key], details = _joined(turn[key])
                turn |= {name: details} if details is not None else {}
        return turn


def _joined(parts: Sequence[Any]) -> tuple[str, list[Turn] | None]:
    """Parts of a content as one text, and which of its characters are trained where a part says so."""
    text, details, flagged = "", [], False
    for part in parts:
        if not isinstance(part, Mapping):
            continue
        own = part.get("text") or part.get("content") or part.get("value") or ""
        if not own and part.get("type", "text") != "text":
            raise Unusable("not_text")
        train, weight = part.get("train"), part.get("weight")
        flagged |= train is not None or weight is not None
        if train is None:
            train = weight != 0
        if own:
            details.append({"begin_offset": len(text), "end_offset": len(text) + len(own) - 1, "train": train})
        text += own
    return text, details if flagged else None


def _split(content: object, thinking: str) -> dict[str, str]:
    """An answer's thought and the rest of it, where it has tags of a thought."""
    for opening, closing in _THOUGHTS:
        if isinstance(content, str) and opening in content and closing in content:
            thought = content[content.find(opening) + len(opening) : content.find(closing)].strip()
            rest = content[content.find(closing) + len(closing) :].lstrip()
            first, last = (rest.find(tag) for tag in _SOLUTION)
            if first >= 0 and last >= 0:
                rest = rest[first + len(_SOLUTION[0]) : last].strip()
            return {thinking: thought, "content": rest}
    return {}


def _tools(tools: Any) -> list[Any] | None:
    """Tools as a list, their parameters as objects."""
    tools = json.loads(tools) if isinstance(tools, str) else tools
    if tools is not None and not isinstance(tools, list):
        raise TypeError
    for tool in tools or ():
        function = tool.get("function", {}) if isinstance(tool, Mapping) else {}
        if isinstance(function.get("parameters"), str):
            function["parameters"] = json.loads(function["parameters"])
    return tools


def _without_nulls(value: Any) -> Any:
    """A copy without keys whose value is null, as tables fill them in."""
    if isinstance(value, Mapping):
        return {key: _without_nulls(one) for key, one in value.items() if one is not None}
    return [_without_nulls(one) for one in value] if isinstance(value, list) else value


@lru_cache(maxsize=8)
def _message_keys(template: str) -> frozenset[str]:
    """Keys of a turn that Axolotl takes the template to read: those of what it calls ``message``."""
    from jinja2 import Environment, nodes

    plain = re.sub(r"\{%-?\s*(end)?generation\s*-?%\}", "", template)
    tree = Environment(autoescape=True, extensions=["jinja2.ext.loopcontrols"]).parse(plain)
    read: list[tuple[nodes.Node, object]] = [(node.node, node.attr) for node in tree.find_all(nodes.Getattr)]
    read += [(node.node, getattr(node.arg, "value", None)) for node in tree.find_all(nodes.Getitem)]
    keys = set()
    for base, key in read:
        while isinstance(base, nodes.Getattr | nodes.Getitem):
            base = base.node
        if isinstance(base, nodes.Name) and base.name == "message" and isinstance(key, str):
            keys.add(key)
    return frozenset(keys)
