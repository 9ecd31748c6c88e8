"""A whole `select` on a made-up run folder: files, records, refusals, and the command."""

from __future__ import annotations

import json
import os
import sys

import pytest
import typer
from typer.testing import CliRunner

from ripcurrent.cli._select import parse_range, select_command
from ripcurrent.data import read_rows
from ripcurrent.errors import RipcurrentError
from ripcurrent.select import draw_random, read_scores, summarise, top
from ripcurrent.select._select import select
from tests.select.fabricate import fabricate_run, fabricate_table


@pytest.fixture
def run(tmp_path):
    return fabricate_run(tmp_path, fabricate_table(80))


def lines(path):
    return path.read_text(encoding="utf-8").splitlines()


def command(*arguments):
    app = typer.Typer()
    app.command()(select_command)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_selection_and_its_controls_are_written_in_the_inputs_own_words(run, tmp_path):
    records = select(run, top=10)
    source = lines(tmp_path / "rows.jsonl")
    assert [record.selection.kind for record in records] == [
        "top",
        *["random", "length-matched", "format-matched"] * 3,
        "bottom",
    ]
    for record in records:
        selection = record.selection
        order = selection.indices if selection.kind in ("top", "bottom") else sorted(selection.indices)
        assert lines(record.path) == [source[row] for row in order]
    assert sorted(path.name for path in (run / "selections").iterdir()) == sorted(
        name for record in records for name in (record.path.name, record.record_path.name)
    )


def test_the_record_tells_what_was_selected_and_why(run):
    record = select(run, top=10, by="gradient_safe")[0]
    told = json.loads(record.record_path.read_text(encoding="utf-8"))
    assert told["name"] == "top-10-gradient_safe"
    assert told["rule"] == "the 10 riskiest rows by gradient_safe (lower is riskier)"
    assert told["direction_of_risk"] == "lower"
    assert told["indices"] == list(record.selection.indices)
    assert told["ids"] == [f"id-{row}" for row in record.selection.indices]
    assert told["scores"] == sorted(told["scores"])
    assert told["file"] == "top-10-gradient_safe.jsonl"
    assert told["provenance"]["anchors"]["hash"] == "fabricated"
    assert len(told["summary"]["overlaps"]) == 10
    length_control = json.loads((run / "selections" / "top-10-gradient_safe-control-length-1.json").read_text())
    assert length_control["control_of"] == "top-10-gradient_safe"
    assert length_control["distances"][0]["column"] == "response_tokens"
    assert length_control["seed"] == 1


def test_a_file_that_is_no_selections_is_not_overwritten(run, tmp_path):
    dataset = tmp_path / "rows.jsonl"
    before = dataset.read_bytes()
    with pytest.raises(RipcurrentError, match=r"rows\.jsonl is there and is no selection's"):
        select(run, top=10, out=tmp_path, name="rows")
    (tmp_path / "without-mine.jsonl").write_text("precious")
    with pytest.raises(RipcurrentError, match=r"without-mine\.jsonl is there"):
        select(run, top=10, out=tmp_path, name="mine", drop=True, seeds=(0,))
    assert dataset.read_bytes() == before
    assert not (tmp_path / "mine.jsonl").exists()
    # in the run's own folder it is what a stopped command left
    record = select(run, top=10, seeds=(0,))[0]
    record.record_path.unlink()
    assert select(run, top=10, seeds=(0,))[0].path == record.path


@pytest.mark.skipif(sys.platform != "linux", reason="file names are UTF-8 elsewhere")
def test_a_file_name_that_is_no_utf_8_is_selected_from(run, tmp_path):
    odd = tmp_path / os.fsdecode(b"donn\xe9es.jsonl")
    (tmp_path / "rows.jsonl").rename(odd)
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["dataset"]["path"] = str(odd)
    (run / "manifest.json").write_text(json.dumps(manifest))
    record = select(run, top=5, seeds=(0,))[0]
    assert json.loads(record.record_path.read_text())["provenance"]["dataset"]["path"] == str(odd)


