"""Gate on scans of a tiny model: what is added, what is scored again, verdicts, bad input, what it leaves, examples."""

import json
import shlex
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml

import ripcurrent as rc
from tests.cli.command import judge
from tests.golden.small import write_jsonl
from tests.scan_fixtures import good_rows

ROWS = good_rows(160)
EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def how(exact):
    return {**exact, "signals": "representation"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory, how):
    """A scan of all rows."""
    folder = tmp_path_factory.mktemp("whole")
    return rc.scan(write_jsonl(folder / "rows.jsonl", ROWS), folder / "run", **how)


def scored(command):
    """Options of the tiny model, and of the quicker score."""
    return [*command._tiny, *command._anchors, "--signals", "representation"]


def trained(folder):
    recipe = folder / "r.yaml"
    recipe.write_text("method: lora\nr: 2\nlearning_rate: 1.0e-2\nbatch: 8\nsteps: 1\n")
    return recipe


def files(folder, new, old):
    return [write_jsonl(folder / f"{name}.jsonl", [ROWS[n] for n in at]) for name, at in (("new", new), ("old", old))]


def test_only_rows_that_are_new_are_scored_and_the_scores_are_those_of_one_scan(tmp_path, how, whole):
    new, old = files(tmp_path, [*range(90, 120), 5, 6, 110], [*range(100), 3])
    found = rc.gate(new, old, tmp_path / "out", **how).manifest
    assert (found.added.rows, found.added.different, found.reference.different) == (33, 20, 100)
    assert found.scored_now == 120
    assert any("12 rows of NEW are in OLD. Repeats left out: 1 in NEW, 1 in OLD" in note for note in found.notes)
    scores = whole.scores("representation_bidirectional")
    assert [one.score for one in found.riskiest] == pytest.approx(sorted(scores[100:120], reverse=True)[:5], abs=1e-5)
    top = found.riskiest[0]
    assert (top.prompt, top.response) == tuple(json.loads(new.read_text().splitlines()[top.row]).values())
    assert top.percentile == pytest.approx(np.mean(scores[:100] < top.score))
    again = rc.gate(new, old, tmp_path / "out", **how).manifest
    assert (again.scored_now, again.comparison, again.riskiest) == (0, found.comparison, found.riskiest)
    # the set has grown, in another order and format, and only what was never seen is scored
    lines = [{"instruction": one["prompt"], "output": one["response"]} for one in reversed(ROWS[:123])]
    grown = write_jsonl(tmp_path / "grown.jsonl", lines)
    assert rc.gate(grown, old, tmp_path / "out", **how).manifest.scored_now == 3


def test_riskier_rows_are_worse_others_are_not_and_few_cannot_tell(tmp_path, how, whole):
    ranked, shuffled = whole.ranked().tolist(), np.random.default_rng(5).permutation(160).tolist()
    for name, new, options, verdict in (
        ("top", ranked[:40], {}, "worse"),
        ("any", shuffled[:40], {"must_see": "60%"}, "ok"),
        ("few", shuffled[:8], {}, "cannot tell"),
    ):
        (folder := tmp_path / name).mkdir()
        paths = files(folder, new, sorted(set(range(160)) - set(new)))
        run = rc.gate(*paths, folder / "out", **how, **options)
        assert run.manifest.verdict == verdict, run.manifest.headline
        # the scan of what was there before serves as well as its rows
        scanned = rc.scan(paths[1], folder / "scan", **how)
        other = rc.gate(paths[0], scanned.folder, folder / "other", **options).manifest
        assert (other.comparison, other.scored_now) == (run.manifest.comparison, len(new))


def test_bad_input(tmp_path, how, whole, command):
    new, old = files(tmp_path, range(3), range(100))
    added, empty, blank = (tmp_path / f"{name}.jsonl" for name in ("added", "empty", "blank"))
    write_jsonl(added, good_rows(163)[160:])
    write_jsonl(blank, [{"prompt": "no answer", "response": ""}])
    empty.write_text("")
    out = tmp_path / "out"
    tiny = scored(command)
    for given, says, code in (
        ([new, "--against", old, *tiny], ("holds no row that", "--against"), 1),
        ([empty, "--against", old], ("empty.jsonl",), 1),
        ([added, "--against", whole.folder, "-m", "other"], ("was scanned with --model", "Nothing is lost"), 1),
        ([added, "--against", whole.folder, "--device", "cpu", "--dtype", "bfloat16"], ("--dtype float32",), 1),
        ([added, "--against", tmp_path / "none"], ("none",), 1),
        ([added, "--against", old, "--alpha", "5"], ("--alpha 5 is not possible",), 1),
        ([added, "--against", old, "--by", "loss", *tiny], ("'loss' says nothing of risk", "--by"), 1),
        ([added, "--against", blank, *tiny], ("No row of", "has a score", "doctor"), 2),
        ([blank, "--against", old, *tiny], ("No row of", "has a score"), 2),
        ([added, "--against", old, *tiny, "--max-tokens", "64"], ("holds another run", "max_tokens"), 1),
        ([added, "--against", old, *tiny, "--level", "check"], ("no recipe says how",), 1),
    ):
        judge(command("gate", *given, "-o", out, "--quiet"), says, code)


