"""ms-swift (4.6.0.dev0): its own templates, loss on every answer and on what closes it."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ripcurrent.data._formats import Unusable, mappings, plain_text
from ripcurrent.data._spec import facts_of
from ripcurrent.data._trained_tokens import LabelledTokens, TrainedTokens, unread
from ripcurrent.data._types import Fields
from ripcurrent.errors import RipcurrentError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_TURNS = ("messages", "conversation", "conversations")
_FACTS = facts_of("swift")
_COLUMNS, _ROLES = ({one: name for name, all_ in _FACTS[part].items() for one in all_} for part in ("columns", "roles"))
_CHATS = dict.fromkeys(_TURNS, "messages") | dict.fromkeys(_FACTS["columns"]["system"], "system")
_MEDIA = {one: f"{kind}s" for kind in ("image", "audio", "video") for one in (kind, f"{kind}s")}
_KEYS, _SIDES = {"from": "role", "value": "content"}, {"human": "user", "gpt": "assistant", "bot": "assistant"}
_NO_THOUGHT = "<think>\n\n</think>\n\n"


class SwiftTemplate(NamedTuple):
    """One of ms-swift's templates."""

    prompt: str
    closing: str
    """Ends the last answer, and bears loss; an earlier one too where `between` begins with it."""
    between: str
    system: str
    prefix: str = ""
    default_system: str | None = None
    adds_bos: bool = False
    hybrid: bool = False
    """An answer without a thought is given an empty one."""


TEMPLATES = {name: SwiftTemplate(**given) for name, given in _FACTS["templates"].items()}


class _Turn(NamedTuple):
    """One turn; an answer in several messages has several parts."""

    role: str
    parts: list[str]
    losses: list[Any]


