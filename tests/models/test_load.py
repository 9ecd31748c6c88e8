"""Loading from a folder: what comes back is what was saved, and what cannot be loaded says so."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, GraniteMoeHybridConfig, MixtralConfig, T5Config
from transformers.models.auto.modeling_auto import AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from ripcurrent.errors import RipcurrentError
from ripcurrent.models import ModelInfo, describe, load_model, require_chat_template
from tests.models.tiny import KINDS, save_tiny, tiny_model, tiny_tokenizer

IDS = torch.tensor([[1, 9, 40, 77, 120, 2]])


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_comes_back_whole_frozen_and_in_eval_mode(kind: str, tmp_path: Path) -> None:
    loaded = load_model(save_tiny(tmp_path, kind), device="cpu", dtype="float32")
    original = tiny_model(kind)
    assert torch.equal(loaded.model(IDS).logits, original(IDS).logits)
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert (loaded.device.type, loaded.dtype, loaded.scope, loaded.adapter, loaded.revision) == (
        "cpu", torch.float32, "all", None, None,
    )  # fmt: skip
    assert loaded.tokenizer.padding_side == "right"
    assert describe(loaded).attention == ("eager" if kind == "gemma2" else "sdpa")


@pytest.mark.parametrize("kind", ["llama_tied", "gemma3", "gpt2"])
def test_bfloat16_rounds_parameters_once_and_leaves_buffers(kind: str, tmp_path: Path) -> None:
    loaded = load_model(save_tiny(tmp_path, kind), device="cpu", dtype="bfloat16")
    original = tiny_model(kind)
    for name, parameter in loaded.model.named_parameters():
        assert torch.equal(parameter, original.get_parameter(name).to(torch.bfloat16)), name
    for name, buffer in loaded.model.named_buffers():
        if name.endswith("inv_freq"):
            assert torch.equal(buffer, original.get_buffer(name)), name


def test_eager_attention_is_taken_when_asked_for(tmp_path: Path) -> None:
    loaded = load_model(save_tiny(tmp_path, "llama_tied"), device="cpu", dtype="float32", attention="eager")
    assert describe(loaded).attention == "eager"
    assert torch.allclose(loaded.model(IDS).logits, tiny_model("llama_tied")(IDS).logits, atol=1e-5)


def test_loading_a_folder_prints_nothing_and_asks_no_network(
    tmp_path: Path, no_network: list[object], capfd: pytest.CaptureFixture[str]
) -> None:
    folder = save_tiny(tmp_path, "qwen2")
    capfd.readouterr()
    load_model(folder, device="cpu")
    assert no_network == []
    assert capfd.readouterr() == ("", "")


def test_parameters_of_a_tied_head_count_once(tmp_path: Path) -> None:
    tied = load_model(save_tiny(tmp_path / "a", "llama_tied"), device="cpu")
    assert describe(tied).parameters == 25_120
    untied = load_model(save_tiny(tmp_path / "b", "mistral"), device="cpu")
    assert describe(untied).parameters == 25_120 + 300 * 32


def test_a_manifest_entry_is_plain_json(tmp_path: Path) -> None:
    info = describe(load_model(save_tiny(tmp_path, "qwen3"), device="cpu", dtype="bfloat16"))
    assert ModelInfo.model_validate_json(info.model_dump_json()) == info
    assert (info.architecture, info.dtype, info.device) == ("qwen3", "bfloat16", "cpu")


def test_a_model_without_template_loads_but_cannot_be_chatted_with(tmp_path: Path) -> None:
    loaded = load_model(save_tiny(tmp_path, "llama_tied", chat_template=False), device="cpu")
    assert loaded.template_sha256 is None
    with pytest.raises(RipcurrentError, match="no chat template"):
        require_chat_template(loaded)


def test_a_model_with_template_passes_and_its_hash_follows_the_template(tmp_path: Path) -> None:
    first = load_model(save_tiny(tmp_path / "a", "llama_tied"), device="cpu")
    require_chat_template(first)
    save_tiny(tmp_path / "b", "llama_tied")
    tiny_tokenizer(chat_template="{{ messages[0]['content'] }}").save_pretrained(tmp_path / "b")
    second = load_model(tmp_path / "b", device="cpu")
    assert first.template_sha256 != second.template_sha256
    assert first.fingerprint == second.fingerprint


def test_pad_is_eos_where_the_tokenizer_names_no_pad_token(tmp_path: Path) -> None:
    save_tiny(tmp_path, "llama_tied")
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    loaded = load_model(tmp_path, device="cpu").tokenizer
    assert loaded.pad_token == loaded.eos_token == "<|im_end|>"


# What cannot be loaded. Each case spoils a good folder.


def only_pickled_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def cut_short(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def one_tensor_gone(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def other_shapes(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 64}))


def fewer_layers(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 1}))


def a_bias_more(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.0.self_attn.q_proj.bias"] = torch.ones(32)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def broken_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def unknown_architecture(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "nobody_knows_it"}))


def remote_code(folder: Path) -> None:
    code = {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"}}
    (folder / "config.json").write_text(json.dumps(code))
    (folder / "own.py").write_text("raise SystemExit('code of the repository was run')")


def no_tokenizer(folder: Path) -> None:
    for file in folder.glob("*token*"):
        file.unlink()


def tokenizer_of_a_larger_model(folder: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["<one more>"])
    tokenizer.chat_template = "{{ '<one more>' }}" + str(tokenizer.chat_template)
    tokenizer.save_pretrained(folder)


def missing_shard(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def only_an_adapter(folder: Path) -> None:
    no_config(folder)
    (folder / "adapter_config.json").write_text("{}")


def adapter_beside(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")


def adapter_with_a_config(folder: Path) -> None:
    no_weights(folder)
    adapter_beside(folder)


def config_of_a_wrong_kind(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 4096.5}))


def tokenizer_of_a_newer_library(folder: Path) -> None:
    data = json.loads((folder / "tokenizer.json").read_text())
    data["pre_tokenizer"] = {"type": "NobodyKnowsIt"}
    (folder / "tokenizer.json").write_text(json.dumps(data))


def a_gguf_inside(folder: Path) -> None:
    no_config(folder)
    (folder / "small.gguf").write_bytes(b"GGUF")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (only_pickled_weights, r"no weights in safetensors \(only pytorch_model.bin"),
        (no_weights, "no weights in safetensors"),
        (cut_short, "cannot be loaded"),
        (one_tensor_gone, r"lacks 1 of the weights .* model.layers.1.mlp.up_proj.weight"),
        (fewer_layers, "weights that its configuration has no place for, the first model.layers.1."),
        (a_bias_more, "holds 1 weights .* model.layers.0.self_attn.q_proj.bias"),
        (other_shapes, r"mlp.* the shape \((64, 32|32, 64)\), its weights \((48, 32|32, 48)\)"),
        (broken_config, "cannot be loaded"),
        (no_config, "no config.json"),
        (unknown_architecture, "nobody_knows_it"),
        (remote_code, "never run"),
        (no_tokenizer, "tokenizer"),
        (tokenizer_of_a_larger_model, "token 300, but the model embeds only 300"),
        (missing_shard, "model-00002-of-00002.safetensors"),
        (only_an_adapter, "is an adapter, not a model"),
        (adapter_with_a_config, "is an adapter, not a model"),
        (adapter_beside, "holds an adapter beside a model"),
        (config_of_a_wrong_kind, "cannot be loaded"),
        (tokenizer_of_a_newer_library, "no tokenizer that can be read"),
        (a_gguf_inside, "small.gguf"),
    ],
)
def test_a_spoiled_folder_is_one_clear_error(spoil: Callable[[Path], None], says: str, tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "model", "llama_tied")
    spoil(folder)
    with pytest.raises(RipcurrentError, match=says) as caught:
        load_model(folder, device="cpu")
    assert caught.value.hint
    assert str(folder) in caught.value.message
    assert "\n" not in caught.value.message


def test_a_spare_added_token_does_no_harm(tmp_path: Path) -> None:
    """Gemma 3's text models come with a token for images, one beyond what they embed."""
    folder = save_tiny(tmp_path / "model", "llama_tied")
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    tokenizer.save_pretrained(folder)
    assert load_model(folder, device="cpu").tokenizer.get_vocab()["<image>"] == 300


