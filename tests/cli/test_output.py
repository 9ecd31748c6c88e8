"""What commands print and where: one JSON object on stdout, progress on stderr, nothing when quiet, exit codes."""

import io
import re
import shutil
import sys
from importlib import import_module
from pathlib import Path

import pytest

from ripcurrent.cli._output import TerminalProgress, fill, harmless, shorten
from ripcurrent.runs import read_manifest
from ripcurrent.scan import scan
from tests.cli.command import judge
from tests.models.tiny import save_tiny
from tests.scan_fixtures import EXACT, good_rows, write_jsonl


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_folder, anchors_file) -> Path:
    """The folder of a finished scan of twelve rows."""
    folder = tmp_path_factory.mktemp("finished")
    rows = write_jsonl(folder / "rows.jsonl", good_rows(12))
    return scan(rows, folder / "out", model=str(tiny_folder), anchors=str(anchors_file), **EXACT).folder


@pytest.fixture
def out(finished, tmp_path) -> Path:
    """A copy of it."""
    return shutil.copytree(finished, tmp_path / "out")


def test_json_is_one_object_on_stdout_progress_goes_to_stderr_and_quiet_says_nothing(command, rows_file, tmp_path):
    out = tmp_path / "out"
    said = command.scan(rows_file, "--out", out, "--json")
    assert said.code == 0
    assert said.json["rows"] == said.json["scored"] == 12
    assert "scoring rows: 12 rows" in said.err
    assert "{" not in said.err
    quiet = command.scan(rows_file, "--out", out, "--quiet")
    assert (quiet.code, quiet.out, quiet.err) == (0, "", "")
    both = command.scan(rows_file, "--out", out, "--quiet", "--json")
    assert (both.json["scored"], both.err) == (12, "")


def test_values_that_are_not_numbers_are_null_in_json_and_dashes_in_tables(command, tmp_path):
    dataset = write_jsonl(tmp_path / "rows.jsonl", good_rows(1))
    said = command.scan(dataset, "--out", tmp_path / "out", "--json")
    assert set(said.json["spearman_with_length"].values()) == {None}
    record = {"rate": 0.25, "low": float("nan"), "high": None, "seeds": (0.5, None), "of": None}
    assert fill("{rate:.0%} {low:.2f}–{high:.2f} {seeds:.1f} {of.name}", record) == "25% – 0.5 – –"


