"""A whole selection from a made-up scan: files, records, refusals, and the command."""

import json
from dataclasses import astuple

import numpy as np
import pytest

from ripcurrent.cli import run as command_line
from ripcurrent.data import read_rows
from ripcurrent.errors import RipcurrentError
from ripcurrent.select import select, summarise, top
from tests.select.fabricate import fabricate, manifest


@pytest.fixture
def run(tmp_path):
    return fabricate(tmp_path, 80)


@pytest.fixture
def command(run, capsys):
    def call(*arguments):
        code = command_line(["select", str(run.folder), *map(str, arguments)])
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def lines(path):
    return path.read_text(encoding="utf-8").splitlines()


def test_the_record_says_what_was_selected_and_why(run):
    record = select(run, top=10, by="gradient_safe", controls=True)[0]
    kept = json.loads(record.record_path.read_text(encoding="utf-8"))
    expected = {
        "name": "top-10-gradient_safe",
        "rule": "the 10 riskiest rows by gradient_safe (lower is riskier)",
        "direction_of_risk": "lower",
        "indices": list(record.selection.indices),
        "ids": [f"id-{row}" for row in record.selection.indices],
        "scores": sorted(kept["scores"]),
        "file": "top-10-gradient_safe.jsonl",
    }
    assert kept.items() >= expected.items()
    assert kept["provenance"]["model"]["fingerprint"] == "a"
    length = json.loads((run.folder / "selections" / "top-10-gradient_safe-control-length-1.json").read_text())
    assert length["control_of"] == "top-10-gradient_safe"
    assert (length["distances"][0]["column"], length["seed"]) == ("response_tokens", 1)


def test_a_file_that_is_no_selections_is_not_overwritten(run, tmp_path):
    mine = {"top": 10, "out": tmp_path, "name": "mine", "seed": (0,)}
    before, rest = (tmp_path / "rows.jsonl").read_bytes(), tmp_path / "without-mine.jsonl"
    with pytest.raises(RipcurrentError, match=r"rows\.jsonl exists and does not belong to a selection"):
        select(run, **mine | {"name": "rows"})
    rest.write_text("precious")
    for _ in range(2):
        with pytest.raises(RipcurrentError, match=r"without-mine\.jsonl exists"):
            select(run, **mine, drop=True)
        # also where the selection is there, and no record of it names the file
        select(run, **mine)
    assert ((tmp_path / "rows.jsonl").read_bytes(), rest.read_text()) == (before, "precious")
    rest.unlink()
    for drop in (True, False, True):
        assert select(run, **mine, drop=drop)[0].remaining_path == (rest if drop else None)
    # in the run's own folder it is what a stopped command left
    record = select(run, top=10, seed=(0,))[0]
    record.record_path.unlink()
    assert select(run, top=10, seed=(0,))[0].path == record.path


def test_a_json_dataset_keeps_rows_and_record_apart(tmp_path):
    record = select(fabricate(tmp_path, 40, suffix=".json"), bottom=4)[0]
    assert (record.path.name, record.record_path.name) == ("bottom-4.rows.json", "bottom-4.json")
    source = json.loads((tmp_path / "rows.json").read_text())
    assert json.loads(record.path.read_text()) == [source[row] for row in record.selection.indices]


def test_a_folder_dataset_can_be_selected_from_twice(run, tmp_path):
    datasets = pytest.importorskip("datasets")
    folder = tmp_path / "saved"
    datasets.Dataset.from_list([json.loads(line) for line in lines(tmp_path / "rows.jsonl")]).save_to_disk(folder)
    manifest(folder).write(run.folder)
    for _ in range(2):
        record = select(run.folder, top=5, drop=True, seed=(0,))[0]
        assert len(list(read_rows(record.remaining_path))) == 75
        asked = [row.prompt for row in read_rows(record.path)]
        assert asked == [f"Question {row}?" for row in record.selection.indices]
        # a stopped command leaves rows without their record
        record.record_path.unlink()
    # in a folder of another name they may be anything
    with pytest.raises(RipcurrentError, match=r"top-5\.rows exists"):
        select(run.folder, top=5, out=run.folder / "selections" / ".." / "selections", name="top-5", seed=(0,))


def test_drop_leaves_every_other_row_in_input_order_and_notes_those_without_a_score(run, tmp_path):
    (alone,) = select(run, top="25%", drop=True)
    count = len(alone.selection.indices)
    assert {path.name for path in alone.path.parent.glob("*.jsonl")} == {"top-25pct.jsonl", "without-top-25pct.jsonl"}
    assert alone.selection.rule == f"the {count} riskiest rows by gradient_bidirectional (higher is riskier)"
    first, *controls = select(run, top=10, drop=True, controls=True)
    source = enumerate(lines(tmp_path / "rows.jsonl"))
    assert lines(first.remaining_path) == [line for row, line in source if row not in first.selection.indices]
    assert all(record.remaining_path is None for record in controls)
    assert f"{(~run.scored).sum()} of the remaining rows have no score" in first.selection.notes[0]


