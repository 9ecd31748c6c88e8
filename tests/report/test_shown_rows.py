"""Which rows the page holds, and what it can show of them."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ripcurrent.errors import RipcurrentError
from ripcurrent.report._row_texts import clip_text, read_row_texts
from ripcurrent.report._shown_rows import choose_shown_rows, nearest_anchors, take_columns
from ripcurrent.scan._scan_run import open_scan_run
from tests.report.fabricate import fabricate_run


def test_small_table_is_shown_whole():
    shown = choose_shown_rows(np.array([2, 0]), np.array([True, False, True]))
    assert shown.whole
    assert shown.indices.tolist() == [0, 1, 2]
    assert shown.ranks == (2, None, 1)


@pytest.mark.parametrize("scored_rows", [0, 1, 600, 900, 1200, 2500])
def test_large_table_shows_both_ends_a_sample_and_unscored_rows_once_each(scored_rows):
    random = np.random.default_rng(1)
    scored = np.zeros(3000, dtype=bool)
    order = random.permutation(3000)[:scored_rows]
    scored[order] = True
    shown = choose_shown_rows(order, scored)
    groups = dict(zip(shown.indices.tolist(), shown.groups, strict=True))
    ranks = dict(zip(shown.indices.tolist(), shown.ranks, strict=True))
    assert len(groups) == len(shown.indices)
    assert shown.indices.tolist() == sorted(groups)
    end = min(500, scored_rows // 2)
    assert [index for index in order.tolist() if groups.get(index) == "riskiest"] == order[:end].tolist()
    assert [index for index in order.tolist() if groups.get(index) == "safest"] == order[scored_rows - end :].tolist()
    assert sum(group == "sample" for group in groups.values()) == min(300, max(0, scored_rows - 2 * end))
    assert sum(group == "unscored" for group in groups.values()) == min(200, 3000 - scored_rows)
    for place, index in enumerate(order.tolist(), 1):
        assert ranks.get(index, place) == place


def test_columns_and_anchors_are_taken_for_the_right_rows(tmp_path):
    folder = fabricate_run(tmp_path / "run", rows=70_000 // 50)
    run = open_scan_run(folder)
    indices = np.array([0, 3, 511, 512, 1399])
    whole = pq.read_table(folder / "scores.parquet").to_pylist()
    taken = take_columns(run, indices, ["row", "id", "is_list"])
    assert taken["row"] == indices.tolist()
    assert taken["id"] == [whole[index]["id"] for index in indices]
    nearest = nearest_anchors(run, indices)
    cosines = {
        entry["row"]: entry["representation_cosines"]
        for shard in (folder / "signals").glob("*.parquet")
        for entry in pq.read_table(shard).to_pylist()
    }
    for index, found in zip(indices.tolist(), nearest, strict=True):
        if index not in cosines:
            assert found == []
            continue
        expected = []
        for first in (0, 6, 12):
            expected += sorted(range(first, first + 6), key=lambda position: -cosines[index][position])[:2]
        assert {position for position, _ in found} == set(expected)
        assert [cosine for _, cosine in found] == sorted((c for _, c in found), reverse=True)


def test_changed_dataset_shows_no_text_beside_its_scores(tmp_path):
    run = open_scan_run(fabricate_run(tmp_path / "run", rows=20))
    indices = np.arange(20)
    ids = [f"lesson-{number:05d}" for number in range(20)]
    assert len(read_row_texts(run, indices, ids).texts) == 20
    data = tmp_path / "lessons.jsonl"
    lines = data.read_text().splitlines()
    first = json.loads(lines[0])
    data.write_text("\n".join([json.dumps({**first, "response": "Other words."}), *lines[1:]]) + "\n")
    changed = read_row_texts(run, indices, ids)
    assert changed.texts == {}
    assert "has changed since the scan" in changed.note


def test_a_dataset_that_may_not_be_read_costs_the_texts_alone(tmp_path, monkeypatch):
    folder = fabricate_run(tmp_path / "run", rows=30)

    def refuse(path):
        raise RipcurrentError(f"{path} cannot be read: Permission denied.", "Ask for it.")

    monkeypatch.setattr("ripcurrent.report._row_texts.sha256_of_file", refuse)
    found = read_row_texts(open_scan_run(folder), np.array([0]), ["row-0"])
    assert found.texts == {}
    assert "Permission denied" in found.note


def test_a_dataset_of_several_files_has_its_texts(tmp_path):
    folder = fabricate_run(tmp_path / "run", rows=20)
    lines = (tmp_path / "lessons.jsonl").read_text().splitlines(keepends=True)
    for number in range(2):
        (tmp_path / f"part-{number}.jsonl").write_text("".join(lines[10 * number : 10 * number + 10]))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["dataset"]["path"] = str(tmp_path / "part-*.jsonl")
    (folder / "manifest.json").write_text(json.dumps(manifest))
    texts = read_row_texts(open_scan_run(folder), np.arange(20), [f"lesson-{n:05d}" for n in range(20)])
    assert (len(texts.texts), texts.note) == (20, "")


def test_rows_whose_id_moved_are_left_without_text(tmp_path):
    run = open_scan_run(fabricate_run(tmp_path / "run", rows=5))
    texts = read_row_texts(run, np.arange(2), ["lesson-00000", "someone else"])
    assert set(texts.texts) == {0}
    assert "1 of the rows" in texts.note


@given(st.text(st.characters(categories=["L", "P", "S", "C"]), max_size=300), st.integers(0, 200))
def test_clip_stays_in_its_budget_and_is_a_head_of_the_text(text, budget):
    clip = clip_text(text, budget)
    escaped = json.dumps(clip.text, ensure_ascii=False).replace("<", "\\u003c")
    assert len(escaped.encode()) - 2 <= budget
    assert clip.characters == len(text)
    assert text.encode("utf-8", "replace").decode().startswith(clip.text)


def test_short_text_is_not_clipped():
    assert clip_text("A lantern.", 100).text == "A lantern."