@pytest.mark.parametrize("width", [80, 120])
def test_a_scan_ends_with_what_it_found_and_the_next_commands(command, tmp_path, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.chdir(tmp_path)
    dataset = write_jsonl(tmp_path / "rows.jsonl", [*good_rows(30), {"prompt": "a", "response": ""}])
    said = command.scan(dataset, "--out", "runs/x", "--scope", "linear", "--verbose")
    assert said.code == 0
    words = " ".join(said.out.replace("\\\n", " ").split())
    for part in (
        *("rows.jsonl · 31 rows", "30 scored", "1 skipped: 1 no response", "on this model: it", "needs 0.70"),
        *(
            "Risk of this set: unknown, no reference row was scored",
            "ripcurrent scan demo --model",
            "Riskiest 6 rows: ",
        ),
        *("Tell me about", '" → "', "representation_bidirectional", "No forecast"),
        *("Left out of the gradients:", "embed_tokens.weight", "runs/x/report.html", "select runs/x --top 5% --drop"),
        *("ripcurrent check rows.jsonl --model", "--recipe lora", "--out runs/x-check"),
    ):
        assert part in words, said.out
    assert "nan" not in said.out
    assert all(len(line) <= width or "/" in line for line in said.out.splitlines())
    assert not re.search(r"[+-]\d\.\d*…", said.out), "a number is cut"
    usual = command.scan(dataset, "--out", "runs/x", "--scope", "linear").out
    assert "gradient_" not in usual
    assert usual.count(" → ") == 6
    assert len(usual.splitlines()) < 33


def test_texts_and_paths_with_markup_are_shown_as_they_are(command, tmp_path):
    rows = [{"prompt": "[bold]\n[/x] {y} 100%", "response": "yes"}, {"prompt": "\x1b[31mred", "response": "no"}]
    out = tmp_path / "a [/b] c [dim]"
    said = command.scan(write_jsonl(tmp_path / "rows.jsonl", [*rows, *good_rows(3)]), "--out", out)
    assert said.code == 0, said.err
    assert "[bold] [/x] {y} 100%" in said.out
    assert "\x1b[31m" not in said.out
    assert str(out / "report.html") in said.out
    chosen = command("select", out, "--top", "2", "--drop")
    assert chosen.code == 0, chosen.err
    assert str(out / "selections") in chosen.out


def test_anchors_that_do_not_separate_are_told(command, rows_file, tmp_path):
    said = command.scan(rows_file, "--out", tmp_path / "out")
    separation = read_manifest(tmp_path / "out")["anchors"]["separation"]
    weak = sorted(name for name, value in separation.items() if value < 0.7)
    assert weak, "the tiny random model tells nothing apart"
    means_little = "the ranking means little on this model" in said.out
    assert means_little is ("gradient_bidirectional" in weak), "only the column that ranks is spoken of"
    assert command.scan(rows_file, "--out", tmp_path / "out", "--json").json["weak_anchors"] == weak
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert ("The score is weak on this model" in page) is means_little


def test_the_page_is_rebuilt_and_named(command, out):
    said = command("report", out, "--json")
    assert said.json == {"run": str(out), "report": str(out / "report.html")}
    assert (out / "report.html").stat().st_size > 10_000
    assert command("report", out).out == f"Page: {out / 'report.html'}\n"


def test_anchors_check_prints_a_table_and_its_exit_code_is_the_verdict(command, anchors_file, monkeypatch):
    monkeypatch.setenv("COLUMNS", "140")
    said = command("anchors", "check", anchors_file, *command._tiny)
    for part in ("Anchors anchors.jsonl", "harmful", "safe_2", "gradient_balanced", "leave-one-out AUROC"):
        assert part in said.out
    assert said.out.count("theft") == 12
    judged = re.findall(r"_(?:balanced|bidirectional): leave-one-out AUROC (\d\.\d+)", said.out)
    assert said.code == (0 if min(map(float, judged)) >= 0.7 else 2)
    builtin = command("anchors", "check", *command._tiny, "--signals", "representation", "--json", "--quiet")
    assert builtin.json["separation"]["representation_bidirectional"] < 0.7
    assert builtin.code == 2
    assert builtin.err.startswith("Error: The anchors builtin do not separate")


def test_anchors_check_takes_the_limit_that_its_error_asks_for(command, anchors_file, tmp_path):
    model = ["--model", save_tiny(tmp_path / "short", "gpt2"), "--device", "cpu", "--dtype", "float32"]
    refused = command("anchors", "check", anchors_file, *model, "--json", "--quiet")
    judge(refused, ("512 positions", "--max-tokens 512"))
    assert len(command("anchors", "check", anchors_file, *model, "--max-tokens", 512, "--json").json["anchors"]) == 12


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--singals all", ("--singals", "--signals")),
        ("--signals gradiant", ("--signals gradiant", "'gradient'")),
        ("--dtype float23", ("--dtype float23", "'bfloat16'")),
        ("--avg-n 0", ("--avg-n 0", "1")),
        ("--avg-n many", ("--avg-n many", "integer")),
        ("--max-tokens 3", ("--max-tokens 3", "8")),
        ("--seed -1", ("--seed -1", "0")),
        ("--token-budget -5", ("--token-budget -5", "16")),
        ("--row-tokens some", ("--row-tokens some", "integer")),
        ("surplus", ("surplus",)),
    ],
)
def test_options_that_do_not_exist_or_are_not_possible(command, rows_file, tmp_path, options, says):
    command.scan_fails(rows_file, *options.split(), "--out", tmp_path / "out", says=says)
    assert not (tmp_path / "out" / "scores.parquet").exists()


