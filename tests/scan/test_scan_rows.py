"""What a scan promises of its rows: one to one, in order, a reason for each without a score, nothing else mattering."""

import json
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
from tests.models.tiny import CHAT_TEMPLATE, save_tiny, tiny_tokenizer
from tests.scan_fixtures import table_of
from tests.tiny_scan import ANSWERS, EXACT, GRADIENT_COSINES, REPRESENTATION_COSINES, good_rows, write_jsonl

POISON = "~"
"""A character whose embedding is NaN in the ``fragile`` model."""
STRICT_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'tool' %}{{ raise_exception('no tools') }}{% endif %}"
    "{% endfor %}" + CHAT_TEMPLATE
)
SCORES = (
    *GRADIENT_COSINES,
    *REPRESENTATION_COSINES,
    *("gradient_norm", "predicted_harmful_loss_change", "loss", "loss_first_10"),
)


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
    (question(17, "I'm sorry, but I can't help with that.") | {"tools": [{"name": "times"}]}, "ok"),
    (question(18, "- one\n- two\n- three"), "ok"),
    (talk(("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")), "ok"),
]


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> Path:
    """A model that turns one character into NaN, and whose template refuses tool turns."""
    folder = save_tiny(tmp_path_factory.mktemp("fragile"), "llama_untied")
    tokenizer = tiny_tokenizer(chat_template=STRICT_TEMPLATE)
    tokenizer.save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    (poison,) = tokenizer(POISON, add_special_tokens=False)["input_ids"]
    weights["model.embed_tokens.weight"][poison] = torch.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def scores(dataset: Path, out: Path, model: Path, anchors: Path, **options: Any) -> pa.Table:
    return table_of(scan(dataset, out, model=str(model), anchors=str(anchors), **{**EXACT, **options}))


def differences(one: pa.Table, other: pa.Table, names: tuple[str, ...]) -> float:
    """Largest difference over columns; NaN at the same places."""
    largest = 0.0
    for name in names:
        first, second = one[name].to_numpy(), other[name].to_numpy()
        np.testing.assert_array_equal(np.isnan(first), np.isnan(second))
        largest = max(largest, float(np.nanmax(np.abs(first - second))))
    return largest


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory, fragile: Path, anchors_file: Path) -> tuple[Path, pa.Table]:
    folder = tmp_path_factory.mktemp("mixed")
    dataset = write_jsonl(folder / "mixed.jsonl", [record for record, _ in MIXED])
    return dataset, scores(dataset, folder / "out", fragile, anchors_file, max_tokens=200)


def test_one_row_out_for_each_row_in_with_its_status_in_order(mixed: tuple[Path, pa.Table]) -> None:
    _, table = mixed
    assert table["row"].to_pylist() == list(range(len(MIXED)))
    assert table["status"].to_pylist() == [status for _, status in MIXED]
    assert len(set(table["id"].to_pylist())) > len(MIXED) - 3


def test_a_row_with_a_reason_is_nan_and_a_scored_row_is_not(mixed: tuple[Path, pa.Table]) -> None:
    for row in mixed[1].to_pylist():
        for name in SCORES:
            assert row[name] is not None
            assert math.isnan(row[name]) == (row["status"] != "ok"), (row["row"], name)


def test_a_row_cut_at_its_head_is_scored_and_says_so(mixed: tuple[Path, pa.Table]) -> None:
    rows = mixed[1].to_pylist()
    assert [row["row"] for row in rows if row["truncated"]] == [16]
    assert rows[16]["prompt_tokens"] + rows[16]["response_tokens"] == 200


def test_what_is_not_read_and_what_the_template_refuses_is_told(mixed: tuple[Path, pa.Table]) -> None:
    unread, refused = read_manifest(mixed[0].parent / "out")["row_notes"]
    assert unread.startswith(f"1 of {len(MIXED)} rows have tool definitions")
    assert refused == f"template_mismatch, 1 of {len(MIXED)} rows, first row 11: no tools."


def test_bad_neighbours_leave_a_rows_scores_alone(
    mixed: tuple[Path, pa.Table], tmp_path: Path, fragile: Path, anchors_file: Path
) -> None:
    """NaN activations of one row of a batch must not reach the others."""
    _dataset, table = mixed
    kept = [number for number, (_, status) in enumerate(MIXED) if status == "ok"]
    good = write_jsonl(tmp_path / "good.jsonl", [MIXED[number][0] for number in kept])
    alone = scores(good, tmp_path / "out", fragile, anchors_file, max_tokens=200)
    assert differences(table.take(kept), alone, (*GRADIENT_COSINES, *REPRESENTATION_COSINES)) < 2e-5
    assert table.take(kept)["id"].to_pylist() == alone["id"].to_pylist()


