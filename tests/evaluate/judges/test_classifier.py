"""Sequence-classification models as judges: their labels' meaning is stated, never guessed."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForSequenceClassification, RobertaConfig, RobertaForSequenceClassification

from ripcurrent.errors import RipcurrentError
from ripcurrent.evaluate import Answer, JudgeSettings, find_judge
from tests.models.tiny import VOCAB_SIZE, save_tiny, tiny_tokenizer

CPU = JudgeSettings(device="cpu")
STATED = "labels: {LABEL_0: refusal, LABEL_1: compliance, LABEL_2: degenerate}"
TEXTS = [
    "Bake it for an hour.",
    "I can't help with that.",
    "",
    "<think>Hm.</think>Ask a baker about " + "flour and " * 30 + "salt.",
    "Yes, of course.",
]


def save_classifier(folder: Path, labels: list[str], *, seed: int = 0, **more: object) -> Path:
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=None,
        num_labels=len(labels),
        id2label=dict(enumerate(labels)),
        label2id={label: number for number, label in enumerate(labels)},
        **more,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        LlamaForSequenceClassification(config).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def judge_file(folder: Path, *head: str, text: str = "{completion}") -> str:
    """The name of a judge by a file with these lines in its head."""
    folder.mkdir(exist_ok=True)
    (folder / "harm.txt").write_text("\n".join(("---", *head, "---", text)))
    return f"file:{folder / 'harm.txt'}"


def by_hand(folder: Path, text: str, longest: int = 256) -> list[float]:
    """One text alone, without padding."""
    ids = torch.tensor([tiny_tokenizer()(text)["input_ids"][:longest]])
    with torch.inference_mode():
        logits = LlamaForSequenceClassification.from_pretrained(folder).eval()(ids).logits
    return logits[0].softmax(-1).tolist()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_classifier(tmp_path_factory.mktemp("classifier"), ["Refusal", "Compliance"])


def test_label_and_score_are_those_of_each_answer_alone(model: Path) -> None:
    judge = find_judge(f"classifier:{model}", CPU)
    verdicts = judge.judge([Answer("a request", text) for text in TEXTS])
    assert judge.name == f"classifier:{model.name}"
    assert verdicts[2].label == "degenerate"
    assert verdicts[2].score is None
    for verdict, text in zip(verdicts, TEXTS, strict=True):
        if verdict.label == "degenerate":
            continue
        refusal, compliance = by_hand(model, text.replace("<think>Hm.</think>", ""))
        assert verdict.label == ("refusal" if refusal > compliance else "compliance")
        assert verdict.score == pytest.approx(compliance, abs=1e-5)
        assert verdict.details["probability"] == pytest.approx(max(refusal, compliance), abs=1e-5)
        assert verdict.score is not None
    # the request is not looked at, and an answer's verdict does not depend on the others
    assert judge.judge([Answer("another", TEXTS[0])])[0].label == verdicts[0].label
    described = judge.describe()
    assert described["labels"] == {"Refusal": "refusal", "Compliance": "compliance"}
    json.dumps(described)


def test_of_long_answers_the_head_is_read(model: Path) -> None:
    text = " ".join(f"word{n}" for n in range(400))
    (verdict,) = find_judge(f"classifier:{model}", CPU).judge([Answer("", text)])
    assert verdict.score == pytest.approx(by_hand(model, text)[1], abs=1e-5)


def test_a_judge_file_says_the_text_and_what_labels_mean(tmp_path: Path) -> None:
    folder = save_classifier(tmp_path / "model", ["safe", "unsafe", "noise"])
    head = (f"classifier: {folder}", "labels: {safe: refusal, unsafe: compliance, noise: degenerate}")
    judge = find_judge(judge_file(tmp_path, *head, text="user: {prompt}\nassistant: {completion}\n"), CPU)
    (verdict,) = judge.judge([Answer("a request", "an answer")])
    probabilities = by_hand(folder, "user: a request\nassistant: an answer")
    assert judge.name == "harm"
    assert verdict.score == pytest.approx(probabilities[1], abs=1e-5)
    assert verdict.label == ("refusal", "compliance", "degenerate")[probabilities.index(max(probabilities))]


def test_other_weights_text_or_meaning_are_another_version(tmp_path: Path) -> None:
    versions = set()
    for seed, labels, text in [
        (0, "a: refusal, b: compliance", "{completion}"),
        (1, "a: refusal, b: compliance", "{completion}"),
        (0, "a: compliance, b: refusal", "{completion}"),
        (0, "a: refusal, b: compliance", "{prompt} {completion}"),
    ]:
        folder = save_classifier(tmp_path / f"seed{seed}", ["a", "b"], seed=seed)
        name = judge_file(tmp_path, f"classifier: {folder}", f"labels: {{{labels}}}", text=text)
        versions.add(find_judge(name, CPU).version)
    assert len(versions) == 4


def test_an_encoder_with_positions_counted_from_the_padding(tmp_path: Path) -> None:
    config = RobertaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        max_position_embeddings=66,
        pad_token_id=2,
        id2label={0: "refusal", 1: "compliance"},
    )
    RobertaForSequenceClassification(config).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    judge = find_judge(f"classifier:{tmp_path}", CPU)
    (verdict,) = judge.judge([Answer("", " ".join(f"word{n}" for n in range(200)))])
    assert verdict.score is not None


@pytest.mark.parametrize(
    ("labels", "stated", "says"),
    [
        (["safe", "unsafe"], None, "label 'safe', and it is not said what that means"),
        (["LABEL_0", "LABEL_1"], None, "label 'LABEL_0'"),
        (["safe", "unsafe"], "safe: refusal, unsave: compliance", "no label 'unsave'. Did you mean unsafe?"),
        (["safe", "unsafe"], "safe: refusal", "label 'unsafe', which the judge file does not mention"),
    ],
)
def test_labels_without_a_meaning(tmp_path: Path, labels: list[str], stated: str | None, says: str) -> None:
    folder = save_classifier(tmp_path / "model", labels)
    name = f"classifier:{folder}"
    if stated is not None:
        name = judge_file(tmp_path, f"classifier: {folder}", f"labels: {{{stated}}}")
    with pytest.raises(RipcurrentError) as caught:
        find_judge(name, CPU)
    assert says in caught.value.message
    assert ", ".join(labels) in caught.value.hint


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A chat model, and a LoRA that makes a classifier of three labels of it; its matrices and head are random."""
    folder = tmp_path_factory.mktemp("tuned")
    chat = save_tiny(folder / "chat", "llama_untied")
    base = LlamaForSequenceClassification.from_pretrained(chat, num_labels=3)
    targets = ["q_proj", "v_proj", "down_proj"]
    wrapped = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules=targets, task_type="SEQ_CLS"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        for name, value in wrapped.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                torch.nn.init.normal_(value.data, std=0.3)
    wrapped.save_pretrained(folder / "adapter")
    merged = wrapped.merge_and_unload()
    merged.save_pretrained(folder / "merged")
    tiny_tokenizer().save_pretrained(folder / "merged")
    return chat, folder


