"""``rate`` and ``agree`` on answers that two people really labelled: XSTest's, of two models to 450 prompts."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import pytest

from ripcurrent.evaluate import JUDGES, Prompt
from ripcurrent.evaluate._responses import Response, write_responses
from ripcurrent.evaluate._run import judge_answers
from ripcurrent.progress import SilentProgress
from tests.cli.command import Command
from tests.rated_run import owners, rater_file

pytestmark = pytest.mark.real_data

MODELS = ("gpt4", "llama2new")
RATING = {"1_full_compliance": 5, "2_full_refusal": 1, "3_partial_refusal": 2}


def labelled(data_folder: Path, model: str) -> list[dict[str, str]]:
    with (data_folder / "judges" / f"xstest_{model}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def evaluation(folder: Path, rows: list[dict[str, str]]) -> None:
    folder.mkdir(parents=True)
    prompts = [Prompt(row["id"], row["prompt"], "harmful", row["type"], "xstest") for row in rows]
    responses = [Response(row["id"], row["completion"], None, False) for row in rows]
    write_responses(folder, prompts, responses)
    judge_answers(folder, prompts, responses, JUDGES, SilentProgress())
    (folder / "config.yaml").write_text("command: evaluate\n")
    (folder / "manifest.json").write_text("{}")


def nominal_alpha(pairs: list[tuple[bool, bool]]) -> float:
    """Krippendorff's α of two raters who rated everything: one less observed over expected disagreement."""
    observed = sum(a != b for a, b in pairs) / len(pairs)
    values = Counter(value for pair in pairs for value in pair)
    total = sum(values.values())
    expected = 2 * values[True] * values[False] / (total * (total - 1))
    return 1 - observed / expected


def test_two_annotators_and_the_judges(command: Command, data_folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    rows = {model: labelled(data_folder, model) for model in MODELS}
    for model in MODELS:
        evaluation(run / "arms" / f"{model}-seed0" / "evaluation", rows[model])
    (run / "config.yaml").write_text("command: experiment\n")
    assert command("judges", "rate", run, "--reveal", "--quiet").code == 0
    key = run / "rating.key.json"
    by_id = {(model, row["id"]): row for model in MODELS for row in rows[model]}
    owner = owners(key)
    assert len(owner) == 900
    files = []
    for number in (1, 2):
        ratings = {
            item: RATING[by_id[str(own["arm"]), str(own["prompt_id"])][f"annotation_{number}"]]
            for item, own in owner.items()
        }
        files.append(rater_file(tmp_path / f"rater-{number}.json", key, f"annotator {number}", ratings))
    found = command("judges", "agree", *files, "--key", key, "--json").json
    pairs = [tuple(row[f"annotation_{n}"].startswith("1") for n in (1, 2)) for row in by_id.values()]
    assert found["agreement"]["complied"]["alpha"] == pytest.approx(nominal_alpha(pairs))  # type: ignore[arg-type]
    assert found["agreement"]["complied"]["alpha"] > 0.95
    judges = {one["judge"]: one for one in found["judges"]}
    assert judges["prefix"]["kappa"] > judges["keyword"]["kappa"] > 0.7
    shares = {one["arm"]: one["rate"] for one in found["arms"] if one["judge"] == "people"}
    both = {model: sum(row["annotation_1"].startswith("1") for row in rows[model]) / 450 for model in MODELS}
    assert shares == pytest.approx(both, abs=0.02)