class Swift(TrainedTokens):
    """ms-swift's supervised fine-tuning with its own template backend, the only one that it trains with."""

    template: str | None = None
    """Name of the template; ms-swift takes it from its list of models, which is not held, so it must be named."""
    system: str | None = None
    """System text of rows without one, in place of the template's own."""
    loss_scale: Literal["default", "last_round", "all"] = "default"
    """Loss on every answer, on the last one, or on the whole text."""
    truncation_strategy: Literal["delete", "left", "right"] = "delete"
    """What becomes of a row that is too long."""

    def label(self, fields: Fields, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> LabelledTokens:
        if self.template not in TEMPLATES:
            said = f"{self.template} is not held" if self.template else "must be named: its list of models is not held"
            raise RipcurrentError(f"ms-swift's template {said}.", f"Name one: template=NAME, of {', '.join(TEMPLATES)}")
        template = TEMPLATES[self.template]
        system, turns = _messages(fields)
        turns = self._thoughts(turns, template)
        if turns[0].role == "assistant":
            turns = [_Turn("user", [""], [(None, None)]), *turns]
        pieces = self._pieces(template, system, turns, tokenizer)
        ids: list[int] = []
        weights: list[float] = []
        for (_, weight), group in groupby(pieces, lambda piece: (isinstance(piece[0], str), piece[1])):
            given = [piece for piece, _ in group]
            own = _ids("".join(piece for piece in given if isinstance(piece, str)), tokenizer)
            for tokens in (own, *(piece for piece in given if isinstance(piece, list))):
                ids += tokens
                weights += [float(weight > 0)] * len(tokens)
        _train_closings(ids, weights, _ids(template.closing, tokenizer))
        if len(ids) > max_tokens:
            if self.truncation_strategy == "delete":
                raise Unusable("dropped_by_trainer")
            kept = slice(max_tokens) if self.truncation_strategy == "right" else slice(-max_tokens, None)
            ids, weights = ids[kept], weights[kept]
        return LabelledTokens(ids, [0.0, *weights[1:]])

    def _thoughts(self, turns: Sequence[_Turn], template: SwiftTemplate) -> list[_Turn]:
        """Of a hybrid template: empty thoughts are added, and with ``last_round`` earlier thoughts are removed."""
        last = max((place for place, turn in enumerate(turns) if turn.role == "user"), default=-1)
        made = []
        for place, turn in enumerate(turns):
            first, *others = turn.parts
            if template.hybrid and turn.role == "assistant":
                if (self.loss_scale != "last_round" or place >= last) and not first.startswith("<think>"):
                    first = _NO_THOUGHT + first
                if self.loss_scale == "last_round" and place < last:
                    first = first.split("</think>")[-1].strip()
            made.append(turn._replace(parts=[first, *others]))
        return made

    def _pieces(
        self, template: SwiftTemplate, system: str | None, turns: Sequence[_Turn], tokenizer: PreTrainedTokenizerBase
    ) -> list[tuple[str | list[int], float]]:
        """Texts and tokens, each with the weight of its loss; neighbours of one weight are tokenised together."""
        other = float(self.loss_scale == "all")
        pieces: list[tuple[str | list[int], float]] = []
        before, after = _around(tokenizer) if template.adds_bos else ([], [])
        pieces.append((before, other))
        if system is None:
            system = self.system if self.system is not None else template.default_system
        pieces.append((template.system.replace("{{SYSTEM}}", system) if system else template.prefix, other))
        rounds = (len(turns) + 1) // 2
        for number in range(rounds):
            asked = template.prompt.replace("{{QUERY}}", turns[2 * number].parts[0])
            asked = asked.replace("{{ROUND0}}", str(number)).replace("{{ROUND1}}", str(number + 1))
            pieces.append((asked, other))
            if 2 * number + 1 == len(turns):
                pieces.append((_NO_THOUGHT if template.hybrid else "", other))
                break
            answer = turns[2 * number + 1]
            is_last = number + 1 == rounds
            for part, (loss, scale) in zip(answer.parts, answer.losses, strict=True):
                bears = loss or (loss is None and (self.loss_scale != "last_round" or is_last))
                pieces.append((part, (1.0 if scale is None else scale) if bears else 0.0))
            stops = [template.closing.strip(), tokenizer.eos_token]
            stops += ["<|endoftext|>"] if str(self.template).startswith("qwen") else []
            if not is_last:
                pieces.append((template.between, other))
            elif not after and not answer.parts[-1].endswith(tuple(filter(None, stops))):
                pieces.append((template.closing, 1.0))
        pieces.append((after, 1.0))
        return [(piece, weight) for piece, weight in pieces if piece]


def _messages(fields: Fields) -> tuple[str | None, list[_Turn]]:
    """System text and turns of a record, neighbours of one role merged."""
    chats = any(name in fields for name in _TURNS)
    alpaca = not chats and "instruction" in fields and "input" in fields
    row = _renamed(fields, {**(_CHATS if chats else _COLUMNS), **_MEDIA})
    if any(row.get(name) for name in ("images", "videos", "audios", "objects")):
        raise Unusable("not_text")
    if row.get("tools"):
        raise Unusable("tools_not_held")
    if row.get("chat_template_kwargs"):
        raise RipcurrentError(
            "ms-swift reads the column chat_template_kwargs, which is not held.",
            "Remove the column where it changes nothing.",
        )
    given = _chat(row) if chats else _pairs(row, alpaca=alpaca, known=fields)
    if not given:
        raise Unusable("dropped_by_trainer")
    if "rejected_response" in row and row["rejected_response"] in (None, given[-1].parts[0]):
        raise Unusable("dropped_by_trainer")
    system = given.pop(0).parts[0] if given[0].role == "system" else None
    if any(turn.role == "tool" for turn in given):
        raise Unusable("tools_not_held")
    if not given or any(turn.role == "system" for turn in given):
        raise Unusable("dropped_by_trainer")
    turns: list[_Turn] = []
    for role, group in groupby(given, lambda turn: turn.role):
        together = list(group)
        parts = [turn.parts[0] for turn in together]
        losses = [turn.losses[0] for turn in together]
        turns.append(_Turn(role, ["".join(parts)] if role == "user" else parts, losses))
    return system, turns


def _renamed(fields: Fields, names: Mapping[str, str]) -> Fields:
    """Columns under the names that ms-swift reads; of two columns for one name neither is renamed."""
    found = {column: names[column.lower()] for column in fields if column.lower() in names}
    targets = list(found.values())
    unique = {column: target for column, target in found.items() if targets.count(target) == 1}
    return {unique.get(column, column): value for column, value in fields.items()}


def _literal(value: object) -> Any:
    """A list that is written as Python in a text."""
    try:
        return ast.literal_eval(value) if isinstance(value, str) else value
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        raise Unusable("dropped_by_trainer") from None


def _turn(role: str, content: object, loss: object = None, scale: object = None) -> _Turn:
    if isinstance(content, list) and role != "system":
        if any(not isinstance(part, Mapping) or part.get("type") != "text" for part in content):
            raise Unusable("not_text")
        content = "".join(str(part.get("text")) for part in content)
    return _Turn(role, [plain_text(content)], [(loss, scale)])


def _chat(row: Fields) -> list[_Turn]:
    """Turns with ``role`` or ``from``, or pairs of ``user`` and ``assistant``."""
    messages = _literal(row.get("messages"))
    if not messages:
        return []
    system = [] if row.get("system") is None else [_turn("system", row["system"])]
    renamed = [{_KEYS.get(key, key): value for key, value in message.items()} for message in mappings(messages)]
    if not {"role", "content"} & set(renamed[0]):
        pairs = [{_SIDES.get(key, key): value for key, value in message.items()} for message in renamed]
        return system + [_turn(role, pair.get(role)) for pair in pairs for role in ("user", "assistant")]
    turns = []
    for message in renamed:
        role = _ROLES.get(str(message.get("role")).replace("-", "_"))
        if message.get("tool_calls") or role == "tool":
            raise Unusable("tools_not_held")
        if role is None or message.get("content") is None:
            raise Unusable("dropped_by_trainer")
        turns.append(_turn(role, message["content"], message.get("loss"), message.get("loss_scale")))
    return turns if turns[0].role == "system" else system + turns


def _pairs(row: Fields, *, alpaca: bool, known: Fields) -> list[_Turn]:
    """A row of query, response, history and system, or of instruction, input and output."""
    query, response = row.get("query"), row.get("response")
    if alpaca:
        asked, given = row["instruction"], row["input"]
        query = f"{asked}\n{given}" if asked and given else asked or given
        if query is None:
            raise Unusable("dropped_by_trainer")
        response = row["output"] if row.get("output") is not None else response
    elif not {"query", "response", "history"} & set(row):
        raise unread("ms-swift", "query, response or history", known, "Name the columns so: --map query=COLUMN")
    if isinstance(response, list):
        response = response[0] if response else None
    history = _literal(row.get("history")) or []
    if not isinstance(history, list) or not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in history):
        raise Unusable("invalid_conversation")
    turns = [] if row.get("system") is None else [_turn("system", row["system"])]
    for pair in [*history, (query, response)]:
        turns += [_turn(role, text) for role, text in zip(("user", "assistant"), pair, strict=True) if text is not None]
    return turns


def _ids(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _around(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """Tokens that the tokenizer puts before and after a text."""
    alone = tokenizer.encode("a", add_special_tokens=False)
    around = tokenizer.encode("a")
    place = around.index(alone[0])
    return around[:place], around[place + 1 :]


def _train_closings(ids: Sequence[int], weights: list[float], closing: Sequence[int]) -> None:
    """Loss on the tokens that close an earlier answer, where they are those that close the last."""
    start = 0
    for place in range(1, len(weights) + 1):
        ends = place == len(weights) or weights[place] > 0
        if weights[place - 1] > 0 and not ends:
            start = place
        elif start > 0 and weights[place - 1] == 0 and ends and list(ids[start:place][: len(closing)]) == list(closing):
            weights[start : start + len(closing)] = [1.0] * len(closing)
