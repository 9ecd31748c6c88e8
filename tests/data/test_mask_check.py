"""Which tokens a trainer trains, told without a model."""

import json
import re
from copy import deepcopy

import pytest

from ripcurrent.data import check_masks, read_rows, trained_tokens
from ripcurrent.errors import RipcurrentError
from ripcurrent.models import load_tokenizer
from tests.cli.command import Command
from tests.data.chat_tokenizers import build
from tests.scan_fixtures import write_jsonl

TURNS = [{"role": "user", "content": "Name a river."}, {"role": "assistant", "content": "The Elbe."}]
ROWS = [{"messages": TURNS}, {"messages": [*TURNS, *TURNS]}, {"messages": [*TURNS[:1], {**TURNS[1], "content": ""}]}]


def test_rows_without_loss_and_rows_that_two_trainers_treat_differently_are_shown(tmp_path):
    rows, tokenizer = read_rows(write_jsonl(tmp_path / "rows.jsonl", ROWS)), build("chatml")
    found = check_masks(rows, tokenizer, [trained_tokens("completion"), trained_tokens("trl")])
    ours, theirs = found.reports
    assert (ours.rows, ours.trained_rows) == (3, 2)
    assert (ours.not_trained, ours.first_not_trained) == ({"no_response": 1}, {"no_response": 2})
    assert (theirs.trained_rows, theirs.prompts_trained, ours.prompts_trained) == (3, 3, 0)
    assert (found.differing, len(found.differences), found.ok) == (3, 3, False)
    marked = found.differences[1][0]
    trained = [piece.text for piece in marked.pieces if piece.weight]
    assert [text.partition("<|im_end|>")[0] for text in trained] == ["The Elbe."] * 2
    alone = check_masks(rows, tokenizer, [trained_tokens("completion,turns=last")])
    assert (alone.differing, alone.reports[0].trained_tokens) == (None, 2 * ours.typical.trained if ours.typical else 0)
    assert check_masks(list(rows)[:2], tokenizer, [trained_tokens("completion")]).ok


def test_columns_and_turns_that_are_not_trained_are_counted_by_one_process_or_two(tmp_path):
    rows = [{"messages": [*TURNS, *TURNS], "source": f"page {number}"} for number in range(1300)]
    rows[7]["messages"] = [*TURNS, {"role": "user", "content": "And a lake?"}]
    opened, policies = read_rows(write_jsonl(tmp_path / "rows.jsonl", rows)), [trained_tokens("completion,turns=last")]
    found = check_masks(opened, build("chatml"), policies)
    report = found.reports[0]
    assert (report.rows, report.turns, report.turns_without_loss, report.unread) == (1300, 2599, 1299, ["source"])
    assert check_masks(opened, build("chatml"), policies, processes=2) == found


@pytest.mark.parametrize(
    ("policy", "unread"), [("completion", ["reasoning_content"]), ("trl", ["reasoning_content", "weight"])]
)
def test_keys_of_turns_that_change_nothing_are_named(tmp_path, policy, unread):
    turn = {**TURNS[1], "reasoning_content": "A long one.", "weight": 0}
    rows = read_rows(write_jsonl(tmp_path / "rows.jsonl", [{"messages": [*TURNS, TURNS[0], turn]}]))
    (report,) = check_masks(rows, build("chatml"), [trained_tokens(policy)]).reports
    assert report.unread == [f"messages.{key}" for key in unread]


@pytest.mark.parametrize(
    "policy", ["completion", "trl", "openai", "axolotl", "llamafactory,formatting=sharegpt", "swift"]
)
@pytest.mark.parametrize("column", ["audios", "video"])
def test_rows_with_sound_or_films_are_not_scored_by_their_text_alone(tmp_path, policy, column):
    rows = read_rows(write_jsonl(tmp_path / "rows.jsonl", [{"messages": TURNS, column: ["boat.mp4"]}]))
    (report,) = check_masks(rows, build("chatml"), [trained_tokens(policy)]).reports
    assert (report.trained_rows, report.not_trained) == (0, {"not_text": 1})