@pytest.mark.parametrize("words", ["scna", "scan", "scan a.jsonl --model"])
def test_a_command_that_is_not_whole(command, words):
    missing = {"scan": "DATASET"}.get(words, words.split()[-1])
    judge(command(*words.split()), (missing, "--help"))


def test_a_pipe_that_knows_only_ascii_gets_marks_and_no_traceback(command, out, monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii", write_through=True))
    assert command("report", out.rename(out.with_name("é"))).code == 0
    assert b"/?/report.html" in written.getvalue()


def test_without_a_terminal_progress_is_told_now_and_then(monkeypatch, capsys):
    for name in ("SAY_FIRST", "SAY_EVERY"):
        monkeypatch.setattr(f"ripcurrent.cli._output.{name}", 0.0)
    progress = TerminalProgress()
    progress.start("scoring rows", 8)
    progress.skipped(4)
    # a shard that begins says so; nothing is computed yet
    progress.rows(0)
    progress.rows(2)
    progress.rows(2)
    progress.start("asking", 3, "prompts")
    progress.rows(1)
    first, second, third, fourth = capsys.readouterr().err.splitlines()
    assert (first, third) == ("scoring rows: 8 rows …", "asking: 3 prompts …")
    assert re.fullmatch(r"scoring rows: 6 of 8 rows, \d+\.\d rows/s, 0 s left", second)
    assert re.fullmatch(r"asking: 1 of 3 prompts, \d+\.\d prompts/s, 0 s left", fourth)


def test_memory_that_runs_out_anywhere_is_one_error(command, rows_file, tmp_path, monkeypatch):
    def runs_out(*_: object, **__: object) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory\nmore")

    monkeypatch.setattr(import_module("ripcurrent.scan._scan"), "load_scan_model", runs_out)
    says = ("Memory ran out", "is kept", "--token-budget")
    command.scan_fails(rows_file, "--out", tmp_path / "out", code=2, says=says)


@pytest.mark.parametrize("verb", ["scan no.jsonl", "finetune no.jsonl --recipe paper", "evaluate --prompts no"])
def test_the_demos_model_is_told_where_none_was_named(command, verb):
    words = (*verb.split(), "--out", "no-run")
    line = "The model is embedded, the demo's: name yours with --model.\n"
    assert command(*words).err.startswith(line)
    assert command(*words, "--json").out == ""
    assert line not in command(*words, "--quiet").err
    assert line not in command(*words, "--model", "embedded").err


def test_the_name_at_an_endpoint_is_no_model_of_ours(command):
    endpoint = ("evaluate", "--prompts", "nowhere.jsonl", "--out", "no-run", "--endpoint", "http://localhost:9/v1")
    assert "the demo's" not in command(*endpoint, "--model", "there").err
    judge(command(*endpoint), ("--endpoint is given without --model",))
    judge(command(*endpoint, "--model", "there", "--dtype", "float32"), ("--dtype float32 is for a model here",))


def test_help_names_the_options_that_are_not_in_sight(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    assert "Further options, which docs/cli.md explains: --avg-n" in " ".join(command("scan", "--help").out.split())


def test_text_of_any_language_is_shown_and_commands_to_the_terminal_are_not():
    farsi, family = "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "\U0001f468\u200d\U0001f469"
    for text in ("Bonjour\u00a0!", "\u4eca\u65e5\u306f\u3000\u5143\u6c17", farsi, family):
        assert harmless(text) == text
    assert harmless("a\x1b[2Jb\u202ec\nd") == "a\ufffd[2Jb\ufffdc\nd"
    assert shorten("a\x1b[2J\n b\u200cc", 20) == "a [2J b\u200cc"