def test_a_scan_by_other_weights_under_the_same_name_is_refused_and_nothing_is_lost(tmp_path, how, whole):
    from tests.models.tiny import save_tiny

    model = save_tiny(tmp_path / "model", "llama_tied")
    new, old = files(tmp_path, range(100, 110), range(100))
    scan = rc.scan(old, tmp_path / "scan", **{**how, "model": str(model)})
    save_tiny(tmp_path / "model", "llama_tied", seed=1)
    with pytest.raises(rc.RipcurrentError, match="its model had other content"):
        rc.gate(new, scan.folder, tmp_path / "out")
    assert rc.gate(new, old, tmp_path / "out", **{**how, "model": str(model)}).manifest.scored_now == 100
    old.unlink()
    with pytest.raises(rc.RipcurrentError, match="Put those rows back"):
        rc.gate(new, scan.folder, tmp_path / "out")


def test_the_command_leaves_its_verdict_for_people_and_machines(tmp_path, whole, command):
    at = whole.ranked().tolist()
    new, old = files(tmp_path, at[:40], at[40:])
    given = ["gate", new, "--against", old, "-o", tmp_path / "out", *scored(command)]
    said = command(*given, "--junit", tmp_path / "j.xml", "--summary", tmp_path / "s.md")
    assert (said.code, "WORSE" in said.out, "Riskiest added rows" in said.out) == (3, True, True)
    printed = json.loads(command(*given, "--json").out)
    keys = {"verdict", "statistic", "p", "false_alarm_rate", "minimum_detectable", "added", "reference"}
    assert keys <= printed.keys()
    assert (printed["verdict"], printed["false_alarm_rate"], printed["p"] <= 0.05) == ("worse", 0.05, True)
    suite = ElementTree.parse(tmp_path / "j.xml").getroot()
    assert (suite.get("failures"), suite.find("testcase/failure") is not None) == ("1", True)
    summary = (tmp_path / "s.md").read_text()
    assert "gate: WORSE" in summary
    assert f"`{ROWS[at[0]]['prompt']}`" in summary


def test_level_check_trains_the_added_rows_alone(tmp_path, command):
    new, old = files(tmp_path, range(8), range(4))
    asked = write_jsonl(tmp_path / "prompts.jsonl", [{"prompt": f"request {n}", "axis": "harmful"} for n in range(4)])
    given = ["gate", new, "--against", old, "-o", tmp_path / "out", *command._tiny, "--level", "check"]
    said = command(*given, "--recipe", trained(tmp_path), "--prompts", asked, "--json")
    printed = json.loads(said.out)
    assert {0: "ok", 3: "worse", 4: "cannot tell"}[said.code] == printed["verdict"]
    assert any("1 training of 4 rows" in note for note in printed["notes"])
    (rows,) = (tmp_path / "out" / "checks").glob("*.rows.jsonl")
    assert [json.loads(line) for line in rows.read_text().splitlines()] == ROWS[4:8]


def test_the_examples_commands_run(tmp_path, monkeypatch, command, tiny_folder, anchors_file):
    steps = yaml.safe_load((EXAMPLES / "github-action.yml").read_text())["jobs"]
    lines = [step["run"] for job in steps.values() for step in job["steps"] if "run" in step]
    (hook,) = yaml.safe_load((EXAMPLES / "pre-commit.yml").read_text())["repos"][0]["hooks"]
    lines.append(shlex.split(hook["entry"])[2].split("&&")[1])
    monkeypatch.chdir(tmp_path)
    for file, count in (("data/train.jsonl", 30), ("old.jsonl", 20), (".git/old.jsonl", 20)):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        write_jsonl(tmp_path / file, ROWS[:count])
    values = {
        "MODEL": str(tiny_folder),
        "GITHUB_STEP_SUMMARY": "s.md",
        "GITHUB_RUN_ID": "1",
        "lora": str(trained(tmp_path)),
    }
    shorter = {"gate": ["--anchors", anchors_file, "--no-anchor-check"], "check": ["-n", "2", "--max-new-tokens", "4"]}
    ran = []
    for line in lines:
        for name, value in values.items():
            line = line.replace(f"${name}", value).replace(f"--recipe {name}", f"--recipe {value}")
        words = shlex.split(line.replace("Qwen/Qwen2.5-0.5B-Instruct", str(tiny_folder)))
        if words[0] == "ripcurrent":
            said = command(*words[1:], *shorter[words[1]], "--device", "cpu", "--dtype", "float32")
            assert said.code in (0, 3, 4), said.err
            ran.append(words[1])
    assert ran == ["gate", "check", "gate"]
    assert Path("s.md").read_text().count("### ripcurrent") == 2
