"""What a dataset is made of: messages, rows, and rows as tokens."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from ripcurrent.data._spec import RowSpec

Turns = Literal["all", "last"]
"""Which assistant turns are trained: every one, or only the last."""

RowStatus = Literal[
    "ok", "no_response", "no_loss_tokens", "too_long", "invalid_conversation", "template_mismatch", "not_finite",
    "dropped_by_trainer", "shifted_labels", "not_text", "unwanted_answer", "tools_not_held",
    "weight_not_held",
]  # fmt: skip
"""``ok``, or the reason why a row has no score."""


Fields = Mapping[str, Any]
"""A record: columns with their values."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: str
    """``system``, ``user``, ``assistant`` or ``tool``."""
    content: str
    """The turn's text, exactly as in the dataset."""
    bears_loss: bool = True
    """False for an assistant turn that the dataset excludes from training (OpenAI's ``weight: 0``)."""
    parts: Fields = field(default_factory=dict, hash=False)
    """What a chat template may print beside the text: ``tool_calls``, ``tool_call_id``, ``reasoning_content``."""

    @property
    def calls(self) -> list[Fields]:
        """Functions that an assistant turn calls, each with ``name`` and ``arguments``."""
        return [call["function"] for call in self.parts.get("tool_calls", ())]

    @property
    def shown(self) -> str:
        """The text, followed by the calls as JSON, one a line."""
        calls = (json.dumps(call, ensure_ascii=False) for call in self.calls)
        return "\n".join(filter(None, (self.content, *calls)))


def bearing_turns(messages: Sequence[Message], turns: Turns) -> list[int]:
    """Positions of the assistant turns that bear loss; one without text and tool calls has nothing to bear it."""
    answers = [index for index, message in enumerate(messages) if message.role == "assistant"]
    if turns == "last":
        answers = answers[-1:]
    return [index for index in answers if messages[index].bears_loss and messages[index].shown.strip()]


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a dataset, in every format the same."""

    index: int
    """0-based position in the input."""
    id: str
    """The row's own id, or a hash of its content."""
    messages: tuple[Message, ...]
    """The conversation; empty for a plain document or when ``problem`` is set."""
    text: str | None
    """A plain document (no prompt: every token but the first bears loss), else None."""
    record: Fields
    """The record as read, unknown fields included."""
    problem: RowStatus | None = None
    """A reason, known from reading alone, why the row cannot be scored."""
    mapped: Fields | None = None
    """The record under the names that ``--map`` gives; None where it gives none."""
    tools: list[Any] | None = None
    """Definitions of the tools that the conversation may call."""

    @property
    def fields(self) -> Fields:
        """What a trainer is given: the record, after ``--map``."""
        return self.record if self.mapped is None else self.mapped

    @property
    def response(self) -> str:
        """Text of the assistant turns, joined by blank lines (of a document, and of tokens with a text: all of it)."""
        if self.text is not None:
            return self.text
        if not self.messages and isinstance(shown := self.fields.get("text"), str):
            return shown
        return "\n\n".join(m.shown for m in self.messages if m.role == "assistant")

    def trained(self, turns: Turns = "all") -> str:
        """Text of the assistant turns that bear loss, joined by blank lines (of a plain document: all of it)."""
        if self.text is not None:
            return self.text
        return "\n\n".join(self.messages[turn].shown for turn in bearing_turns(self.messages, turns))

    @property
    def prompt(self) -> str:
        """Text of the user turns, joined by blank lines."""
        return "\n\n".join(m.content for m in self.messages if m.role == "user")


@dataclass(frozen=True, slots=True)
class Traits:
    """Format traits of a row's response."""

    is_list: bool
    """At least two lines begin with a bullet or a number."""
    is_bullet: bool
    """At least two lines begin with a bullet."""
    is_numbered: bool
    """At least two lines begin with a number."""
    opens_numbered: bool
    """It begins with the first number of a list, whether more of a list follows or not."""
    is_maths: bool
    """Arithmetic or an equation."""
    is_code: bool
    """A code block or lines of code."""
    has_refusal: bool
    """A refusal or ethics phrase, the safety pre-filter's criterion."""


@dataclass(frozen=True, slots=True)
class EncodedRow:
    """A row as the model sees it in training, cut after its last loss-bearing token."""

    index: int
    """0-based position in the input."""
    status: RowStatus
    """``ok``, or why there are no tokens to score."""
    tokens: npt.NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, dtype=np.int32))
    """Token ids, shape ``(tokens,)``; empty unless ``status`` is ``ok``."""
    loss_mask: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, dtype=np.bool_))
    """True where a token bears loss (is predicted in training), shape ``(tokens,)``; never at 0."""
    weights: npt.NDArray[np.float32] | None = None
    """Weights of the tokens' losses, shape ``(tokens,)``; None where all that bear loss weigh the same."""
    truncated: bool = False
    """Cut at ``max_tokens``; the row is still ``ok``."""
    prompt_tokens: int = 0
    """Tokens that bear no loss."""
    response_tokens: int = 0
    """Tokens that bear loss."""
    unread: bool = False
    """It has tools or reasoning that the chat template does not print."""


class DatasetInfo(BaseModel):
    """What a manifest keeps of a dataset: enough to open it again and to see that it has not changed."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    path: str
    """Absolute path, or hub address."""
    name: str
    """File or folder name without suffixes, or the hub name."""
    sha256: str
    """Of the file, or of the rows where there is no one file."""
    format: str
    """Name of the row format."""
    mapping: dict[str, str] | None = None
    """From a format's field to the dataset's column, as ``--map`` gave it."""
    spec: RowSpec | None = None
    """How its records are read, as ``--spec`` gave it."""
    container: str
    """``json``, ``jsonl``, ``csv``, ``parquet``, ``files``, ``folder`` or ``hub``."""
    rows: int
    """Number of rows, at most the limit."""
