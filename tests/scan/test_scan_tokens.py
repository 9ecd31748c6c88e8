"""Token shares of a scan's extreme rows: they add up to the scores, and a second pass goes on where it stopped."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import ripcurrent as rc
from ripcurrent.errors import RipcurrentError
from ripcurrent.scan import Part, ScanOptions, ScanRun, scan
from tests.models.test_adapter import save_adapter
from tests.models.tiny import save_tiny
from tests.scan.test_scan_resume import Counting
from tests.scan_fixtures import good_rows, table_of, write_jsonl


@pytest.fixture(scope="module")
def scored(exact: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> ScanRun:
    """A finished scan of twelve good rows, without shares."""
    folder = tmp_path_factory.mktemp("scored")
    return scan(write_jsonl(folder / "rows.jsonl", good_rows(12)), folder / "out", shard_rows=4, **exact)


@pytest.fixture
def out(scored: ScanRun, tmp_path: Path) -> Path:
    return shutil.copytree(scored.folder, tmp_path / "out")


def again(scored: ScanRun, out: Path, tokens: str | None = None, **how: Any) -> ScanRun:
    """The same scan in a folder, with shares as asked."""
    return scan(scored.manifest.dataset.path, out, scored.options, tokens=tokens, **how)


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
    ("kind", "changes"),
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
def test_shares_add_up_to_the_scores(kind, changes, tmp_path, exact):
    if changes.get("adapter"):
        changes = changes | {"adapter": str(save_adapter(tmp_path / "adapter"))}
    dataset = write_jsonl(tmp_path / "rows.jsonl", good_rows(7))
    how = exact | {"model": str(save_tiny(tmp_path / "model", kind)), "max_tokens": 400} | changes
    result = scan(dataset, tmp_path / "out", tokens="top:2,bottom:1", **how)
    shares, scores = rc.load_tokens(result.folder), table_of(result)
    if "row_tokens" not in changes:
        check_sums(result)
    assert result.manifest.tokens["largest_difference"] < 1e-5
    ranked = np.argsort(-scores["gradient_bidirectional"].to_numpy())
    groups = dict(zip(*(shares[name].to_pylist() for name in ("row", "group")), strict=True))
    assert groups == {ranked[0]: "riskiest", ranked[1]: "riskiest", ranked[-1]: "protective"}


def test_a_finished_scan_gains_shares_without_scoring_again(scored, out):
    with pytest.raises(RipcurrentError, match="holds no token shares"):
        rc.load_tokens(out)
    kept = {path: path.stat().st_mtime_ns for path in (out / "signals").iterdir()}
    # more than there are gives each end its half
    for asked, of_each, found, computed in ((2, 2, 12, 4), (500, 6, 12 + 4, 8), (2, 2, 12 + 4, 0)):
        told = Counting()
        result = again(scored, out, f"top:{asked}", progress=told)
        assert (told.found, told.computed) == (found, computed)
        assert result.manifest.tokens["rows"] == {"protective": of_each, "riskiest": of_each}
        assert len(check_sums(result)["row"].unique()) == 2 * of_each
    assert result.scores_path.read_bytes() == scored.scores_path.read_bytes()
    assert {path: path.stat().st_mtime_ns for path in (out / "signals").iterdir()} == kept
    assert result.manifest.timings == scored.manifest.timings
    assert again(scored, out).manifest.tokens == result.manifest.tokens
    assert len(rc.load_tokens(out)["row"].unique()) == 4


def test_a_stopped_second_pass_goes_on_to_the_same_table(scored, out, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        again(scored, out, "top:4", progress=Counting(5))
    assert not (out / "tokens.parquet").exists()
    # as if it had died while writing, too
    (out / "tokens" / "row-00000009.parquet.part").write_bytes(b"PAR1 torn")
    (out / "tokens.parquet.part").write_bytes(b"PAR1 torn")
    told = Counting()
    resumed = again(scored, out, "top:4", progress=told)
    assert told.computed == 8 - 5
    # and so do shares of a scan in parts
    for index in range(2):
        again(scored, tmp_path / "whole", part=Part(index, 2))
    assert check_sums(resumed).equals(check_sums(again(scored, tmp_path / "whole", "top:4")))


@pytest.mark.parametrize("value", ["500", "top", "top:0", "top:-1", "top:1,top:2", "most:5", "", "top:5;bottom:5"])
def test_a_choice_that_names_no_rows_is_one_error_with_every_form(value):
    with pytest.raises(RipcurrentError) as error:
        ScanOptions(tokens=value)
    assert repr(value) in error.value.message
    assert all(form in error.value.hint for form in ("top:500 ", "top:500,bottom:100", "bottom:100"))