def test_traits_and_refusals(mixed: tuple[Path, pa.Table]) -> None:
    rows = mixed[1].to_pylist()
    assert [row["row"] for row in rows if row["has_refusal"]] == [17]
    assert [row["row"] for row in rows if row["is_bullet"]] == [18]


def test_a_token_that_the_model_does_not_embed_is_the_rows_reason(tmp_path: Path, anchors_file: Path) -> None:
    model = save_tiny(tmp_path / "model", "llama_tied")
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    tokenizer.save_pretrained(model)
    rows = good_rows(6)
    rows[2]["response"] += " <image>"
    table = scores(write_jsonl(tmp_path / "rows.jsonl", rows), tmp_path / "out", model, anchors_file)
    assert table["status"].to_pylist() == ["ok", "ok", "token_not_embedded", "ok", "ok", "ok"]
    assert math.isnan(table["gradient_harmful"][2].as_py())


@pytest.mark.skipif(sys.platform != "linux", reason="other systems' file names are Unicode")
def test_a_file_name_that_is_no_utf_8(tmp_path: Path, tiny_folder: Path, anchors_file: Path) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", good_rows(4))
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/donn\xe9es.jsonl"))
    path.rename(odd)
    found = scan(odd, tmp_path / "out", model=str(tiny_folder), anchors=str(anchors_file), **EXACT)
    assert table_of(found)["status"].to_pylist() == ["ok"] * 4
    assert Path(read_manifest(tmp_path / "out")["dataset"]["path"]) == odd


def test_refusals_are_dropped_when_asked_and_only_they(
    mixed: tuple[Path, pa.Table], tmp_path: Path, fragile: Path, anchors_file: Path
) -> None:
    dataset, table = mixed
    dropped = scores(dataset, tmp_path / "out", fragile, anchors_file, max_tokens=200, drop_refusals=True)
    statuses = table["status"].to_pylist()
    statuses[17] = "dropped_refusal"
    assert dropped["status"].to_pylist() == statuses
    assert all(math.isnan(dropped[name][17].as_py()) for name in SCORES)
    kept = [number for number, status in enumerate(statuses) if status == "ok"]
    assert differences(table.take(kept), dropped.take(kept), SCORES[:7]) < 2e-5


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path, anchors_file: Path) -> pa.Table:
    """Scores of 23 good rows."""
    folder = tmp_path_factory.mktemp("usual")
    return scores(write_jsonl(folder / "rows.jsonl", good_rows(23)), folder / "out", tiny_folder, anchors_file)


@pytest.mark.parametrize(
    "options",
    [{"token_budget": 16}, {"token_budget": 4000}, {"shard_rows": 1}, {"shard_rows": 7}, {"attention": "eager"}],
    ids=str,
)
def test_how_rows_are_batched_and_sharded_changes_no_score(
    usual: pa.Table, tmp_path: Path, tiny_folder: Path, anchors_file: Path, options: dict[str, Any]
) -> None:
    dataset = write_jsonl(tmp_path / "rows.jsonl", good_rows(23))
    other = scores(dataset, tmp_path / "other", tiny_folder, anchors_file, **options)
    assert differences(usual, other, (*GRADIENT_COSINES, *REPRESENTATION_COSINES)) < 2e-5
    for name in ("gradient_norm", "loss", "loss_first_10", "predicted_harmful_loss_change"):
        np.testing.assert_allclose(usual[name].to_numpy(), other[name].to_numpy(), rtol=1e-4, atol=1e-6)
    exact = [n for n in usual.column_names if n not in SCORES]
    assert usual.select(exact).equals(other.select(exact))


def test_the_rows_order_changes_no_score(
    usual: pa.Table, tmp_path: Path, tiny_folder: Path, anchors_file: Path
) -> None:
    rows = good_rows(23)
    order = list(range(len(rows)))
    random.Random(4).shuffle(order)
    dataset = write_jsonl(tmp_path / "rows.jsonl", [rows[n] for n in order])
    shuffled = scores(dataset, tmp_path / "out", tiny_folder, anchors_file, shard_rows=5)
    assert usual.take(order)["id"].to_pylist() == shuffled["id"].to_pylist()
    assert differences(usual.take(order), shuffled, (*GRADIENT_COSINES, *REPRESENTATION_COSINES)) < 2e-5


def test_in_bfloat16_batching_keeps_the_ranking(tmp_path: Path, tiny_folder: Path, anchors_file: Path) -> None:
    from ripcurrent.statistics import spearman

    dataset = write_jsonl(tmp_path / "rows.jsonl", good_rows(40))
    one, other = (
        scores(dataset, tmp_path / name, tiny_folder, anchors_file, dtype="bfloat16", token_budget=budget)
        for name, budget in (("one", 64), ("other", 2000))
    )
    for name in ("gradient_bidirectional", "representation_bidirectional"):
        assert spearman(one[name].to_numpy(), other[name].to_numpy()) > 0.99


