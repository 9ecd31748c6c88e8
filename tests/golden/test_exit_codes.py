"""Exit codes, and errors without a traceback. 3 and 4 are with the experiment's table."""

import signal

import pytest

from tests.golden.small import Said, any_file, ripcurrent, stop_once, write_jsonl


def is_an_error(said: Said, code: int, *parts: str) -> None:
    """One message on stderr with what is wrong and where, nothing on stdout, no traceback."""
    assert said.code == code, said.err
    assert said.out == ""
    assert [line.startswith("Error: ") for line in said.err.splitlines()].count(True) == 1, said.err
    assert "Traceback" not in said.err
    for part in parts:
        assert part in said.err


@pytest.mark.parametrize(("words", "code"), [("--version", 0), ("--help", 0), ("scan --help", 0), ("", 1)])
def test_help_and_version_are_no_error_and_no_command_is_one(words, code):
    said = ripcurrent(*words.split())
    assert (said.code, said.err.strip()) == (code, "")
    assert "ripcurrent" in said.out


@pytest.mark.parametrize("words", ["scan rows.jsonl --colour", "scam", "scan --quiet nowhere.jsonl", "report nowhere"])
def test_a_word_a_file_or_a_run_that_is_not_there_is_named(words, files):
    is_an_error(ripcurrent(*words.split()), 1, words.split()[-1])


def test_rows_of_which_none_can_be_scored_are_not_measured(files, tmp_path):
    rows = write_jsonl(tmp_path / "rows.jsonl", [{"prompt": "a question", "response": ""}] * 3)
    arguments = files.scan(tmp_path / "out")
    arguments[1] = rows
    is_an_error(ripcurrent(*arguments), 2)


def test_a_scan_that_is_interrupted_says_so_and_goes_on(files, tmp_path):
    out = tmp_path / "out"
    said = stop_once(any_file(out, "signals/**/*.parquet"), signal.SIGINT, *files.scan(out))
    is_an_error(said, 130)
    assert not (out / "scores.parquet").exists()
    assert ripcurrent(*files.scan(out)).code == 0
    assert (out / "scores.parquet").is_file()
