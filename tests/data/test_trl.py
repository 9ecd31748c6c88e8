"""The policy ``trl`` against the `SFTTrainer` that is installed, token for token."""

import copy
import hashlib
from pathlib import Path

import pytest
import trl
from packaging.version import Version
from research.trainer_labels_trl import ASKED, CASES, THOUGHT, TOOLS, prepared, turns

from ripcurrent.data import _render
from ripcurrent.data._formats import Unusable
from ripcurrent.data._render import TemplateMismatch
from ripcurrent.data._trl import _KNOWN, Trl
from tests.data.chat_tokenizers import build

# older versions prepare rows in other ways, and the policy says which version it follows
pytestmark = pytest.mark.skipif(Version(trl.__version__) < Version("1.16"), reason="the policy trl is that of TRL 1.16")

FILES = (Path(trl.__file__).parent / "chat_templates").glob("*.jinja")
TEMPLATES = {hashlib.sha256(text).hexdigest()[:16]: text.decode() for text in map(Path.read_bytes, FILES)}
CALLED = [ASKED[0], {**ASKED[1], "content": "Wait."}, {"role": "tool", "name": "boats", "content": "2"}]
ROWS = [
    {"messages": turns(" Why does the tide go out?\n", "\n The moon pulls. \n\n")},
    {"messages": turns("A boat?", "A skiff.", "More?", "A tug.", system="Be short.")},
    {"messages": turns("Count.", "<think>\nOne.\n</think>\n\nOne.", "On.", "</think> two")},
    {"messages": [*turns("Say nothing.", ""), {"role": "assistant", "content": "Or this."}, *turns("Fine.")]},
    {"messages": [{"role": "assistant", "content": "Welcome."}, *turns("Hello.", "静か 🚤")]},
    {"messages": [*CALLED, {"role": "assistant", "content": "Two."}], "tools": TOOLS},
    {"messages": CALLED[:2], "tools": TOOLS},
    {"prompt": turns("Boats?"), "completion": turns("Boats?", "Two.")[1:]},
    THOUGHT,
]
ONLY = {"assistant_only_loss": True}


def assert_as_trained(given, row, tokenizer, max_tokens, options):
    own = prepared(row, tokenizer, max_tokens, options)
    assert given == (own["input_ids"], [float(label != -100) for label in own["labels"]])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_rows_and_options(case, embedded_tokenizer):
    _, name, max_tokens, options, row = case
    tokenizer = embedded_tokenizer if name == "smollm2" else build(name)
    try:
        given = Trl(**options).label(row, tokenizer, max_tokens)
    except Unusable as refusal:
        if refusal.reason == "dropped_by_trainer":
            assert prepared(row, tokenizer, max_tokens, options) is None
        else:
            with pytest.raises(RuntimeError, match="no assistant tokens"):
                prepared(row, tokenizer, max_tokens, options)
    else:
        assert_as_trained(given, row, tokenizer, max_tokens, options)


@pytest.mark.parametrize("template", sorted(_KNOWN))
def test_assistant_turns_in_templates_that_trl_exchanges(template, monkeypatch):
    """Every row has TRL's tokens and labels, or is refused; templates are those of TRL's own folder."""
    monkeypatch.setattr(_render, "_ON_THAT_DAY", "")  # GPT-OSS's prints today
    tokenizer = copy.deepcopy(build("marked"))
    tokenizer.chat_template = TEMPLATES[template]
    refused = 0
    for row in ROWS:
        try:
            given = Trl(**ONLY).label(row, tokenizer, 4096)
        except (Unusable, TemplateMismatch):
            refused += 1
        else:
            assert_as_trained(given, row, tokenizer, 4096, ONLY)
    assert refused <= (6 if template == "a4c9919cbbd4acdd" else 4)