def test_a_tokenizer_with_a_larger_vocabulary_of_its_own_is_refused(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "model", "llama_tied")
    data = json.loads((folder / "tokenizer.json").read_text())
    data["model"]["vocab"]["zzzz"] = 300
    (folder / "tokenizer.json").write_text(json.dumps(data))
    with pytest.raises(RipcurrentError, match="token 300, but the model embeds only 300"):
        load_model(folder, device="cpu")


def test_sharded_weights_are_read(tmp_path: Path) -> None:
    tiny_model("llama_untied").save_pretrained(tmp_path, max_shard_size="50KB")
    tiny_tokenizer().save_pretrained(tmp_path)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    loaded = load_model(tmp_path, device="cpu", dtype="float32")
    assert torch.equal(loaded.model(IDS).logits, tiny_model("llama_untied")(IDS).logits)


def mixture_of_experts() -> torch.nn.Module:
    config = MixtralConfig(
        vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=4,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config)


def encoder_decoder() -> torch.nn.Module:
    config = T5Config(vocab_size=300, d_model=32, d_kv=8, d_ff=48, num_layers=1, num_heads=4)
    return AutoModelForSeq2SeqLM.from_config(config)


def image_model() -> torch.nn.Module:
    from transformers import ViTConfig

    return AutoModel.from_config(
        ViTConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=48, image_size=32)
    )