def test_a_selection_of_other_rows_keeps_its_name(run, tmp_path):
    select(run, top=10, out=tmp_path / "chosen", name="mine", seeds=(0,))
    record_path = tmp_path / "chosen" / "mine.json"
    record = json.loads(record_path.read_text())
    record["provenance"]["dataset"] |= {"sha256": "another", "path": "other.jsonl"}
    record_path.write_text(json.dumps(record))
    with pytest.raises(RipcurrentError, match=r"already holds another selection \(of other\.jsonl\)"):
        select(run, top=10, out=tmp_path / "chosen", name="mine", seeds=(0,))


def test_a_json_data_set_keeps_rows_and_record_apart(tmp_path):
    run = fabricate_run(tmp_path, fabricate_table(40), suffix=".json")
    record = select(run, bottom=4)[0]
    assert (record.path.name, record.record_path.name) == ("bottom-4.rows.json", "bottom-4.json")
    source = json.loads((tmp_path / "rows.json").read_text())
    assert json.loads(record.path.read_text()) == [source[row] for row in record.selection.indices]


def test_a_folder_data_set_can_be_selected_from_twice(run, tmp_path):
    datasets = pytest.importorskip("datasets")
    folder = tmp_path / "saved"
    source = [json.loads(line) for line in lines(tmp_path / "rows.jsonl")]
    datasets.Dataset.from_list(source).save_to_disk(folder)
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["dataset"] = read_rows(folder).describe().model_dump()
    (run / "manifest.json").write_text(json.dumps(manifest))
    for _ in range(2):
        record = select(run, top=5, drop=True, seeds=(0,))[0]
        assert [row.index for row in read_rows(record.remaining_path)] == list(range(75))
        asked = [row.prompt for row in read_rows(record.path)]
        assert asked == [f"Question {row}?" for row in record.selection.indices]
    # a stopped command leaves rows without their record
    record.record_path.unlink()
    assert select(run, top=5, drop=True, seeds=(0,))[0].record_path.is_file()
    record.record_path.unlink()
    with pytest.raises(RipcurrentError, match=r"top-5\.rows is there"):
        select(run, top=5, out=run / "selections" / ".." / "selections", name="top-5", seeds=(0,))


def test_drop_leaves_every_other_row_in_input_order(run, tmp_path):
    records = select(run, top=10, drop=True)
    dropped = set(records[0].selection.indices)
    kept = [line for row, line in enumerate(lines(tmp_path / "rows.jsonl")) if row not in dropped]
    assert lines(records[0].remaining_path) == kept
    assert len(kept) == 70
    assert all(record.remaining_path is None for record in records[1:])


def test_several_rules_at_once_and_draws_with_each_seed(run):
    records = select(run, top=5, union=3, quantiles=(0.9, 1.0), formats={"list": 6}, seeds=(4, 5))
    heads = [record.selection for record in records if record.selection.control_of is None]
    assert [head.name for head in heads] == ["top-5", "union-3", "quantiles-0.9-1", "list-6-seed-4", "list-6-seed-5"]
    controls = [r.selection.name for r in records if r.selection.control_of == "list-6-seed-4"]
    assert controls == [f"list-6-seed-4-control-{kind}" for kind in ("random-4", "length-4", "format-4", "bottom")]


def test_select_twice_gives_the_same_bytes_and_another_rule_may_not_take_the_name(run):
    select(run, top=10, name="risky")
    before = {path.name: path.read_bytes() for path in (run / "selections").iterdir()}
    select(run, top=10, name="risky")
    assert {path.name: path.read_bytes() for path in (run / "selections").iterdir()} == before
    with pytest.raises(RipcurrentError, match="already holds another selection"):
        select(run, top=12, name="risky")
    assert {path.name: path.read_bytes() for path in (run / "selections").iterdir()} == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "Nothing to select"),
        ({"top": 5, "bottom": 5, "name": "both"}, "One name for 2 selections"),
        ({"top": 5, "name": "../escape"}, "cannot be the name"),
        ({"top": 5, "by": "loss"}, "ranks no risk"),
        ({"formats": {"poem": 5}}, "no format 'poem'"),
        ({"top": 80}, "No usable row is left"),
    ],
)
def test_a_users_mistake_writes_nothing(run, arguments, message):
    with pytest.raises(RipcurrentError, match=message):
        select(run, **arguments)
    assert not (run / "selections").exists()


