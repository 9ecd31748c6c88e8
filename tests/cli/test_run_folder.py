"""The run folder from the command line: unwritable, full, another run's."""

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.scan_fixtures import good_rows, write_jsonl


def test_unwritable_out(command, rows_file, tmp_path):
    (tmp_path / "file").write_text("")
    command.scan_fails(rows_file, "--out", tmp_path / "file", says=("file is a file, not a folder", "--out"))
    says = ("cannot be written", "Not a directory", "--out")
    command.scan_fails(rows_file, "--out", tmp_path / "file" / "out", says=says)
    if Path("/proc/self").exists():
        command.scan_fails(rows_file, "--out", "/proc/ripcurrent", says=("/proc/ripcurrent cannot be written",))


def test_out_that_holds_other_files_or_another_run(command, rows_file, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("")
    command.scan_fails(rows_file, "--out", tmp_path / "mine", says=("notes.txt", "no run of ripcurrent"))
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]
    out = tmp_path / "out"
    assert command.scan(rows_file, "--out", out, "--quiet").code == 0
    before = (out / "scores.parquet").read_bytes()
    says = ("holds another run", "its position is 'last', now 'last_content'", "--out")
    command.scan_fails(rows_file, "--out", out, "--position", "last_content", says=says)
    assert (out / "scores.parquet").read_bytes() == before


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Writing past ``size`` bytes of a file fails, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def test_no_room_at_any_stage_is_told_and_the_same_command_goes_on_later(command, tmp_path):
    dataset = write_jsonl(tmp_path / "rows.jsonl", good_rows(60))
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert command.scan(dataset, "--out", whole, "--quiet").code == 0
    sizes = {path.name: path.stat().st_size for path in whole.rglob("*") if path.is_file()}
    written = ("config.yaml", "shard-00000.parquet", "scores.parquet", "manifest.json", "report.html")
    named = set()
    for size in sorted(sizes[name] * 9 // 10 for name in written):
        too_large = next(name for name in written if sizes[name] > size)
        with files_of_at_most(size):
            command.scan_fails(dataset, "--out", out, says=(str(out), too_large, "written", "File too large", "space"))
        named.add(too_large)
        assert not list(out.rglob("*.part"))
        assert not list(out.rglob(too_large))
    assert {"config.yaml", "shard-00000.parquet", "report.html"} <= named
    assert command.scan(dataset, "--out", out, "--quiet").code == 0
    assert (out / "scores.parquet").read_bytes() == (whole / "scores.parquet").read_bytes()


def test_no_room_for_the_directions(command, rows_file, tmp_path, monkeypatch):
    monkeypatch.setenv("RIPCURRENT_CACHE", str(tmp_path / "cache"))
    with files_of_at_most(20_000):
        command.scan_fails(rows_file, "--out", tmp_path / "out", says=("directions", "RIPCURRENT_CACHE"))
    assert not list((tmp_path / "cache").rglob("*.part"))
    assert command.scan(rows_file, "--out", tmp_path / "out", "--quiet").code == 0
