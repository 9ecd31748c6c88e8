"""Variables of a chat template behind a model's name: what is rendered, trained on, kept, and refused."""

from pathlib import Path

import pytest

from ripcurrent.data import Message, Row, encode, encode_rows, read_rows, rendered, why_mismatch
from ripcurrent.errors import RipcurrentError
from ripcurrent.models import ModelInfo, load_model, split_variables
from tests.models.tiny import save_tiny

THINKING = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\n' }}"
    "{% if message.role == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ message.content + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{% endif %}"
)
"""As Qwen3's: the last answer has an empty thought, and a question lets the model think unless it is told not to."""


@pytest.fixture
def thinking(tmp_path: Path) -> Path:
    folder = save_tiny(tmp_path / "thinking", "llama_tied")
    (folder / "chat_template.jinja").write_text(THINKING)
    return folder


def test_a_model_is_asked_without_thoughts_and_trained_on_the_answer_alone(thinking, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "Hi", "completion": "Good day"}\n')
    plain, told = load_model(thinking), load_model(f"{thinking},enable_thinking=false")
    for model, thought in ((plain, False), (told, True)):
        question = rendered(model.tokenizer, [{"role": "user", "content": "Hi"}], generation_prompt=True)
        assert question.endswith("</think>\n\n") == thought
        (row,) = encode_rows(read_rows(rows), model.tokenizer)
        trained = model.tokenizer.decode(row.tokens[row.loss_mask])
        assert trained.startswith("Good day" if thought else "<think>")
    assert told.name == f"{thinking},enable_thinking=false"
    assert told.fingerprint == plain.fingerprint
    assert told.template_sha256 != plain.template_sha256


def test_what_is_saved_keeps_the_variable(thinking, tmp_path):
    told = load_model(f"{thinking},enable_thinking=false")
    told.model.save_pretrained(tmp_path / "saved")
    told.tokenizer.save_pretrained(tmp_path / "saved")
    again = load_model(tmp_path / "saved")
    assert again.template_sha256 == told.template_sha256
    # and what is said now stands above it, and is not said twice
    same = load_model(f"{tmp_path / 'saved'},enable_thinking=false")
    assert same.template_sha256 == told.template_sha256
    other = load_model(f"{tmp_path / 'saved'},enable_thinking=true")
    assert other.template_sha256 == load_model(f"{thinking},enable_thinking=true").template_sha256


def test_rows_of_several_turns_whose_template_hides_them_are_told_of(thinking):
    tokenizer = load_model(f"{thinking},enable_thinking=false", device="cpu").tokenizer
    turns = (Message("user", "a"), Message("assistant", "b"), Message("user", "c"), Message("assistant", "d"))
    row = Row(0, "", turns, None, {})
    assert encode(row, tokenizer).status == "template_mismatch"
    assert encode(row, tokenizer, loss_on="last").status == "ok"
    assert "up to an answer is not the beginning" in (why_mismatch(row, tokenizer, "all") or "")
    assert why_mismatch(row, tokenizer, "last") is None


def test_names_are_cut_where_variables_begin(tmp_path):
    assert split_variables("owner/name") == ("owner/name", {})
    assert split_variables("a/b,x=false,y=2, z=low") == ("a/b", {"x": False, "y": 2, "z": "low"})
    # what YAML reads otherwise, or not at all, is text
    assert split_variables("a/b,x=@y,date=2024-07-26") == ("a/b", {"x": "@y", "date": "2024-07-26"})
    name = "/here/name,enable_thinking=false"
    assert ModelInfo(name=name, adapter="a", adapter_base="owner/Name", fingerprint="0").other_base() is None
    odd = tmp_path / "model,v=2"
    odd.mkdir()
    assert split_variables(str(odd)) == (str(odd), {})


@pytest.mark.parametrize("name", ["a/b,x=", "a/b,=1", "a/b,x=1,y", "a/b,2x=1", "a/b,x=[1]"])
def test_what_sets_no_variable_is_refused(name):
    with pytest.raises(RipcurrentError, match="sets no variable of a chat template"):
        split_variables(name)


def test_a_variable_that_the_template_does_not_have_is_refused(thinking, tmp_path):
    with pytest.raises(RipcurrentError, match="has no variable enable_thoughts"):
        load_model(f"{thinking},enable_thoughts=false")
    folder = save_tiny(tmp_path / "bare", "llama_tied", chat_template=False)
    with pytest.raises(RipcurrentError, match="has no chat template: no variable"):
        load_model(f"{folder},enable_thinking=false")
