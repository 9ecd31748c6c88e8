"""What a scan promises of its rows: one to one, in order, a reason for each without a score, nothing else mattering."""

import math
import os
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from ripcurrent.errors import ExitCode, RipcurrentError
from ripcurrent.runs import read_manifest
from ripcurrent.scan import scan
from ripcurrent.scan._prepared_anchors import DirectionCache
from ripcurrent.select import select
from ripcurrent.statistics import spearman
from tests.models.tiny import CHAT_TEMPLATE, save_tiny, tiny_tokenizer
from tests.scan_fixtures import GRADIENT_COSINES, REPRESENTATION_COSINES, good_rows, table_of, write_jsonl

POISON = "~"
"""A character whose embedding is NaN in the ``fragile`` model."""
STRICT_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'tool' %}{{ raise_exception('no tools') }}{% endif %}"
    "{% endfor %}" + CHAT_TEMPLATE
)
COSINES = (*GRADIENT_COSINES, *REPRESENTATION_COSINES)
SCORES = (*COSINES, "gradient_norm", "predicted_harmful_loss_change", "loss", "loss_first_10")


def talk(*turns: tuple[str, Any], **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in turns], **fields}


def question(number: int, answer: Any = None) -> dict[str, Any]:
    return talk(("user", f"Question {number}?"), ("assistant", f"Answer {number}." if answer is None else answer))


MIXED: list[tuple[Any, str]] = [
    (question(0), "ok"),
    (question(1, ""), "no_response"),
    (question(2, "  \n"), "no_response"),
    (talk(("user", "No answer at all?")), "no_response"),
    (talk(("system", "Be brief."), *[(m["role"], m["content"]) for m in question(4)["messages"]]), "ok"),
    ({"messages": None}, "invalid_conversation"),
    ({"messages": []}, "invalid_conversation"),
    ({"messages": [{"role": "user", "content": True}, {"role": "assistant", "content": "x"}]}, "invalid_conversation"),
    ({"messages": "text"}, "invalid_conversation"),
    ("a bare string", "invalid_conversation"),
    (None, "invalid_conversation"),
    (talk(("user", "a"), ("tool", "42"), ("assistant", "b")), "template_mismatch"),
    (talk(("user", "long question " * 60), ("assistant", "late answer")), "too_long"),
    (question(13, f"not{POISON}finite"), "not_finite"),
    (talk(("user", f"also {POISON} in the prompt"), ("assistant", "fine words")), "not_finite"),
    (
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 0}]},
        "no_loss_tokens",
    ),
    (question(16, "a very long answer " * 60), "ok"),
    (question(17, "I'm sorry, but I can't help with that.") | {"tools": ["times"]}, "ok"),
    (question(18, "- one\n- two\n- three"), "ok"),
    (talk(("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")), "ok"),
]


@pytest.fixture(scope="module")
def fragile(tmp_path_factory, shared_cache) -> Path:
    """A model that turns one character into NaN, and whose template refuses tool turns."""
    folder = save_tiny(tmp_path_factory.mktemp("fragile"), "llama_untied")
    tokenizer = tiny_tokenizer(chat_template=STRICT_TEMPLATE)
    tokenizer.save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    (poison,) = tokenizer(POISON, add_special_tokens=False)["input_ids"]
    weights["model.embed_tokens.weight"][poison] = torch.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def cut(exact, fragile) -> dict[str, Any]:
    """Options of its scans, which cut rows short."""
    return {**exact, "model": str(fragile), "max_tokens": 200}


def scores(records: list[Any], out: Path, options: dict[str, Any]) -> pa.Table:
    out.mkdir(parents=True, exist_ok=True)
    return table_of(scan(write_jsonl(out / "rows.jsonl", records), out / "run", **options))


def differences(one: pa.Table, other: pa.Table, names: tuple[str, ...] = COSINES) -> float:
    """Largest difference over columns; NaN at the same places."""
    largest = 0.0
    for name in names:
        first, second = one[name].to_numpy(), other[name].to_numpy()
        np.testing.assert_array_equal(np.isnan(first), np.isnan(second))
        largest = max(largest, float(np.nanmax(np.abs(first - second))))
    return largest


@pytest.fixture(scope="module")
def mixed(tmp_path_factory, cut) -> tuple[Path, pa.Table]:
    folder = tmp_path_factory.mktemp("mixed")
    return folder / "run", scores([record for record, _ in MIXED], folder, cut)


def test_one_row_out_for_each_row_in_with_its_status_in_order(mixed):
    folder, table = mixed
    rows = table.to_pylist()
    assert [(row["row"], row["status"]) for row in rows] == [(n, status) for n, (_, status) in enumerate(MIXED)]
    assert len({row["id"] for row in rows}) > len(MIXED) - 3
    for row in rows:
        # null is for what the options leave out
        assert {math.isnan(row[name]) for name in SCORES} == {row["status"] != "ok"}, row["row"]
    assert [row["row"] for row in rows if row["truncated"]] == [16]
    assert rows[16]["prompt_tokens"] + rows[16]["response_tokens"] == 200
    assert [row["row"] for row in rows if row["has_refusal"]] == [17]
    assert [row["row"] for row in rows if row["is_bullet"]] == [18]
    unread, refused = read_manifest(folder)["row_notes"]
    assert unread.startswith(f"1 of {len(MIXED)} rows have reasoning of their own, or tools")
    assert refused == f"template_mismatch, 1 of {len(MIXED)} rows, first row 11: no tools."


