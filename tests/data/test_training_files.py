"""Training files of Axolotl and LLaMA-Factory."""

from ripcurrent.data import RowOptions
from ripcurrent.data._axolotl import Axolotl, from_config
from ripcurrent.data._llamafactory import LlamaFactory
from ripcurrent.data._llamafactory import from_config as from_llamafactory
from tests.data.chat_tokenizers import build

TALKS = {
    **{"path": "rows.jsonl", "type": "chat_template", "field_messages": "conversations", "message_field_role": "from"},
    **{"message_property_mappings": {"content": "value"}, "roles_to_train": None, "train_on_eos": "last"},
}
TRAINING = {"base_model": "model", "datasets": [TALKS], "sample_packing": True, "val_set_size": 0.1, "rl": None}
TAGS = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
COLUMNS = {"messages": "talk", "unknown": "x"}
INFO = {"plain": {}, "chats": {"formatting": "sharegpt", "columns": COLUMNS, "tags": TAGS}}
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
    assert from_config({**TRAINING, **whole}) == (policy, 64)
    assert from_config({"datasets": [ALPACA] * 2}) == (Axolotl(type="alpaca"), 512)
    body = {"type": "completion", "field": "body"}
    assert from_config({"datasets": [body]}) == (Axolotl(type="completion", field="body"), 512)


def test_the_template_of_the_file_is_that_of_a_data_set_which_takes_the_tokenizers(tmp_path):
    (tmp_path / "own.jinja").write_text("{{ messages }}", encoding="utf-8")
    text = str(tmp_path / "own.jinja")
    for given in ({"chat_template_jinja": text}, {"chat_template_jinja": text, "chat_template": "jinja"}):
        for own in (TALKS, {**TALKS, "chat_template": "tokenizer_default"}, {**TALKS, "chat_template_jinja": "no"}):
            policy, _ = from_config({**TRAINING, "datasets": [own], **given})
            assert policy.template(build("none")) == "{{ messages }}"
        own = {**TALKS, "chat_template": "chatml"}
        assert from_config({**TRAINING, "datasets": [own], **given})[0].chat_template == "chatml"


def test_a_training_file_and_its_data_set_make_the_policy(tmp_path):
    policy, limit = from_llamafactory(
        {"dataset": "chats", "template": "chatml", "cutoff_len": 64, "mask_history": True, "packing": True}, INFO
    )
    assert limit == 64
    (tmp_path / "train.yaml").write_text("{base_model: m, sequence_len: 64, datasets: [{type: alpaca}]}")
    options = RowOptions.resolve(RowOptions(limit=2), {"trainer": str(tmp_path / "train.yaml")})
    assert (options.trainer, options.max_tokens, options.limit) == ("axolotl,type=alpaca", 64, 2)
    assert policy == LlamaFactory(
        **{"template": "chatml", "formatting": "sharegpt", "columns": {"messages": "talk"}, "tags": TAGS},
        **{"mask_history": True, "packing": True},
    )
    assert from_llamafactory({"dataset": ["plain"]}, INFO) == (LlamaFactory(), 2048)
