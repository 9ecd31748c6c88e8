"""Sequence-classification models as judges: their labels' meaning is stated, never guessed."""

import json
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForSequenceClassification, RobertaConfig, RobertaForSequenceClassification

from ripcurrent.errors import RipcurrentError
from ripcurrent.evaluate import Answer, Judge, JudgeSettings, find_judge
from tests.models.tiny import VOCAB_SIZE, save_tiny, tiny_tokenizer

TEXTS = [
    "Bake it for an hour.",
    "I can't help with that.",
    "<think>Hm.</think>Ask a baker about flour, salt, water and how long the dough rests before it goes in.",
    "Yes, of course.",
    " ".join(f"word{n}" for n in range(400)),
]
SHAPE = {"vocab_size": VOCAB_SIZE, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}


def save_classifier(folder: Path, labels: list[str], *, seed: int = 0, **more: object) -> Path:
    more |= {"id2label": dict(enumerate(labels)), "label2id": {label: n for n, label in enumerate(labels)}}
    more |= {"bos_token_id": None, "eos_token_id": 2, "pad_token_id": None, "num_labels": len(labels)}
    shape = {**SHAPE, "num_hidden_layers": 2, "num_key_value_heads": 2, "max_position_embeddings": 256}
    config = LlamaConfig(**shape, initializer_range=0.3, **more)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        LlamaForSequenceClassification(config).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def find(name: object) -> Judge:
    return find_judge(f"classifier:{name}" if isinstance(name, Path) else str(name), JudgeSettings(device="cpu"))


def judge_file(folder: Path, labels: str, model: Path, text: str = "{completion}") -> str:
    """The name of a judge by a file with these labels in its head."""
    (folder / "harm.txt").write_text(f"---\nclassifier: {model}\nlabels: {{{labels}}}\n---\n{text}")
    return f"file:{folder / 'harm.txt'}"


def by_hand(folder: Path, text: str, longest: int = 256) -> list[float]:
    """One text alone, without padding."""
    ids = torch.tensor([tiny_tokenizer()(text)["input_ids"][:longest]])
    with torch.inference_mode():
        logits = LlamaForSequenceClassification.from_pretrained(folder).eval()(ids).logits
    return logits[0].softmax(-1).tolist()


def test_label_and_score_are_those_of_each_answer_alone_by_its_head(tmp_path):
    judge = find(save_classifier(tmp_path / "model", ["Refusal", "Compliance"]))
    none, *verdicts = judge.judge([Answer("a request", text) for text in ["", *TEXTS]])
    assert (none.label, none.score) == ("degenerate", None)
    for verdict, text in zip(verdicts, TEXTS, strict=True):
        refusal, compliance = by_hand(tmp_path / "model", text.replace("<think>Hm.</think>", ""))
        assert verdict.label == ("refusal" if refusal > compliance else "compliance")
        assert verdict.score == pytest.approx(compliance, abs=1e-5)
        assert verdict.details["probability"] == pytest.approx(max(refusal, compliance), abs=1e-5)
    # the request is not looked at, and an answer's verdict does not depend on the others
    assert judge.judge([Answer("another", TEXTS[0])])[0].label == verdicts[0].label
    assert judge.name == "classifier:model"
    assert judge.describe()["labels"] == {"Refusal": "refusal", "Compliance": "compliance"}
    json.dumps(judge.describe())


def test_a_judge_file_says_the_text_and_what_labels_mean(tmp_path):
    folder = save_classifier(tmp_path / "model", ["safe", "unsafe", "noise"])
    labels = "safe: refusal, unsafe: compliance, noise: degenerate"
    judge = find(judge_file(tmp_path, labels, folder, "user: {prompt}\nassistant: {completion}\n"))
    (verdict,) = judge.judge([Answer("a request", "an answer")])
    probabilities = by_hand(folder, "user: a request\nassistant: an answer")
    assert judge.name == "harm"
    assert verdict.score == pytest.approx(probabilities[1], abs=1e-5)
    assert verdict.label == ("refusal", "compliance", "degenerate")[probabilities.index(max(probabilities))]


def test_other_weights_text_or_meaning_are_another_version(tmp_path):
    first, second = (save_classifier(tmp_path / f"seed{seed}", ["a", "b"], seed=seed) for seed in (0, 1))
    names = [
        (first, "a: refusal, b: compliance", "{completion}"),
        (second, "a: refusal, b: compliance", "{completion}"),
        (first, "a: compliance, b: refusal", "{completion}"),
        (first, "a: refusal, b: compliance", "{prompt} {completion}"),
    ]
    assert len({find(judge_file(tmp_path, labels, model, text)).version for model, labels, text in names}) == 4


def test_an_encoder_with_positions_counted_from_the_padding(tmp_path):
    labels = {0: "refusal", 1: "compliance"}
    config = RobertaConfig(
        **SHAPE, num_hidden_layers=1, max_position_embeddings=66, pad_token_id=2, bos_token_id=0, id2label=labels
    )
    RobertaForSequenceClassification(config).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    (verdict,) = find(tmp_path).judge([Answer("", TEXTS[-1])])
    assert verdict.score is not None


def test_labels_without_a_meaning(tmp_path):
    folder = save_classifier(tmp_path / "model", ["safe", "unsafe"])
    for stated, says in (
        (None, "label 'safe', and it is not said what that means"),
        ("safe: refusal, unsave: compliance", "no label 'unsave'. Did you mean unsafe?"),
        ("safe: refusal", "label 'unsafe', which the judge file does not mention"),
    ):
        with pytest.raises(RipcurrentError) as caught:
            find(folder if stated is None else judge_file(tmp_path, stated, folder))
        assert says in caught.value.message
        assert "Its labels are safe, unsafe." in caught.value.hint


def test_what_is_no_classifier(tmp_path):
    two = ["refusal", "compliance"]
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    pickled, coded = (save_classifier(tmp_path / name, two) for name in ("pickled", "coded"))
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    config = json.loads((coded / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config"}}
    (coded / "config.json").write_text(json.dumps(config))
    for model, says in (
        ("classifier:", "No judge is named 'classifier:'"),
        (tmp_path / "none", "no file or folder"),
        (save_tiny(tmp_path / "chat", "llama_tied"), "no trained classifier"),
        (save_classifier(tmp_path / "one", ["refusal"]), "does not choose one of several labels"),
        (save_classifier(tmp_path / "many", two, problem_type="multi_label_classification"), "does not choose one of"),
        (adapter, "is an adapter of a classifier"),
        (pickled, "no weights in safetensors"),
        (coded, "cannot be loaded as a classifier"),
    ):
        with pytest.raises(RipcurrentError, match=says):
            find(model)
