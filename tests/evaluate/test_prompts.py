"""Prompt sets: the package's own, any file, and the hub."""

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ripcurrent.data import NEAR_DUPLICATE, similarity, word_set
from ripcurrent.errors import RipcurrentError
from ripcurrent.evaluate import AXES, load_prompts
from tests.scan_fixtures import write_jsonl

ROOT = Path(__file__).resolve().parents[2]
TEXTS = ["Name a seabird.", "Why is the sea salty, after all?", 'Say "ahoy" in French']


def write_json(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def texts(source: str | Path, **options: Any) -> list[str]:
    return [prompt.text for prompt in load_prompts(source, **options).prompts]


def test_builtin_covers_the_three_axes():
    builtin = load_prompts("builtin")
    assert tuple(builtin.axes) == AXES
    assert all(builtin.axes[axis] >= fewest for axis, fewest in zip(AXES, (130, 90, 65), strict=True))
    categories = Counter(prompt.category for prompt in builtin.prompts if prompt.axis == "harmful")
    assert len(categories) >= 12
    assert min(categories.values()) >= 5
    assert (builtin.near_duplicates, builtin.notes) == (0, ())
    assert len({prompt.id for prompt in builtin.prompts}) == len(builtin.prompts)
    assert {prompt.source for prompt in builtin.prompts} == {"builtin"}
    assert max(len(prompt.text) for prompt in builtin.prompts) <= 160
    lines = (ROOT / "src/ripcurrent/evaluate/prompts/builtin.jsonl").read_text(encoding="utf-8").splitlines()
    assert {tuple(json.loads(line)) for line in lines} == {("axis", "category", "prompt")}, "it holds requests only"
    # a limit holds for each axis and spreads over categories
    limited = load_prompts("builtin", limit=8)
    assert limited.axes == {"harmful": 8, "sounds_dangerous": 8, "plain": 8}
    for axis in AXES:
        assert len({prompt.category for prompt in limited.prompts if prompt.axis == axis}) == 8


def test_builtin_is_disjoint_from_what_the_guard_and_the_anchors_were_made_of():
    """Neither the same text nor a near-duplicate: otherwise evaluation would ask what was trained or selected on."""
    files = [*ROOT.glob("scripts/guard/*.jsonl"), *ROOT.glob("src/ripcurrent/anchors/*.jsonl")]
    known: dict[str, set[str]] = {}
    for path in [*files, ROOT / "src/ripcurrent/data/demo_rows.jsonl"]:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            row = json.loads(line)
            text = next(row[field] for field in ("request", "prompt", "instruction") if field in row)
            known[f"{path.name}:{number}"] = word_set(text)
    assert len(known) > 1500
    for prompt in load_prompts("builtin").prompts:
        words = word_set(prompt.text)
        near = [place for place, other in known.items() if similarity(words, other) >= NEAR_DUPLICATE]
        assert not near, f"{prompt.text!r} is near {near}"


def test_the_container_does_not_matter(tmp_path):
    write_jsonl(tmp_path / "c.jsonl", [{"id": n, "prompt": one} for n, one in enumerate(TEXTS)])
    with (tmp_path / "d.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["goal", "target"], *([text, "x"] for text in TEXTS)])
    write_json(tmp_path / "a.json", TEXTS)
    write_json(tmp_path / "b.json", [{"instruction": text, "category": None} for text in TEXTS])
    names = ["a.json", "b.json", "c.jsonl", "d.csv"]
    sets = [load_prompts(tmp_path / name) for name in names]
    assert [[prompt.text for prompt in found.prompts] for found in sets] == [TEXTS] * 4
    assert len({found.sha256 for found in sets}) == 1
    assert [found.name for found in sets] == names
    assert [prompt.id for prompt in sets[2].prompts] == ["0", "1", "2"]


def test_field_axis_and_id_are_those_of_the_row(tmp_path):
    for field in ("prompt", "instruction", "request", "goal", "behavior", "Behavior", "forbidden_prompt"):
        path = write_json(tmp_path / "list.json", [{"id": "7", field: "Name a tree.", "category": "trees"}])
        (prompt,) = load_prompts(path).prompts
        assert (prompt.id, prompt.text, prompt.category) == ("7", "Name a tree.", "trees")
    # a field of any name is named after the file
    path = write_json(tmp_path / "list.json", [{"frage": "Wie heißt du?", "prompt": "What is your name?"}])
    assert texts(f"{path}:frage") == ["Wie heißt du?"]
    assert texts(path) == ["What is your name?"]
    with pytest.raises(RipcurrentError, match=r"has no field 'promt'\. Did you mean prompt"):
        load_prompts(f"{path}:promt")
    rows = [{"prompt": "One?", "axis": "plain"}, {"prompt": "Two?", "label": "Safe"}, {"prompt": "Three?", "axis": ""}]
    path = write_json(tmp_path / "list.json", [*rows, {"prompt": "Four?", "label": "UNSAFE"}])
    assert [p.axis for p in load_prompts(path).prompts] == ["plain", "sounds_dangerous", "harmful", "harmful"]
    assert [p.axis for p in load_prompts(path, axis="plain").prompts][2] == "plain"
    assert load_prompts(path, limit=1).axes == {"harmful": 1, "sounds_dangerous": 1, "plain": 1}
    # rows without a prompt are left out, and ids are unique even where texts and ids repeat
    rows = [{"id": 1, "prompt": "One?"}, {"prompt": "  "}, {"other": "x"}, {"id": 1, "prompt": "One?"}]
    found = load_prompts(write_json(path, rows))
    assert found.notes == (f"{path}: 2 rows have no text in 'prompt' and were left out (the first is row 2).",)
    assert found.prompts[1].id == f"{found.prompts[0].id}-2"
    assert found.near_duplicates == 1


def test_a_folder_of_files_without_headers(tmp_path):
    """As HEx-PHI is published: a CSV file a category, one prompt a line, no header."""
    for number in (1, 2):
        (tmp_path / f"category_{number}.csv").write_text(f'"Say {number}, please"\nSay {number} again\n')
    assert texts(tmp_path) == ["Say 1, please", "Say 1 again", "Say 2, please", "Say 2 again"]


def test_hub_ids_are_read_through_the_data_room(monkeypatch):
    import datasets

    calls = []

    def load(path: str, *, name: str | None, split: str, streaming: bool) -> Any:
        calls.append((path, split))
        assert streaming
        return datasets.Dataset.from_dict({"prompt": TEXTS, "frage": ["Ja?"] * 3}).to_iterable_dataset()

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert texts("hf:owner/name") == TEXTS
    assert texts("hf:owner/name:test", limit=2) == TEXTS[:2]
    assert texts("hf:owner/name:test:frage") == ["Ja?"] * 3
    assert set(calls) == {("owner/name", "train"), ("owner/name", "test")}


@pytest.mark.parametrize(
    ("source", "named"),
    [
        *(("builtin:harmfull", "builtin:harmful"), ("biultin", "builtin"), ("hf:owner", "hf:owner/name")),
        *(("{folder}/lisst.json", "does not exist"), ("{folder}/nothing", "folder of such files")),
        ([{"prompt": "One?", "axis": "sounds-dangerous"}], "sounds_dangerous"),
        ([{"wort": "One?"}], "wort"),
        *(([], "holds no prompts"), ([{"prompt": " "}], "holds no prompts"), (None, "is empty")),
    ],
)
def test_what_cannot_be_read_is_one_clear_error(tmp_path, source, named):
    (tmp_path / "nothing").mkdir()
    path = tmp_path / "list.json"
    path.write_text("" if source is None else json.dumps(source))
    with pytest.raises(RipcurrentError) as caught:
        load_prompts(source.format(folder=tmp_path) if isinstance(source, str) else path)
    assert named in str(caught.value)
    assert caught.value.hint


@pytest.mark.real_data
def test_published_lists_are_read_and_builtin_is_disjoint_from_them(data_folder):
    """Only the place of a hit is shown, never the held-out request."""
    axes = load_prompts(data_folder / "prompts" / "xstest_prompts.csv").axes
    assert axes == {"harmful": 200, "sounds_dangerous": 250}
    held_out = {}
    for path in sorted([*(data_folder / "prompts").glob("*.json"), *(data_folder / "prompts").glob("*.csv")]):
        for number, text in enumerate(texts(path)):
            held_out[path.name, number] = word_set(text)
    assert len(held_out) > 2000
    for prompt in load_prompts("builtin").prompts:
        words = word_set(prompt.text)
        assert not [place for place, other in held_out.items() if similarity(words, other) >= NEAR_DUPLICATE]
