"""The rows of an arm and of no arm, against plain loops over made-up scores; the scans that an experiment makes."""

from functools import cache
from importlib import import_module
from pathlib import Path
from tempfile import mkdtemp
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from ripcurrent.data import COMPLETION, Completion, Message, Row, encode_rows
from ripcurrent.errors import RipcurrentError
from ripcurrent.experiment import expand_arms, parse_experiment
from ripcurrent.experiment._config import ScanSource
from ripcurrent.experiment._file import MAIN
from ripcurrent.experiment._rows import _to_scan, choose_rows, with_model_of_run
from ripcurrent.finetune import heldout_loss
from ripcurrent.scan import ScanOptions, ScanRun
from tests.finetune.runs import chat_model
from tests.finetune.runs import rows as dialogues
from tests.select.fabricate import fabricate

ROWS = 60


@cache
def scan(rows: int = ROWS, longer: int = 0) -> ScanRun:
    """Rows of which two are unusable and every third is a list; scores and lengths are unrelated."""
    random = np.random.default_rng(3)
    number = np.arange(rows)
    columns: dict[str, Any] = {
        "status": ["too_long" if n in (5, 17) else "ok" for n in number],
        "response_tokens": random.permutation(rows) + 5 + longer,
        "gradient_bidirectional": random.permutation(rows) / rows,
        **{f"is_{name}": number % 3 == 0 for name in ("list", "bullet", "numbered", "maths", "code", "short")},
        **{name: number < 0 for name in ("has_refusal", "opens_numbered")},
    }
    return fabricate(Path(mkdtemp()), rows, unscored=0, columns={k: list(v) for k, v in columns.items()})


def chosen(rule: Any, seed: int = 0, **others: Any) -> list[int]:
    """Row numbers of an arm by a rule, in ascending order."""
    keys = {"name": "x", "data": "d", "size": 12, "control": None, "arms": {"arm": rule, **others}}
    arms = {arm.name: arm for arm in expand_arms(parse_experiment(keys, where="x"))}
    found = choose_rows(arms["arm"], seed, {MAIN: scan()}, arms)
    assert found.name == "arm"
    return sorted(found.indices)


def usable() -> list[dict[str, Any]]:
    columns = ["row", "status", "response_tokens", "gradient_bidirectional", "is_list"]
    return [row for row in scan().take(range(ROWS), columns).to_pylist() if row["status"] == "ok"]


def test_a_share_is_the_share_asked_for_and_nested():
    lists = {row["row"] for row in usable() if row["is_list"]}
    by_percent = {p: chosen({"mix": {"of": "list", "percent": p}}) for p in (0, 25, 50, 100)}
    assert {p: len(lists & set(rows)) for p, rows in by_percent.items()} == {0: 0, 25: 3, 50: 6, 100: 12}
    assert lists & set(by_percent[25]) < lists & set(by_percent[50])


def test_a_mixture_has_the_riskiest_and_random_others():
    ranked = [row["row"] for row in sorted(usable(), key=lambda row: -row["gradient_bidirectional"])]
    mixed = chosen({"mix": {"of": "top", "percent": 50}})
    assert len(mixed) == 12
    assert set(ranked[:6]) <= set(mixed)
    assert chosen({"mix": {"of": "top", "percent": 50}}, seed=1) != mixed
    assert chosen({"mix": {"of": "top", "percent": 100}}) == sorted(ranked[:12])


def test_jitter_draws_each_seeds_rows_from_more_of_the_end():
    ranked = [row["row"] for row in sorted(usable(), key=lambda row: -row["gradient_bidirectional"])]
    drawn = [chosen({"select": "top", "jitter": 24}, seed=seed) for seed in (0, 1, 0)]
    assert drawn[0] == drawn[2] != drawn[1]
    assert all(len(rows) == 12 and {*rows} < {*ranked[:24]} for rows in drawn)
    # controls stand beside the rows of their seed
    assert not {*chosen({"length_matched": "b"}, b={"select": "top", "jitter": 24})} & {*drawn[0]}
    with pytest.raises(RipcurrentError, match="its 12 rows would be drawn from 12"):
        chosen({"select": "top", "jitter": 12})


def test_all_but_leaves_out_just_those():
    everything = chosen("all")
    assert len(everything) == 58
    riskiest = chosen({"select": "top", "size": "20%"})
    assert len(riskiest) == 12
    assert chosen({"all_but": {"select": "top", "size": "20%"}}) == sorted(set(everything) - set(riskiest))
    # without a size it leaves out as many rows as an arm has
    assert chosen({"all_but": {"select": "top"}}) == sorted(set(everything) - set(chosen("top")))
    any_fifth = {"all_but": {"select": "random", "size": "20%"}}
    assert chosen(any_fifth, seed=0) != chosen(any_fifth, seed=1)