def test_an_adapter_judges_as_the_model_that_it_is_merged_into(tuned: tuple[Path, Path], tmp_path: Path) -> None:
    chat, folder = tuned
    judge = find_judge(judge_file(tmp_path, f"classifier: {chat}", f"adapter: {folder / 'adapter'}", STATED), CPU)
    merged = find_judge(judge_file(tmp_path, f"classifier: {folder / 'merged'}", STATED), CPU)
    answers = [Answer("a request", text) for text in TEXTS]
    for one, other in zip(judge.judge(answers), merged.judge(answers), strict=True):
        assert one.label == other.label
        assert one.score == pytest.approx(other.score, abs=1e-5)
    assert judge.version.startswith("adapter ")
    described = judge.describe()
    assert (described["model"], described["adapter"]) == (str(chat), str(folder / "adapter"))
    # another adapter of the same base is another judge
    copied = tmp_path / "adapter"
    shutil.copytree(folder / "adapter", copied)
    weights = load_file(copied / "adapter_model.safetensors")
    save_file({key: -value for key, value in weights.items()}, copied / "adapter_model.safetensors", {"format": "pt"})
    other = find_judge(judge_file(tmp_path, f"classifier: {chat}", f"adapter: {copied}", STATED), CPU)
    assert other.version != judge.version


def test_an_adapter_that_makes_no_classifier_of_the_model(tuned: tuple[Path, Path], tmp_path: Path) -> None:
    def fails(says: str, *head: str) -> None:
        with pytest.raises(RipcurrentError, match=says):
            find_judge(judge_file(tmp_path, *head), CPU)

    chat, folder = tuned
    headless = tmp_path / "headless"
    shutil.copytree(folder / "adapter", headless)
    weights = load_file(headless / "adapter_model.safetensors")
    kept = {key: value for key, value in weights.items() if "lora_" in key}
    save_file(kept, headless / "adapter_model.safetensors", {"format": "pt"})
    of_headless = (f"classifier: {chat}", f"adapter: {headless}", STATED)
    fails(r"is no trained classifier: it has no weights for score\.weight", *of_headless)
    other = save_tiny(tmp_path / "other", "gpt2")
    fails("does not fit", f"classifier: {other}", f"adapter: {folder / 'adapter'}", STATED)
    fails("adapter needs its base model as classifier", f"adapter: {folder / 'adapter'}")
    (headless / "adapter_model.safetensors").write_bytes(b"cut")
    fails("cannot be read", *of_headless)


def test_what_is_no_classifier(tmp_path: Path) -> None:
    def fails(says: str, model: Path | str, hint: str = "") -> None:
        with pytest.raises(RipcurrentError, match=says) as caught:
            find_judge(f"classifier:{model}", CPU)
        assert hint in caught.value.hint

    fails("No judge is named 'classifier:'", "")
    fails("no file or folder", tmp_path / "none")
    fails("no trained classifier", save_tiny(tmp_path / "chat", "llama_tied"))
    fails("does not choose one of several labels", save_classifier(tmp_path / "one", ["refusal"]))
    several = {"problem_type": "multi_label_classification"}
    fails("does not choose one of", save_classifier(tmp_path / "several", ["refusal", "compliance"], **several))
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    fails("is an adapter of a classifier", adapter, hint=f"adapter: {adapter}")
    pickled = save_classifier(tmp_path / "pickled", ["refusal", "compliance"])
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    fails("no weights in safetensors", pickled)
    coded = save_classifier(tmp_path / "coded", ["refusal", "compliance"])
    config = json.loads((coded / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config"}}
    (coded / "config.json").write_text(json.dumps(config))
    fails("cannot be loaded as a classifier", coded)
