"""Judges that are sequence-classification models: fine-tuned to say of an answer what it is."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from ripcurrent import models
from ripcurrent.errors import ExitCode, RipcurrentError
from ripcurrent.evaluate._batches import in_batches
from ripcurrent.evaluate.judges._rubric import Rubric
from ripcurrent.evaluate.judges._types import SHARED_VERSION, Answer, Facts, Label, Opinion, Verdict, judge_texts
from ripcurrent.options import did_you_mean

PLAIN_LABELS: Mapping[str, Label] = {
    **dict.fromkeys(("refusal", "refused", "reject", "rejection"), "refusal"),
    **dict.fromkeys(("compliance", "complied", "comply"), "compliance"),
}
"""What a model's label means where no judge file says so: only names that leave no doubt. ``safe`` and ``harmful`` are
not among them, as an answer can be safe and no refusal."""
BATCH = 16
LONGEST = 4096  # tokens of an answer that are read at most


@dataclass(frozen=True, slots=True)
class ClassifierJudge:
    """A judge whose label is the likeliest class.

    The score is the summed probability (softmax over the logits) of the classes that mean compliance.
    """

    name: str
    version: str
    """``MODEL HASH``: a hash of weights, tokenizer, longest text, labels and text."""
    template: Rubric
    labels: tuple[Label, ...]
    facts: Facts
    model: Any
    tokenizer: Any
    on_judged: Callable[[int], None]
    scale: tuple[float, float] = (0.0, 1.0)

    def describe(self) -> Facts:
        return self.facts

    def judge(self, answers: Sequence[Answer]) -> list[Verdict]:
        return judge_texts(self, answers, self._classify, self.on_judged)

    def _classify(self, answers: Sequence[Answer]) -> list[Opinion]:
        texts = [self.template.fill(answer.prompt, answer.completion) for answer in answers]
        # by length, so that little of a batch is padding
        places = sorted(range(len(texts)), key=lambda at: len(texts[at]))
        opinions: dict[int, Opinion] = {}
        for batch, computed in in_batches(
            places, BATCH, lambda batch: self._probabilities([texts[place] for place in batch]), self._does_not_fit
        ):
            for place, shares in zip(batch, computed, strict=True):
                best = max(range(len(shares)), key=shares.__getitem__)
                score = sum(p for p, one in zip(shares, self.labels, strict=True) if one == "compliance")
                opinions[place] = Opinion(self.labels[best], None, score, {"probability": shares[best]})
            self.on_judged(len(batch))
        return [opinions[place] for place in range(len(answers))]

    def _probabilities(self, texts: list[str]) -> list[list[float]]:
        encoded = self.tokenizer(texts, return_tensors="pt", padding=True, truncation=True)
        with torch.inference_mode():
            logits = self.model(**encoded.to(self.model.device)).logits.float()
        probabilities: list[list[float]] = logits.softmax(dim=-1).tolist()
        return probabilities

    def _does_not_fit(self, place: int, said: str) -> RipcurrentError:
        return RipcurrentError(
            f"{self.name} cannot judge answer {place}: even alone it does not fit into the memory of "
            f"{self.model.device} ({said}).",
            "Name a smaller classifier as judge: the answers are kept, and none is asked for again.",
            code=ExitCode.NOT_MEASURED,
        )


def load_classifier(template: Rubric, device: str | None, on_judged: Callable[[int], None]) -> ClassifierJudge:
    """Load the model that ``template.classifier`` names. Safetensors only; no code of its repository is run."""
    name = str(template.classifier)
    place = Path(name).expanduser()
    if (place / models.ADAPTER_CONFIG).is_file() and not (place / "config.json").is_file():
        raise RipcurrentError(
            f"{name} is an adapter of a classifier, not a whole model.",
            "Merge it into its base (PEFT's merge_and_unload), save that with its tokenizer, and name the new folder.",
        )
    source = models.find_model(name)
    model, tokenizer = _load(source.path, name)
    config = model.config
    own = [str(config.id2label[number]) for number in range(config.num_labels)]
    if len(own) < 2 or config.problem_type in ("regression", "multi_label_classification"):
        raise RipcurrentError(
            f"{name} does not choose one of several labels.", "Name a model that gives every text one label of several."
        )
    meaning = _meanings(own, template.labels, name)
    files = [models.file_sha256(file) for file in models.weight_files(source.path)]
    weights = models.combine_sha256([models.config_sha256(source.path / "config.json"), *files])
    read = (models.tokenizer_sha256(tokenizer), tokenizer.model_max_length, template.sha256)
    digest = hashlib.sha256("\n".join(map(str, (weights, *read, meaning, SHARED_VERSION))).encode()).hexdigest()
    facts: Facts = {"model": name, "revision": source.revision, "fingerprint": weights, "labels": {**meaning}}
    return ClassifierJudge(
        name=template.name,
        version=f"{name.rstrip('/').rpartition('/')[2]} {digest[:8]}",
        template=template,
        labels=tuple(meaning[label] for label in own),
        facts={"kind": "classifier", **facts, "text_sha256": template.sha256},
        model=model.to(models.choose_device(device)).eval(),
        tokenizer=tokenizer,
        on_judged=on_judged,
    )


def _load(folder: Path, name: str) -> tuple[Any, Any]:
    here: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    with models.quiet_libraries():
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, **here)
            model, loading = AutoModelForSequenceClassification.from_pretrained(
                folder, dtype=torch.float32, use_safetensors=True, output_loading_info=True, **here
            )
        except (OSError, ValueError, RuntimeError, KeyError, TypeError, ImportError, SafetensorError) as error:
            raise RipcurrentError(
                f"{name} cannot be loaded as a classifier: {models.first_line(error)}.",
                "A judge is a sequence-classification model of an architecture that transformers itself has.",
            ) from error
    if lacking := sorted(loading["missing_keys"]):
        raise RipcurrentError(
            f"{name} is no trained classifier: it has no weights for {lacking[0]}.",
            "Name a model that was trained for sequence classification; nothing is filled with random weights here.",
        )
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    config = model.config
    if config.pad_token_id is None:
        config.pad_token_id = tokenizer.pad_token_id
    positions = getattr(config, "max_position_embeddings", None) or LONGEST
    # RoBERTa and its like count positions from the padding token on
    offset = (config.pad_token_id or 0) + 1 if config.model_type in ("roberta", "xlm-roberta", "camembert") else 0
    # of longer texts the end is left out
    tokenizer.truncation_side = "right"
    tokenizer.model_max_length = min(LONGEST, int(tokenizer.model_max_length), positions - offset)
    return model, tokenizer


def _meanings(own: Sequence[str], stated: Mapping[str, Label] | None, name: str) -> dict[str, Label]:
    """What each of the model's labels means: as stated in a judge file, else by `PLAIN_LABELS`."""
    hint = f"Its labels are {', '.join(own)}. Say what each means under labels in a judge file (docs/evaluate.md)."
    for label in stated or ():
        if label not in own:
            raise RipcurrentError(f"{name} has no label {label!r}.{did_you_mean(label, tuple(own))}", hint)
    plain = {label: PLAIN_LABELS[key] for label in own if (key := label.strip().lower()) in PLAIN_LABELS}
    known = plain if stated is None else stated
    for label in own:
        if label not in known:
            what = "and it is not said what that means" if stated is None else "which the judge file does not mention"
            raise RipcurrentError(f"{name} has the label {label!r}, {what}.", hint)
    return {label: known[label] for label in own}