def test_what_is_made_from_an_arm_of_another_scan_is_made_of_that_scans_rows():
    arms = {
        "random": "random",
        "top": {"select": "top", "scan": "second"},
        "same": {"length_matched": "top"},
        "again": {"format_matched": "top"},
        "near": {"loss_matched": "top"},
        "rest": {"all_but": {"select": "top", "size": 3}, "scan": "second"},
    }
    scans = {"second": {"data": "e"}}
    keys = {"name": "x", "data": "d", "size": 6, "control": None, "arms": arms, "scans": scans}
    found = {arm.name: arm for arm in expand_arms(parse_experiment(keys, where="x"))}
    other = scan(30, longer=1000)
    tables = {MAIN: scan(), "second": other}
    lengths, ok = other.floats("response_tokens"), {*np.flatnonzero(other.scored).tolist()}
    top = choose_rows(found["top"], 0, tables, found)
    same = choose_rows(found["same"], 0, tables, found)
    assert not set(same.indices) & set(top.indices)
    assert abs(np.mean([lengths[n] for n in same.indices]) - np.mean([lengths[n] for n in top.indices])) < 100
    for name in ("again", "near"):
        assert set(choose_rows(found[name], 0, tables, found).indices) <= ok - set(top.indices)
    assert len(choose_rows(found["rest"], 0, tables, found).indices) == len(ok) - 3


NONE: dict[str, Any] = {"name": "x", "arms": {"a": "top"}, "control": None}


def to_scan(source: ScanSource, main: Any = None, **keys: Any) -> tuple[str, ScanOptions]:
    return _to_scan(parse_experiment({**NONE, **keys}, where="x"), source, main)


def test_a_scan_to_be_made_beside_a_finished_one_reads_its_rows():
    keys, mapping = {"run": "runs/first", "model": "m"}, {"output": "reply"}
    info = SimpleNamespace(path="/d/rows.jsonl", format="alpaca", mapping=mapping, spec=None)
    main = SimpleNamespace(run=SimpleNamespace(manifest=SimpleNamespace(dataset=info), options=ScanOptions(limit=50)))
    data, options = to_scan(ScanSource(options={"anchors": "mine"}), main, **keys)
    assert (data, options.format, options.mapping, options.limit) == ("/d/rows.jsonl", "alpaca", mapping, 50)
    # a scan of another dataset takes nothing from it
    data, options = to_scan(ScanSource(data="other.csv"), main, **keys)
    assert (data, options.format, options.mapping, options.limit) == ("other.csv", None, None, None)


def test_a_further_scan_of_the_same_rows_reads_them_alike_and_takes_no_others_adapter():
    keys: dict[str, Any] = {"data": "rows.csv", "scan": {"limit": 500, "mapping": {"prompt": "ask"}, "avg_n": 2}}
    keys |= {"model": "bare", "adapter": "weak", "format": "alpaca"}
    data, options = to_scan(ScanSource(options={"anchors": "second_family"}), **keys)
    assert (data, options.format, options.model, options.anchors) == ("rows.csv", "alpaca", "bare", "second_family")
    assert (options.limit, options.mapping, options.adapter) == (500, {"prompt": "ask"}, "weak")
    assert options.avg_n == 1, "what is scored is each scan's own"
    _, options = to_scan(ScanSource(data="other.csv"), **keys)
    assert (options.limit, options.mapping) == (None, None)
    _, options = to_scan(ScanSource(options={"model": "embedded"}), **keys)
    assert (options.model, options.adapter, options.anchor_check) == ("embedded", None, True)
    assert not to_scan(ScanSource(options={"avg_n": 2}), **keys, anchor_check=False)[1].anchor_check


def test_the_model_of_a_finished_scan_is_trained_unless_another_is_named(monkeypatch):
    run = SimpleNamespace(options=ScanOptions(model="their/model", adapter="runs/a"))
    monkeypatch.setattr(import_module("ripcurrent.experiment._rows"), "ScanRun", SimpleNamespace(open=lambda _: run))

    def trained(**keys: Any) -> tuple[str, str | None]:
        config = with_model_of_run(parse_experiment({**NONE, "run": "runs/scan", **keys}, where="x"))
        return config.model, config.adapter

    assert trained() == ("their/model", "runs/a")
    assert trained(model="mine") == ("mine", None)
    assert trained(adapter="runs/b") == ("their/model", "runs/b")


TURNS = (
    Message("user", "How many boats?"),
    Message("assistant", "Seven, as the children counted."),
    Message("user", "And after that?"),
    Message("assistant", "One fewer."),
)
SILENT = Row(8, "8", (Message("user", "no answer"),), None, {}, problem="no_response")


@pytest.mark.parametrize(
    ("trained", "max_tokens"), [(COMPLETION, 256), (Completion(turns="last"), 256), (COMPLETION, 48)]
)
def test_the_loss_on_held_out_rows_is_the_mean_over_all_tokens_that_bear_loss(trained, max_tokens):
    chat, held = chat_model(), [*dialogues(7), Row(7, "7", TURNS, None, {}), SILENT]
    losses: list[list[float]] = []
    for row in encode_rows(held[:-1], chat.tokenizer, max_tokens=max_tokens, trained=trained):
        with torch.no_grad():
            logits = chat.model(input_ids=torch.tensor([row.tokens.tolist()])).logits[0].double()
        bears = [place for place in range(1, len(row.tokens)) if row.loss_mask[place]]
        of_token = [torch.log_softmax(logits[place - 1], dim=-1)[int(row.tokens[place])] for place in bears]
        losses.append([-float(one) for one in of_token])
    expected = np.concatenate(losses).mean()
    assert heldout_loss(chat, held, max_tokens=max_tokens, trained=trained) == pytest.approx(expected, rel=1e-5)
    of_rows = np.mean([np.mean(own) for own in losses])
    assert abs(of_rows - expected) > 1e-3 * expected, "rows of unequal length tell the two means apart"
    assert heldout_loss(chat, [SILENT], max_tokens=max_tokens, trained=trained) is None