def test_bad_neighbours_leave_a_rows_scores_alone(mixed, tmp_path, cut):
    """NaN activations of one row of a batch must not reach the others."""
    kept = [number for number, (_, status) in enumerate(MIXED) if status == "ok"]
    alone = scores([MIXED[number][0] for number in kept], tmp_path, cut)
    assert differences(mixed[1].take(kept), alone) < 2e-5
    assert mixed[1].take(kept)["id"].to_pylist() == alone["id"].to_pylist()


def test_refusals_are_dropped_when_asked_and_only_they(mixed, tmp_path, cut):
    dropped = scores([record for record, _ in MIXED], tmp_path, {**cut, "drop_refusals": True})
    statuses = mixed[1]["status"].to_pylist()
    statuses[17] = "dropped_refusal"
    assert dropped["status"].to_pylist() == statuses
    assert all(math.isnan(dropped[name][17].as_py()) for name in SCORES)
    kept = [number for number, status in enumerate(statuses) if status == "ok"]
    assert differences(mixed[1].take(kept), dropped.take(kept)) < 2e-5


def test_a_token_that_the_model_does_not_embed_is_the_rows_reason(tmp_path, exact):
    model = save_tiny(tmp_path / "model", "llama_tied")
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    tokenizer.save_pretrained(model)
    rows = good_rows(6)
    rows[2]["response"] += " <image>"
    table = scores(rows, tmp_path, {**exact, "model": str(model)})
    assert table["status"].to_pylist() == ["ok", "ok", "token_not_embedded", "ok", "ok", "ok"]
    assert math.isnan(table["gradient_harmful"][2].as_py())


@pytest.mark.skipif(sys.platform != "linux", reason="other systems' file names are Unicode")
def test_a_dataset_behind_a_link_keeps_its_name_also_one_that_is_no_utf_8(tmp_path, rows_file, exact):
    link = Path(os.fsdecode(os.fsencode(tmp_path) + b"/donn\xe9es.jsonl"))
    link.symlink_to(rows_file.rename(tmp_path / "0123abcd"))
    done = scan(link, tmp_path / "out", limit=6, **exact)
    assert Path(read_manifest(done.folder)["dataset"]["path"]) == link
    assert len(select(done.folder, top=2, seed=(0,))[0].selection.indices) == 2


@pytest.fixture(scope="module")
def usual(tmp_path_factory, exact) -> pa.Table:
    """Scores of 23 good rows."""
    return scores(good_rows(23), tmp_path_factory.mktemp("usual"), exact)


@pytest.mark.parametrize(
    "options", [{"token_budget": 16}, {"token_budget": 4000}, {"shard_rows": 1}, {"shard_rows": 7}], ids=str
)
def test_how_rows_are_batched_and_sharded_changes_no_score(usual, tmp_path, exact, options):
    other = scores(good_rows(23), tmp_path, {**exact, **options})
    assert differences(usual, other) < 2e-5
    for name in SCORES[len(COSINES) :]:
        np.testing.assert_allclose(usual[name].to_numpy(), other[name].to_numpy(), rtol=1e-4, atol=1e-6)
    same = [name for name in usual.column_names if name not in SCORES]
    assert usual.select(same).equals(other.select(same))


def test_the_rows_order_and_number_change_no_score(usual, tmp_path, exact):
    rows, order = good_rows(23), list(range(23))
    random.Random(4).shuffle(order)
    shuffled = scores([rows[n] for n in order], tmp_path, {**exact, "shard_rows": 5})
    five = scores([rows[n] for n in order], tmp_path / "five", {**exact, "limit": 5})
    for found in (shuffled, five):
        same = usual.take(order[: len(found)])
        assert same["id"].to_pylist() == found["id"].to_pylist()
        assert differences(same, found) < 2e-5
    assert len(five) == 5


def test_in_bfloat16_batching_keeps_the_ranking(tmp_path, exact):
    one, other = (
        scores(good_rows(40), tmp_path / str(budget), {**exact, "dtype": "bfloat16", "token_budget": budget})
        for budget in (64, 2000)
    )
    for name in ("gradient_bidirectional", "representation_bidirectional"):
        assert spearman(one[name].to_numpy(), other[name].to_numpy()) > 0.99


@pytest.mark.parametrize("memory", [None, "64GB"])
def test_no_usable_row_is_not_a_success_but_leaves_the_reasons(tmp_path, exact, memory):
    bad = [{"prompt": "a", "response": ""}, {"prompt": "b", "response": None}, {"prompt": "c", "response": "   "}]
    with pytest.raises(RipcurrentError, match=r"No row of .*rows\.jsonl could be scored \(3 no_response\)") as caught:
        scores(bad, tmp_path, {**exact, "memory": memory})
    assert caught.value.code is ExitCode.NOT_MEASURED
    assert pq.read_table(tmp_path / "run" / "scores.parquet")["status"].to_pylist() == ["no_response"] * 3
    assert read_manifest(tmp_path / "run")["status_counts"] == {"no_response": 3}


def test_directions_that_do_not_fit_are_one_error(tmp_path, exact, monkeypatch):
    def runs_out(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 512 GiB.\nMore of it")

    monkeypatch.setattr(DirectionCache, "filled", runs_out)
    with pytest.raises(RipcurrentError, match=r"The anchors' directions do not fit .* allocate 512 GiB") as caught:
        scores(good_rows(6), tmp_path, exact)
    assert caught.value.code == 2
    assert "--memory" in caught.value.hint