def test_the_command_exits_with_3_where_something_is_not_trained(tmp_path, tiny_folder, command: Command):
    path, alone = write_jsonl(tmp_path / "rows.jsonl", ROWS), tmp_path / "tokenizer"
    load_tokenizer(str(tiny_folder)).save_pretrained(alone)
    said = command("doctor", path, "-m", alone, "--trainer", "completion", "--trainer", "trl", "--json")
    assert said.code == 3
    assert json.loads(said.out)["differing"] == 3
    page = tmp_path / "page.html"
    shown = command("doctor", path, "-m", tiny_folder, "--trainer", "trl", "--page", page)
    assert shown.code == 0
    assert "<mark>" in page.read_text()
    assert "trains every token, the prompts included" in shown.out


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("trll", "No trainer is named 'trll'"),
        ("trl,truncation", "'truncation' is no option=value"),
        ("trl,assistant_only=true", r"assistant_only.*\nOptions of trl: assistant_only_loss"),
        ("trl,assistant_only_loss=often", "assistant_only_loss: Input should be a valid boolean"),
    ],
)
def test_a_wrong_trainer_or_option_is_named(named, said):
    with pytest.raises(RipcurrentError, match=said):
        trained_tokens(named)


@pytest.mark.parametrize(
    ("changes", "said"), [({"labels": [-100] * 3}, "no_loss_tokens"), ({"attention_mask": [0, 1, 1]}, None)]
)
def test_tokenized_rows_are_as_they_are_or_refused(tmp_path, changes, said):
    row = {"input_ids": [1, 2, 3], "labels": [-100, 2, 3]}
    rows = read_rows(write_jsonl(tmp_path / "rows.jsonl", [{**row, **changes}]))
    assert rows.format == "tokenized"
    report = check_masks(rows, build("chatml"), [trained_tokens("completion")]).reports[0]
    assert report.not_trained == ({} if said is None else {said: 1})
    assert report.trained_tokens == (1 if said is None else 0)


SYSTEM = "<|im_start|>system\nBe brief.<|im_end|>\n"
ROUND = "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (SYSTEM + ROUND * 3, None),
        ((SYSTEM + ROUND) * 2, "begins a conversation"),
        ("The tide.<|im_end|>The boats.<|im_end|>", "<|im_end|>, which ends a text"),
        ("<|im_end|><|im_end|>The tide.<|im_end|>", None),
    ],
)
def test_packed_tokens_are_seen_where_no_token_begins_a_text(text, said):
    tokenizer = deepcopy(build("chatml"))
    tokenizer.bos_token, tokenizer.eos_token = None, "<|im_end|>"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    row = {"input_ids": ids, "labels": [-100, *ids[1:]]}
    if said is None:
        assert trained_tokens("tokenized").label(row, tokenizer, 512).ids == ids
    else:
        with pytest.raises(RipcurrentError, match=re.escape(said)):
            trained_tokens("tokenized").label(row, tokenizer, 512)
        # each token is at a place of one example, as its trainer says
        placed = {**row, "position_ids": list(range(len(ids)))}
        assert trained_tokens("tokenized").label(placed, tokenizer, 512).ids == ids


def test_why_the_template_refuses_a_row_is_said(tmp_path):
    rows = read_rows(write_jsonl(tmp_path / "rows.jsonl", [{"messages": [*TURNS, TURNS[1]]}]))
    for policy in ("completion", "trl"):
        (report,) = check_masks(rows, build("llama2"), [trained_tokens(policy)]).reports
        assert (report.not_trained, report.mismatch) == ({"template_mismatch": 1}, "roles must alternate")


def test_a_turn_of_half_a_weight_is_refused_and_not_taken_for_a_whole_one(tmp_path):
    rows = [{"messages": [*TURNS[:1], {**TURNS[1], "weight": weight}]} for weight in (0.5, 1.0, "0")]
    opened = read_rows(write_jsonl(tmp_path / "rows.jsonl", rows))
    (report,) = check_masks(opened, build("chatml"), [trained_tokens("completion")]).reports
    assert (report.trained_rows, report.not_trained) == (1, {"weight_not_held": 2})
