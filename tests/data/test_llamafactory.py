"""LLaMA-Factory's own files, and what they must not name."""

import pytest

from ripcurrent.data._llamafactory import LlamaFactory, from_config
from ripcurrent.errors import RipcurrentError
from tests.data.chat_tokenizers import build

INFO = {
    "plain": {"file_name": "plain.json"},
    "chats": {
        "file_name": "chats.json",
        "formatting": "sharegpt",
        "columns": {"messages": "talk", "unknown": "x"},
        "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"},
    },
    "ranked": {"ranking": True},
}
TRAINING = {"stage": "sft", "dataset": "chats", "template": "chatml", "learning_rate": 1e-4, "do_train": True}


def test_a_training_file_and_its_data_set_make_the_policy():
    policy, limit = from_config({**TRAINING, "cutoff_len": 64, "mask_history": True, "packing": True}, INFO)
    assert limit == 63
    assert policy == LlamaFactory(
        template="chatml",
        formatting="sharegpt",
        columns={"messages": "talk"},
        tags=INFO["chats"]["tags"],
        mask_history=True,
    )
    assert from_config({"dataset": ["plain"]}, INFO) == (LlamaFactory(), 2048)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"dataset": "chats, plain"}, "chats, plain"),
        ({"dataset": "lost"}, "dataset_info.json has: plain, chats, ranked"),
        ({"dataset": "ranked"}, "rankings"),
        ({"stage": "dpo"}, "stage: dpo"),
        ({"use_dft_loss": True}, "use_dft_loss"),
        ({"template": "unheard"}, "held are alpaca, chatml"),
        ({"mask_history": True, "train_on_prompt": True}, "exclude each other"),
        ({"template": "gemma2", "train_on_prompt": True}, "does not take train_on_prompt"),
    ],
)
def test_what_is_not_held_is_named(change, said):
    with pytest.raises(RipcurrentError) as caught:
        from_config({**TRAINING, **change}, INFO)
    assert said in caught.value.message


@pytest.mark.parametrize(
    ("options", "row", "tokenizer", "said"),
    [
        ({}, {"messages": []}, "chatml", "reads instruction, input, output of alpaca rows"),
        ({"formatting": "openai"}, {"conversations": [{"role": "user"}]}, "chatml", "role from 'from'"),
        ({"template": "chatml"}, {"instruction": "Hi", "output": "Ho"}, "gemma", "adds <|im_end|>"),
        ({}, {"instruction": "Hi", "output": "Ho"}, "gemma", "derives no template"),
    ],
)
def test_what_holds_for_the_whole_file_stops_it(options, row, tokenizer, said):
    with pytest.raises(RipcurrentError) as caught:
        LlamaFactory(**options).label(row, build(tokenizer), 100)
    assert said in caught.value.message
