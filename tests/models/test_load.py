"""Loading from a folder: what comes back is what was saved; what cannot be loaded; template variables; devices."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BertConfig, GraniteMoeHybridConfig, MixtralConfig, T5Config, ViTConfig
from transformers.models.auto.modeling_auto import AutoModel, AutoModelForSeq2SeqLM

from ripcurrent.data import Completion, Message, Row, encode, encode_rows, read_rows, rendered, why_mismatch
from ripcurrent.errors import RipcurrentError
from ripcurrent.models import ModelInfo, describe, load_model, require_chat_template, split_variables
from tests.models.test_adapter import IDS
from tests.models.tiny import KINDS, save_tiny, tiny_model, tiny_tokenizer

Q = "model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_comes_back_whole_frozen_and_in_eval_mode(kind, tmp_path):
    loaded = load_model(save_tiny(tmp_path, kind), device="cpu", dtype="float32")
    original = tiny_model(kind)
    assert torch.equal(loaded.model(IDS).logits, original(IDS).logits)
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert (loaded.device.type, loaded.dtype, loaded.scope, loaded.adapter, loaded.revision) == (
        "cpu", torch.float32, "all", None, None,
    )  # fmt: skip
    assert loaded.tokenizer.padding_side == "right"
    info = describe(loaded)
    assert info.attention == ("eager" if kind == "gemma2" else "sdpa")
    assert ModelInfo.model_validate_json(info.model_dump_json()) == info
    # in bfloat16 parameters are rounded once, and buffers not at all
    rounded = load_model(tmp_path, device="cpu", dtype="bfloat16").model
    for name, parameter in rounded.named_parameters():
        assert torch.equal(parameter, original.get_parameter(name).to(torch.bfloat16)), name
    assert all(
        torch.equal(one, original.get_buffer(name)) for name, one in rounded.named_buffers() if "inv_freq" in name
    )


@pytest.mark.parametrize(("kind", "head"), [("llama_tied", 0), ("mistral", 300 * 32)])
def test_a_tied_head_counts_once(kind, head, tmp_path):
    loaded = load_model(save_tiny(tmp_path, kind), device="cpu", dtype="float32")
    info = describe(loaded)
    assert (info.parameters, info.dtype, info.device) == (25_120 + head, "float32", "cpu")


def test_the_chat_template_has_its_hash_and_may_be_missing(tmp_path):
    first = load_model(save_tiny(tmp_path / "a", "llama_tied"), device="cpu")
    require_chat_template(first)
    save_tiny(tmp_path / "b", "llama_tied")
    tokenizer = tiny_tokenizer(chat_template="{{ messages[0]['content'] }}")
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path / "b")
    second = load_model(tmp_path / "b", device="cpu")
    assert first.template_sha256 != second.template_sha256
    assert first.fingerprint == second.fingerprint
    # pad is eos where the tokenizer names none
    assert second.tokenizer.pad_token == second.tokenizer.eos_token == "<|im_end|>"
    bare = load_model(save_tiny(tmp_path / "c", "llama_tied", chat_template=False), device="cpu")
    assert bare.template_sha256 is None
    with pytest.raises(RipcurrentError, match="no chat template"):
        require_chat_template(bare)


# What cannot be loaded. Each case spoils a good folder.


def edit(file: str, **changes: object) -> Callable[[Path], None]:
    """Other values in one of the folder's JSON files."""

    def spoil(folder: Path) -> None:
        path = folder / file
        path.write_text(json.dumps({**(json.loads(path.read_text()) if path.exists() else {}), **changes}))

    return spoil


def write(file: str, content: str) -> Callable[[Path], object]:
    return lambda folder: (folder / file).write_text(content)


def without(pattern: str, *then: Callable[[Path], object]) -> Callable[[Path], None]:
    """Files removed, and what is spoilt besides."""

    def spoil(folder: Path) -> None:
        for file in folder.glob(pattern):
            file.unlink()
        for one in then:
            one(folder)

    return spoil


def weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return spoil


