"""Token shares of a scan's extreme rows: they add up to the scores, and a second pass goes on where it stopped."""

import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import ripcurrent as rc
from ripcurrent.cli import run
from ripcurrent.errors import ExitCode, RipcurrentError
from ripcurrent.scan import Part, ScanRun, scan
from ripcurrent.scan._options import ScanOptions
from tests.models.test_adapter import save_adapter
from tests.models.tiny import save_tiny
from tests.scan.test_scan_resume import Counting, options_for
from tests.scan_fixtures import table_of
from tests.tiny_scan import good_rows, write_jsonl


@pytest.fixture(scope="module")
def rows_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve good rows."""
    return write_jsonl(tmp_path_factory.mktemp("rows") / "rows.jsonl", good_rows(12))


@pytest.fixture(scope="module")
def scored(rows_file: Path, tiny_folder: Path, anchors_file: Path, tmp_path_factory: pytest.TempPathFactory) -> ScanRun:
    """Their finished scan, without shares."""
    return scan(rows_file, tmp_path_factory.mktemp("scored") / "out", **options_for(tiny_folder, anchors_file))


@pytest.fixture
def out(scored: ScanRun, tmp_path: Path) -> Path:
    """A copy of its folder."""
    return shutil.copytree(scored.folder, tmp_path / "out")


@pytest.fixture(scope="module")
def in_one_go(
    rows_file: Path, tiny_folder: Path, anchors_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> pa.Table:
    """The shares of their four riskiest and four most protective rows, two rows a shard."""
    options = options_for(tiny_folder, anchors_file, tokens="top:4")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(import_module("ripcurrent.scan._tokens"), "SHARD_ROWS", 2)
        return check_sums(scan(rows_file, tmp_path_factory.mktemp("whole") / "out", **options))


def check_sums(result: ScanRun) -> pa.Table:
    """Every chosen row's shares add up to its dots, as the scores have them; returns the shares."""
    shares, scores = rc.load_tokens(result.folder), table_of(result)
    for row in shares["row"].unique().to_pylist():
        own = shares.filter(pa.compute.equal(shares["row"], row))
        norm = scores["gradient_norm"][row].as_py()
        assert own["position"].to_pylist() == list(range(len(own)))
        assert len(own) == scores["prompt_tokens"][row].as_py() + scores["response_tokens"][row].as_py()
        for side in ("harmful", "safe"):
            values = own[f"share_{side}"].to_numpy()
            dot = scores[f"gradient_{side}"][row].as_py() * norm
            assert values.sum() == pytest.approx(dot, rel=1e-4, abs=1e-6 * norm)
            # a sum that agrees because all of it lies at one position would say nothing about the others
            assert np.count_nonzero(values) > len(values) // 2
    assert result.manifest.tokens["largest_difference"] < 1e-5
    return shares


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("llama_tied", {}),
        ("gpt2", {}),
        ("llama_untied", {}),
        ("qwen3", {"scope": "linear"}),
        ("llama_tied", {"scope": "lora"}),
        ("llama_tied", {"scope": "lora", "adapter": True}),
        ("llama_tied", {"adapter": True, "row_tokens": 3}),
    ],
    ids=["tied", "gpt2", "untied with biases", "linear", "fresh lora", "adapter", "merged adapter, first tokens"],
)
def test_shares_add_up_to_the_scores(
    kind: str, options: dict[str, Any], tmp_path: Path, shared_cache: Path, anchors_file: Path
) -> None:
    model = save_tiny(tmp_path / "model", kind)
    if options.get("adapter"):
        options = options | {"adapter": str(save_adapter(tmp_path / "adapter"))}
    dataset = write_jsonl(tmp_path / "rows.jsonl", good_rows(7))
    options = options_for(model, anchors_file, tokens="top:2,bottom:1", max_tokens=400, **options)
    result = scan(dataset, tmp_path / "out", **options)
    shares, scores = rc.load_tokens(result.folder), table_of(result)
    if options.get("row_tokens") is None:
        check_sums(result)
    assert result.manifest.tokens["largest_difference"] < 1e-5
    ranked = np.argsort(-scores["gradient_bidirectional"].to_numpy())
    groups = {row: group for row, group in zip(*(shares[name].to_pylist() for name in ("row", "group")), strict=True)}
    assert groups == {ranked[0]: "riskiest", ranked[1]: "riskiest", ranked[-1]: "protective"}