def masked_model() -> torch.nn.Module:
    config = BertConfig(
        vocab_size=300, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=48
    )
    return AutoModel.from_config(config)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (mixture_of_experts, "mixture-of-experts"),
        (encoder_decoder, "encoder-decoder"),
        (image_model, "does not generate text"),
        (masked_model, "see the tokens after"),
    ],
)
def test_models_that_the_method_does_not_cover_are_refused(
    make: Callable[[], torch.nn.Module], says: str, tmp_path: Path
) -> None:
    make().save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(RipcurrentError, match=says) as caught:
        load_model(tmp_path, device="cpu")
    assert "dense decoder-only" in caught.value.hint


@pytest.mark.parametrize("method", ["fp8", "gptq", "awq", "bitnet"])
def test_packed_weights_that_are_not_read_are_refused(method: str, tmp_path: Path) -> None:
    save_tiny(tmp_path, "llama_tied")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": method}}))
    with pytest.raises(RipcurrentError, match=rf"stored in a packed form \({method}\)"):
        load_model(tmp_path, device="cpu")


def test_a_dense_model_of_a_family_with_experts_is_no_mixture(tmp_path: Path) -> None:
    config = GraniteMoeHybridConfig(
        vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=0, shared_intermediate_size=48, layer_types=["attention"] * 2,
        mamba_n_heads=4, bos_token_id=None, eos_token_id=2, pad_token_id=2,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    assert load_model(tmp_path, device="cpu").model.config.num_local_experts == 0


@pytest.mark.parametrize(
    ("options", "says", "choices"),
    [
        ({"device": "gpu"}, "no device 'gpu'", "cpu"),
        ({"device": "cuda:99"}, "no device 'cuda:99'", "cpu"),
        ({"dtype": "fp16"}, "no compute type 'fp16'", "float32, bfloat16, float16"),
        ({"scope": "everything"}, "no scope 'everything'", "all, linear, lora"),
        ({"attention": "flash"}, "no attention 'flash'", "sdpa, eager"),
        ({"scope": "lora", "lora_rank": 0}, "rank 0", "at least 1"),
    ],
)
def test_a_wrong_option_names_the_right_ones(options: dict[str, str], says: str, choices: str, tmp_path: Path) -> None:
    folder = save_tiny(tmp_path, "llama_tied")
    with pytest.raises(RipcurrentError, match=says) as caught:
        load_model(folder, **options)
    assert choices in caught.value.hint


def test_auto_device_and_type_are_what_this_machine_does_best(tmp_path: Path) -> None:
    loaded = load_model(save_tiny(tmp_path, "llama_tied"))
    if not torch.cuda.is_available() and not torch.backends.mps.is_available():
        flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
        native = "avx512_bf16" in flags or "amx_tile" in flags
        assert loaded.device.type == "cpu"
        assert loaded.dtype == (torch.bfloat16 if native else torch.float32)


def test_float16_is_taken_when_asked_for(tmp_path: Path) -> None:
    loaded = load_model(save_tiny(tmp_path, "llama_tied"), device="cpu", dtype="float16")
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.float16}


def test_the_same_model_elsewhere_and_in_another_type_has_the_same_fingerprint(tmp_path: Path) -> None:
    first = load_model(save_tiny(tmp_path / "a", "llama_tied"), device="cpu", dtype="float32")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    second = load_model(tmp_path / "b", device="cpu", dtype="bfloat16", attention="eager")
    other = load_model(save_tiny(tmp_path / "c", "llama_tied", seed=1), device="cpu", dtype="float32")
    assert first.fingerprint == second.fingerprint != other.fingerprint


def test_a_configuration_that_changes_the_result_changes_the_fingerprint(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path, "llama_tied")
    first = load_model(folder, device="cpu")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-3}))
    assert load_model(folder, device="cpu").fingerprint != first.fingerprint