def test_several_rules_at_once_and_draws_with_each_seed(run):
    records = select(run, top=5, union=3, between="90%:100%", format_draw="list", rows=6, seed=(4, 5), controls=True)
    heads = [record.selection.name for record in records if record.selection.control_of is None]
    assert heads == ["top-5", "union-3", "quantiles-0.9-1", "list-6-seed-4", "list-6-seed-5"]
    controls = [r.selection.name for r in records if r.selection.control_of == "list-6-seed-4"]
    assert controls == [
        f"list-6-seed-4-control-{kind}" for kind in ("random-4", "length-4", "format-4", "loss-4", "bottom")
    ]


def test_select_twice_gives_the_same_bytes_and_another_selection_may_not_take_the_name(run, tmp_path):
    chosen, dataset = tmp_path / "chosen", tmp_path / "rows.jsonl"

    def written(top=10):
        select(run.folder, top=top, out=chosen, name="mine", seed=(0,))
        return {path.name: path.read_bytes() for path in chosen.iterdir()}

    before = written()
    assert written() == before
    with pytest.raises(RipcurrentError, match="already holds another selection"):
        written(top=12)
    for changed in ({"fingerprint": "b"}, {"avg_n": 2}):
        manifest(dataset, **changed).write(run.folder)
        with pytest.raises(RipcurrentError, match="by the scores of another scan"):
            written()
    # where a batch ends does not make another scan
    manifest(dataset, token_budget=64).write(run.folder)
    assert set(written()) == set(before)
    record = json.loads((chosen / "mine.json").read_text())
    record["provenance"]["dataset"] |= {"sha256": "another", "path": "other.jsonl"}
    (chosen / "mine.json").write_text(json.dumps(record))
    with pytest.raises(RipcurrentError, match=r"already holds another selection \(of other\.jsonl\)"):
        written()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "Nothing to select"),
        ({"top": 5, "bottom": 5, "name": "both"}, "One name for 2 selections"),
        ({"top": 5, "name": "../escape"}, "cannot be the name"),
        ({"top": 1, "rows": 5}, "--rows 5 is for --format-draw"),
        ({"union": 1, "by": "loss"}, "--by loss says what to rank by"),
        ({"top": "0%"}, "--top '0%' is not a number of rows"),
        ({"between": "1:2:3"}, "--between 1:2:3 is not possible"),
        ({"between": "10%:0.5"}, "is not possible"),
        ({"tops": 5}, "There is no option --tops. Did you mean top"),
    ],
)
def test_a_users_mistake_writes_nothing(run, changes, message):
    with pytest.raises(RipcurrentError, match=message):
        select(run, **changes)
    assert not (run.folder / "selections").exists()


def test_a_dataset_that_moved_is_named_and_an_unwritable_place_is_an_error(run, tmp_path):
    moved = (tmp_path / "rows.jsonl").rename(tmp_path / "elsewhere.jsonl")
    with pytest.raises(RipcurrentError, match=r"does not exist(.|\n)*--data"):
        select(run, top=5)
    assert select(run, top=5, data=str(moved))[0].path.exists()
    with pytest.raises(RipcurrentError, match="cannot be written"):
        select(run, top=5, data=str(moved), out=moved / "selections")


def test_the_summary_compares_with_the_whole(run):
    first = top(run, 20)
    summary = summarise(run, first)
    chosen, usable = list(first.indices), np.flatnonzero(run.scored)
    lists, tokens = run.flags("is_list"), run.floats("response_tokens")
    assert (summary.rows, summary.whole_rows) == (20, len(usable))
    assert summary.format_shares["is_list"] == lists[chosen].mean()
    assert summary.whole_format_shares["is_list"] == lists[usable].mean()
    quartiles = (tokens[chosen].mean(), *np.quantile(tokens[chosen], (0.25, 0.5, 0.75)))
    assert astuple(summary.length) == pytest.approx(quartiles)
    assert summary.score_quantiles[1.0] == first.scores[0]


def test_the_command_prints_a_json_object_or_a_table(command):
    code, out, _ = command("--top", 10, "--drop", "--controls", "--json")
    assert code == 0
    found = json.loads(out)["selections"]
    assert [row["kind"] for row in found][:2] == ["top", "random"]
    assert found[0]["remaining_file"].endswith("without-top-10.jsonl")
    code, out, _ = command("--top", 10, "--seed", 3, "--drop", "--controls")
    for word in ("top-10", "random-3", "length-3", "bottom", "all usable rows", "have no score"):
        assert word in out
    assert command("--top", 10, "--seed", 3, "--quiet")[1:] == ("", "")


def test_the_command_takes_shares_ranges_and_formats(run, command):
    def first(*arguments):
        return json.loads(command(*arguments, "--json")[1])["selections"][0]

    for rule in ("top", "bottom"):
        assert first(f"--{rule}", "25%")["name"] == f"{rule}-25pct"
    assert first("--between", "-0.1:0.2", "--by", "loss")["rule"] == "rows whose loss lies in [-0.1, 0.2]"
    assert first("--between", ":50%")["name"] == "quantiles-0-0.5"
    assert first("--format-draw", "list", "--seed", 0)["shortfall"] > 0, "a hundred unless given, of eighty rows"
    code, _, err = command("--top", "some")
    assert code == 1
    assert "Write --top 100 or --top 20%" in err
