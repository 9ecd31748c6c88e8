"""Each trainer's policy gives the tokens and labels that the trainer gave, line by line of ``trainers/*.jsonl``."""

import json
from pathlib import Path

import pytest

from ripcurrent.data import _formats
from ripcurrent.data._render import TemplateMismatch
from ripcurrent.data._trained_tokens import trained_tokens
from ripcurrent.errors import RipcurrentError
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


def use(line, folder):
    if "config" in line:
        (folder / "train.yaml").write_text(json.dumps(line["config"]))
        trained_tokens(str(folder / "train.yaml"))
    type(trained_tokens(line["trainer"]))(**line["options"]).label(line["row"], build(line["tokenizer"]), 64)


def test_files_that_a_trainer_does_not_train_so_are_refused(tmp_path):
    head, *lines = map(json.loads, (Path(__file__).parent / "refused_files.jsonl").read_text("utf-8").splitlines())
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dataset_info.json").write_text(json.dumps(head["dataset_info"]))
    for line in lines:
        with pytest.raises(RipcurrentError) as caught:
            use(line, tmp_path)
        assert line["said"] in caught.value.message, line
        assert line.get("hint", "") in caught.value.hint, line
