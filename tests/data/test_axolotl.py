"""Axolotl's own files, and what they must not name."""

import pytest

from ripcurrent.data._axolotl import Axolotl, from_config
from ripcurrent.errors import RipcurrentError
from tests.data.chat_tokenizers import build

TALKS = {
    "path": "rows.jsonl",
    "type": "chat_template",
    "field_messages": "conversations",
    "message_field_role": "from",
    "message_property_mappings": {"content": "value"},
    "roles_to_train": None,
    "train_on_eos": "last",
}
TRAINING = {"base_model": "model", "datasets": [TALKS], "sample_packing": True, "val_set_size": 0.1, "rl": None}
ALPACA = {"path": "rows.jsonl", "type": "alpaca"}


def test_a_training_file_makes_the_policy():
    whole = {"sequence_len": 64, "train_on_inputs": True, "eot_tokens": ["<|eot_id|>"], "chat_template": "llama3"}
    names = {"role": "from", "content": "value"}
    policy = Axolotl(
        field_messages="conversations",
        message_property_mappings=names,
        train_on_eos="last",
        train_on_inputs=True,
        eot_tokens=("<|eot_id|>",),
        chat_template="llama3",
    )
    assert from_config({**TRAINING, **whole}) == (policy, "sharegpt", 64)
    assert from_config({"datasets": [ALPACA] * 2}) == (Axolotl(type="alpaca"), "alpaca", 512)
    body = {"type": "completion", "field": "body"}
    assert from_config({"datasets": [body]})[:2] == (Axolotl(type="completion", field="body"), "record")


def test_the_template_of_the_file_is_that_of_a_data_set_which_takes_the_tokenizers(tmp_path):
    (tmp_path / "own.jinja").write_text("{{ messages }}", encoding="utf-8")
    text = str(tmp_path / "own.jinja")
    for given in ({"chat_template_jinja": text}, {"chat_template_jinja": text, "chat_template": "jinja"}):
        for own in (TALKS, {**TALKS, "chat_template": "tokenizer_default"}, {**TALKS, "chat_template_jinja": "no"}):
            policy, _, _ = from_config({**TRAINING, "datasets": [own], **given})
            assert policy.template(build("none")) == "{{ messages }}"
        own = {**TALKS, "chat_template": "chatml"}
        assert from_config({**TRAINING, "datasets": [own], **given})[0].chat_template == "chatml"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rl": "dpo"}, "rl: dpo"),
        ({"datasets": []}, "no datasets"),
        ({"datasets": [TALKS, {**TALKS, "train_on_eos": "all"}]}, "datasets[1]: other options"),
        ({"datasets": [{**ALPACA, "type": "sharegpt"}]}, "datasets[0].type: sharegpt is not held: Input should be"),
        ({"datasets": [{"path": "tokens"}]}, "datasets[0].type: None"),
        ({"datasets": [{**ALPACA, "field_instruction": "ask"}]}, "datasets[0].field_instruction: ask"),
        ({"chat_template": "gemma"}, "gemma is not held; give its text as chat_template_jinja"),
        ({"plugins": ["axolotl.integrations.kd.KDPlugin"]}, "plugins: axolotl.integrations.kd.KDPlugin"),
        ({"tokenizer_config": "another"}, "tokenizer_config: another"),
        ({"special_tokens": {"additional_special_tokens": ["<a>"]}}, "special_tokens"),
        ({"chat_template_kwargs": {"tools": 1}}, "tools is no variable"),
    ],
)
def test_what_is_not_held_is_named(change, said):
    with pytest.raises(RipcurrentError) as caught:
        from_config({**TRAINING, **change})
    assert said in caught.value.message


@pytest.mark.parametrize(
    ("options", "row", "tokenizer", "said"),
    [
        ({}, {"conversations": []}, "chatml", "chat_template reads messages"),
        ({}, {"messages": [{"role": "user"}]}, "none", "no chat template"),
        ({"type": "alpaca"}, {"instruction": "Hi"}, "chatml", "alpaca reads output"),
        ({"special_tokens": {"eos_token": "<|end|>"}}, {}, "chatml", "trains with eos_token '<|end|>'"),
        ({"eot_tokens": ["<|im_end|>"], "chat_template": "chatml"}, {"messages": []}, "plain", "not one token"),
        ({"eot_tokens": ["</s>", "[INST]"], "train_on_eot": "all", "chat_template": "jinja",
          "chat_template_jinja": "</s>"}, {"messages": []}, "plain", "train_on_eot and train_on_eos differ"),
        ({"type": "alpaca", "excess_length_strategy": "raise"}, {"instruction": "", "output": "Ho"}, "plain", "stops"),
    ],
)  # fmt: skip
def test_rows_that_axolotl_does_not_train_so(options, row, tokenizer, said):
    policy = Axolotl(**options)
    with pytest.raises(RipcurrentError) as caught:
        policy.label(row, build(tokenizer), 64)
    assert said in caught.value.message