def cut_short(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def tokenizer_of_a_larger_model(folder: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["<one more>"])
    tokenizer.chat_template = "{{ '<one more>' }}" + str(tokenizer.chat_template)
    tokenizer.save_pretrained(folder)


def missing_shard(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    index = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    edit("model.safetensors.index.json", weight_map=index)(folder)


CODE = {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"}}
ADAPTER = write("adapter_config.json", "{}")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (without("model.safetensors", write("pytorch_model.bin", "")), r"safetensors \(only pytorch_model.bin"),
        (without("model.safetensors"), "no weights in safetensors"),
        (cut_short, "cannot be loaded"),
        (weights(lambda t: t.pop("model.layers.1.mlp.up_proj.weight")), r"1 weights that it lacks, .*1.mlp.up_proj"),
        (edit("config.json", num_hidden_layers=1), "has no place for .* the first model.layers.1."),
        (weights(lambda t: t.update({f"{Q}.bias": torch.ones(32)})), f"no place for 1 of its weights, .* {Q}.bias"),
        (edit("config.json", intermediate_size=64), r"mlp.* the shape \((64, 32|32, 64)\), its weights \("),
        (write("config.json", "{"), "cannot be loaded"),
        (without("config.json"), "no config.json"),
        (write("config.json", '{"model_type": "nobody_knows_it"}'), "nobody_knows_it"),
        (without("config.json", edit("config.json", **CODE), write("own.py", "raise SystemExit")), "never run"),
        (without("*token*"), "tokenizer"),
        (tokenizer_of_a_larger_model, "token 300, but the model embeds only 300"),
        (missing_shard, "model-00002-of-00002.safetensors"),
        (without("model.safetensors", ADAPTER), "is an adapter, not a model"),
        (ADAPTER, "holds an adapter beside a model"),
        (edit("tokenizer.json", pre_tokenizer={"type": "NobodyKnowsIt"}), "no tokenizer that can be read"),
        (without("config.json", write("small.gguf", "GGUF")), "small.gguf"),
        (edit("config.json", quantization_config={"quant_method": "fp8"}), "in a packed form .fp8"),
    ],
)
def test_a_spoiled_folder_is_one_clear_error(spoil, says, tmp_path):
    folder = save_tiny(tmp_path / "model", "llama_tied")
    spoil(folder)
    with pytest.raises(RipcurrentError, match=says) as caught:
        load_model(folder, device="cpu")
    assert caught.value.hint
    assert str(folder) in caught.value.message
    assert "\n" not in caught.value.message


def test_sharded_weights_are_read_and_a_spare_added_token_does_no_harm(tmp_path):
    """As in Gemma 3's text models, whose token for images is one beyond what they embed."""
    tiny_model("llama_untied").save_pretrained(tmp_path, max_shard_size="50KB")
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    tokenizer.save_pretrained(tmp_path)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    loaded = load_model(tmp_path, device="cpu", dtype="float32")
    assert torch.equal(loaded.model(IDS).logits, tiny_model("llama_untied")(IDS).logits)
    assert loaded.tokenizer.get_vocab()["<image>"] == 300


SIZES = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
SIZES |= {"num_hidden_layers": 1}
T5 = {"vocab_size": 300, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 1, "num_heads": 4}


@pytest.mark.parametrize(
    ("make", "config", "says"),
    [
        (AutoModelForCausalLM, MixtralConfig(**SIZES, num_key_value_heads=2, num_local_experts=4), "mixture-of-expert"),
        (AutoModelForSeq2SeqLM, T5Config(**T5), "encoder-decoder"),
        (AutoModel, ViTConfig(**SIZES, image_size=32), "does not generate text"),
        (AutoModel, BertConfig(**SIZES), "see the tokens after"),
    ],
)
def test_models_that_the_method_does_not_cover_are_refused(make, config, says, tmp_path):
    make.from_config(config).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(RipcurrentError, match=says) as caught:
        load_model(tmp_path, device="cpu")
    assert "dense decoder-only" in caught.value.hint


def test_a_dense_model_of_a_family_with_experts_is_no_mixture(tmp_path):
    config = GraniteMoeHybridConfig(
        **SIZES, num_key_value_heads=2, num_local_experts=0, shared_intermediate_size=48, mamba_n_heads=4,
        layer_types=["attention"], bos_token_id=None, eos_token_id=2, pad_token_id=2,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    assert load_model(tmp_path, device="cpu").model.config.num_local_experts == 0


@pytest.mark.parametrize(
    ("options", "says", "choices"),
    [
        ({"device": "cuda:99"}, "no device 'cuda:99'", "cpu"),
        ({"dtype": "fp16"}, "no compute type 'fp16'", "float32, bfloat16, float16"),
        ({"scope": "everything"}, "no scope 'everything'", "all, linear, lora"),
    ],
)
def test_a_wrong_option_names_the_right_ones(options, says, choices, tmp_path):
    folder = save_tiny(tmp_path, "llama_tied")
    with pytest.raises(RipcurrentError, match=says) as caught:
        load_model(folder, **options)
    assert choices in caught.value.hint


def test_the_fingerprint_is_of_weights_and_configuration_alone(tmp_path):
    first = load_model(save_tiny(tmp_path / "a", "llama_tied"), device="cpu", dtype="float32")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    second = load_model(tmp_path / "b", device="cpu", dtype="float16")
    assert {parameter.dtype for parameter in second.model.parameters()} == {torch.float16}
    other = load_model(save_tiny(tmp_path / "c", "llama_tied", seed=1), device="cpu", dtype="float32")
    assert first.fingerprint == second.fingerprint != other.fingerprint
    edit("config.json", rms_norm_eps=1e-3)(tmp_path / "b")
    assert load_model(tmp_path / "b", device="cpu").fingerprint != first.fingerprint


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
def thinking(tmp_path) -> Path:
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
    assert encode(row, tokenizer, trained=Completion(turns="last")).status == "ok"
    assert "up to an answer is not the beginning" in (why_mismatch(row, tokenizer, Completion()) or "")
    assert why_mismatch(row, tokenizer, Completion(turns="last")) is None


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
