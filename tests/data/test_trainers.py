"""Each trainer's policy gives the tokens and labels that the trainer gave, line by line of ``trainers/*.jsonl``."""

import json
from pathlib import Path

import pytest

from ripcurrent.data import _formats
from ripcurrent.data._render import TemplateMismatch
from ripcurrent.data._trained_tokens import trained_tokens
from tests.data.chat_tokenizers import build

FILES = sorted((Path(__file__).parent / "trainers").glob("*.jsonl"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_labels_are_the_trainers_own(file, embedded_tokenizer):
    head, *lines = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    for line in lines:
        policy = type(trained_tokens(head["trainer"]))(**line["options"])
        tokenizer = embedded_tokenizer if line["tokenizer"] == "smollm2" else build(line["tokenizer"])
        try:
            ids, weights = policy.label(line["row"], tokenizer, line["max_tokens"])
            own = line.get("weights", [float(label != -100) for label in line.get("labels", [])])
            given = (ids, weights) == (line.get("input_ids"), own)
        except (_formats.Unusable, TemplateMismatch) as refusal:
            given = getattr(refusal, "reason", "template_mismatch") == line.get("refused")
        assert given, line["case"]