def test_a_data_set_changed_since_the_scan_is_not_selected_from(run, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(path.read_text().replace("Question 7?", "Question seven?"))
    with pytest.raises(RipcurrentError, match="has changed since it was scanned"):
        select(run, top=5)


def test_a_dataset_that_was_moved_is_named(run, tmp_path):
    here, there = tmp_path / "rows.jsonl", tmp_path / "elsewhere.jsonl"
    there.write_bytes(here.read_bytes())
    here.unlink()
    with pytest.raises(RipcurrentError, match="does not exist") as caught:
        select(run, top=5)
    assert "--data" in caught.value.hint
    assert select(run, top=5, data=there)[0].path.exists()
    there.write_text(there.read_text().replace("Question 7?", "Question seven?"))
    with pytest.raises(RipcurrentError, match="has other rows than the dataset that was scanned"):
        select(run, top=5, data=there)


def test_a_run_that_is_none_or_damaged_is_told(run, tmp_path):
    with pytest.raises(RipcurrentError, match=r"no scores\.parquet"):
        select(tmp_path / "nowhere", top=5)
    (run / "manifest.json").write_text("{")
    with pytest.raises(RipcurrentError, match="missing or damaged"):
        select(run, top=5)
    (run / "scores.parquet").write_bytes(b"PAR1 cut short")
    with pytest.raises(RipcurrentError, match="cannot be read"):
        select(run, top=5)


def test_an_unwritable_place_is_told(run, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RipcurrentError, match="cannot be written"):
        select(run, top=5, out=tmp_path / "file" / "selections")


def test_the_summary_compares_with_the_whole_and_with_others(run):
    table = read_scores(run)
    first, second = top(table, 20), draw_random(table, 20, 0)
    summary = summarise(table, first, [first, second])
    status, lists, tokens = (table[name].to_pylist() for name in ("status", "is_list", "response_tokens"))
    usable = [row for row in range(80) if status[row] == "ok"]
    assert summary.whole_rows == len(usable)
    assert summary.format_shares["is_list"] == sum(lists[row] for row in first.indices) / 20
    assert summary.whole_format_shares["is_list"] == sum(lists[row] for row in usable) / len(usable)
    assert summary.length.mean == pytest.approx(sum(tokens[row] for row in first.indices) / 20)
    assert summary.length.lower_quartile <= summary.length.median <= summary.length.upper_quartile
    assert summary.score_quantiles[1.0] == first.scores[0]
    shared = len(set(first.indices) & set(second.indices))
    assert [(o.name, o.count) for o in summary.overlaps] == [(second.name, shared)]
    assert summary.overlaps[0].jaccard == shared / (40 - shared)


def test_the_command_prints_one_json_object(run):
    result = command(run, "--top", 10, "--drop", "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert [row["kind"] for row in told["selections"]][:2] == ["top", "random"]
    assert told["selections"][0]["overlap_with_first"] == 10
    assert told["selections"][1]["overlap_with_first"] == 0
    assert told["selections"][0]["remaining_file"].endswith("without-top-10.jsonl")
    drawn = command(run, "--format-draw", "list", "--seed", 0, "--json")
    assert json.loads(drawn.stdout)["selections"][0]["shortfall"] > 0, "a hundred unless named, of eighty rows"


def test_the_command_prints_a_table_of_selections_and_controls(run):
    result = command(run, "--top", 10, "--seed", 3)
    assert result.exit_code == 0, result.output
    for word in ("top-10", "random, seed 3", "length, seed 3", "format, seed 3", "bottom", "all usable rows"):
        assert word in result.stdout
    assert command(run, "--top", 10, "--seed", 3, "--quiet").output == ""


def test_a_share_is_of_the_rows_that_have_a_score(run):
    usable = sum(row["status"] == "ok" for row in read_scores(run).to_pylist())
    assert usable < 80
    for rule in ("top", "bottom"):
        told = json.loads(command(run, f"--{rule}", "25%", "--json").stdout)["selections"][0]
        assert told["name"] == f"{rule}-{round(usable / 4)}"
    for wrong in ("some", "0%", "101%"):
        error = command(run, "--top", wrong).exception
        assert isinstance(error, RipcurrentError)
        assert "Write --top 100 or --top 20%" in str(error)


def test_rows_without_a_score_that_stay_are_told(run):
    unscored = sum(row["status"] != "ok" for row in read_scores(run).to_pylist())
    assert f"{unscored} rows have no score" in command(run, "--top", 10, "--drop").stdout
    assert "have no score" not in command(run, "--top", 10).stdout


def test_the_command_draws_formats_and_ranges(run):
    result = command(run, "--format-draw", "maths", "--rows", 5, "--seed", 1, "--json")
    assert json.loads(result.stdout)["selections"][0]["maths_share"] == 1.0
    result = command(run, "--between", "-0.1:0.2", "--by", "loss", "--json")
    assert json.loads(result.stdout)["selections"][0]["rule"] == "rows whose loss lies in [-0.1, 0.2]"


def test_the_command_refuses_a_number_of_rows_for_another_rule(run):
    error = command(run, "--top", 1, "--rows", 5).exception
    assert isinstance(error, RipcurrentError)
    assert "--rows 5 is for --format-draw" in str(error)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.1:0.3", ((0.1, 0.3), None)),
        ("-0.2:", ((-0.2, None), None)),
        (":1e-3", ((None, 0.001), None)),
        ("90%:100%", (None, (0.9, 1.0))),
        (":5%", (None, (0.0, 0.05))),
    ],
)
def test_ranges_are_values_or_percentages(text, expected):
    assert parse_range(text) == expected