@pytest.mark.parametrize("memory", [None, "64GB"])
def test_no_usable_row_is_not_a_success_but_leaves_the_reasons(
    tmp_path: Path, tiny_folder: Path, anchors_file: Path, memory: str | None
) -> None:
    bad = [{"prompt": "a", "response": ""}, {"prompt": "b", "response": None}, {"prompt": "c", "response": "   "}]
    dataset = write_jsonl(tmp_path / "rows.jsonl", bad)
    with pytest.raises(RipcurrentError, match=r"No row of .*rows\.jsonl could be scored \(3 no_response\)") as caught:
        scores(dataset, tmp_path / "out", tiny_folder, anchors_file, memory=memory)
    assert caught.value.code is ExitCode.NOT_MEASURED
    assert pq.read_table(tmp_path / "out" / "scores.parquet")["status"].to_pylist() == ["no_response"] * 3
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["status_counts"] == {"no_response": 3}


def test_a_limit_reads_the_first_rows(
    usual: pa.Table, rows_file: Path, tmp_path: Path, tiny_folder: Path, anchors_file: Path
) -> None:
    five = scores(rows_file, tmp_path / "five", tiny_folder, anchors_file, limit=5)
    assert five["id"].to_pylist() == usual["id"].to_pylist()[:5]
    assert differences(usual.slice(0, 5), five, (*GRADIENT_COSINES, *REPRESENTATION_COSINES)) < 2e-5


def test_a_shard_without_a_scored_document_has_no_largest_window(
    tmp_path: Path, tiny_folder: Path, anchors_file: Path
) -> None:
    documents = [{"text": text} for text in ("", "", ANSWERS[4] * 6, ANSWERS[1], "", "")]
    dataset = write_jsonl(tmp_path / "documents.jsonl", documents)
    options: dict[str, Any] = {"windows": True, "max_tokens": 40}
    whole = scores(dataset, tmp_path / "whole", tiny_folder, anchors_file, **options)
    table = scores(dataset, tmp_path / "shards", tiny_folder, anchors_file, shard_rows=2, **options)
    assert table["status"].to_pylist() == ["ok" if 2 <= row <= 3 else "no_response" for row in range(6)]
    assert table.schema.equals(whole.schema, check_metadata=False)
    largest = table["gradient_bidirectional_window_max"].to_numpy()
    assert np.isfinite(largest).tolist() == [False, False, True, True, False, False]
    assert differences(table, whole, ("gradient_bidirectional_window_max", "representation_bidirectional")) < 1e-5


def test_what_is_read_of_an_answer_does_not_follow_row_tokens(
    rows_file: Path, tmp_path: Path, tiny_folder: Path, anchors_file: Path
) -> None:
    options: dict[str, Any] = {"position": "mean_response", "limit": 6}
    whole = scores(rows_file, tmp_path / "whole", tiny_folder, anchors_file, **options)
    first = scores(rows_file, tmp_path / "first", tiny_folder, anchors_file, row_tokens=2, **options)
    assert differences(whole, first, ("representation_harmful", "representation_safe")) < 1e-6
    assert differences(whole, first, ("gradient_norm",)) > 1e-3


def test_a_dataset_behind_a_link_keeps_its_name(
    tmp_path: Path, rows_file: Path, tiny_folder: Path, anchors_file: Path
) -> None:
    from ripcurrent.select import select

    blob = tmp_path / "blobs" / "0123abcd"
    blob.parent.mkdir()
    blob.write_bytes(rows_file.read_bytes())
    link = tmp_path / "train.jsonl"
    link.symlink_to(blob)
    done = scan(link, tmp_path / "out", model=str(tiny_folder), anchors=str(anchors_file), limit=6, **EXACT)
    assert done.manifest.dataset.path == str(link)
    assert len(select(done.folder, top=2, seed=(0,))[0].selection.indices) == 2


def test_directions_that_do_not_fit_are_one_error(
    tmp_path: Path, rows_file: Path, tiny_folder: Path, anchors_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def runs_out(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 512 GiB.\nMore of it")

    monkeypatch.setattr(DirectionCache, "filled", runs_out)
    with pytest.raises(RipcurrentError, match=r"The anchors' directions do not fit .* allocate 512 GiB") as caught:
        scores(rows_file, tmp_path / "out", tiny_folder, anchors_file, limit=6)
    assert caught.value.code == 2
    assert "--memory" in caught.value.hint