def test_a_finished_scan_gains_shares_without_scoring_again(
    rows_file: Path, scored: ScanRun, out: Path, tiny_folder: Path, anchors_file: Path
) -> None:
    options = options_for(tiny_folder, anchors_file)
    with pytest.raises(RipcurrentError, match="holds no token shares"):
        rc.load_tokens(out)
    kept = {path: path.stat().st_mtime_ns for path in (out / "signals").iterdir()}
    expected = ((2, 12, 4), (3, 12 + 4, 2), (2, 12 + 4, 0))
    for number, found, computed in expected:
        told = Counting()
        result = scan(rows_file, out, progress=told, tokens=f"top:{number}", **options)
        assert (told.found, told.computed) == (found, computed)
        assert len(check_sums(result)["row"].unique()) == 2 * number
    assert result.scores_path.read_bytes() == scored.scores_path.read_bytes()
    assert {path: path.stat().st_mtime_ns for path in (out / "signals").iterdir()} == kept
    assert result.manifest.timings == scored.manifest.timings

    without = scan(rows_file, out, **options)
    assert without.manifest.tokens == result.manifest.tokens
    assert len(rc.load_tokens(out)["row"].unique()) == 4


@pytest.mark.parametrize("stop_after", [1, 5, 8])
def test_a_stopped_second_pass_goes_on_to_the_same_table(
    stop_after: int,
    rows_file: Path,
    out: Path,
    in_one_go: pa.Table,
    tiny_folder: Path,
    anchors_file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(import_module("ripcurrent.scan._tokens"), "SHARD_ROWS", 2)
    options = options_for(tiny_folder, anchors_file, tokens="top:4")
    with pytest.raises(KeyboardInterrupt):
        scan(rows_file, out, progress=Counting(stop_after), **options)
    assert not (out / "tokens.parquet").exists()
    # as if it had died while writing, too
    (out / "tokens").mkdir(exist_ok=True)
    (out / "tokens" / "shard-00009.parquet.part").write_bytes(b"PAR1 torn")
    (out / "tokens.parquet.part").write_bytes(b"PAR1 torn")
    told = Counting()
    resumed = scan(rows_file, out, progress=told, **options)
    assert told.computed == 8 - stop_after // 2 * 2
    assert check_sums(resumed).equals(in_one_go)


def test_shares_of_a_scan_in_parts(rows_file: Path, tmp_path: Path, tiny_folder: Path, anchors_file: Path) -> None:
    options = options_for(tiny_folder, anchors_file)
    for index in range(2):
        scan(rows_file, tmp_path / "out", part=Part(index, 2), **options)
    told = Counting()
    check_sums(scan(rows_file, tmp_path / "out", progress=told, tokens="top:1", **options))
    assert told.computed == 2


@pytest.mark.parametrize("value", ["500", "top", "top:0", "top:-1", "top:1,top:2", "most:5", "", "top:5;bottom:5"])
def test_a_choice_that_names_no_rows_is_one_error_with_every_form(value: str) -> None:
    with pytest.raises(RipcurrentError) as error:
        ScanOptions(tokens=value)
    assert repr(value) in error.value.message
    assert all(form in error.value.hint for form in ("top:500 ", "top:500,bottom:100", "bottom:100"))


def test_the_command_says_it_before_reading_anything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["scan", str(tmp_path / "absent.jsonl"), "--tokens", "some"]) == ExitCode.USAGE
    shown = capsys.readouterr().err
    assert "--tokens 'some' names no rows." in " ".join(shown.split())
    assert "Traceback" not in shown


def test_more_rows_than_there_are_gives_each_end_its_half(
    rows_file: Path, out: Path, tiny_folder: Path, anchors_file: Path
) -> None:
    result = scan(rows_file, out, tokens="top:500", **options_for(tiny_folder, anchors_file))
    assert result.manifest.tokens["rows"] == {"protective": 6, "riskiest": 6}
    assert len(rc.load_tokens(result.folder)["row"].unique()) == 12