@pytest.mark.parametrize("text", ["0.1", "a:b", "1:2:3", "10%:0.5", ""])
def test_what_is_no_range_is_told(text):
    with pytest.raises(RipcurrentError, match="is not a range"):
        parse_range(text)


def test_a_selection_by_another_models_scores_keeps_its_name(run, tmp_path):
    chosen = tmp_path / "chosen"
    select(run, top=10, out=chosen, name="mine", seeds=(0,))
    before = {path.name: path.read_bytes() for path in chosen.iterdir()}
    manifest = json.loads((run / "manifest.json").read_text())
    for changed in ({"model": {"fingerprint": "b", "name": "modelB"}}, {"options": {"position": "last_prompt"}}):
        (run / "manifest.json").write_text(json.dumps({**manifest, **changed}))
        with pytest.raises(RipcurrentError, match="by the scores of another scan"):
            select(run, top=10, out=chosen, name="mine", seeds=(0,))
    # where a batch ends is no other scan
    (run / "manifest.json").write_text(json.dumps({**manifest, "options": {"token_budget": 64}}))
    select(run, top=10, out=chosen, name="mine", seeds=(0,))
    assert {path.name for path in chosen.iterdir()} == set(before)


def test_rows_left_over_are_not_written_over_a_file_that_no_record_names(run, tmp_path):
    chosen = tmp_path / "chosen"
    select(run, top=10, out=chosen, name="mine", seeds=(0,))
    (chosen / "without-mine.jsonl").write_text("precious")
    with pytest.raises(RipcurrentError, match=r"without-mine\.jsonl is there"):
        select(run, top=10, out=chosen, name="mine", drop=True, seeds=(0,))
    assert (chosen / "without-mine.jsonl").read_text() == "precious"
    (chosen / "without-mine.jsonl").unlink()
    for drop in (True, False, True):
        (record, *_) = select(run, top=10, out=chosen, name="mine", drop=drop, seeds=(0,))
        assert record.remaining_path == (chosen / "without-mine.jsonl" if drop else None)
