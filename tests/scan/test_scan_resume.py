"""A scan that was stopped goes on where it was; one that is finished stays, and may gain its rows' token shares."""

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import ripcurrent as rc
from ripcurrent.errors import RipcurrentError
from ripcurrent.models import load_model
from ripcurrent.progress import SilentProgress
from ripcurrent.scan import Part, ScanOptions, ScanRun, _scan, _tokens, scan
from tests.models.test_adapter import save_adapter
from tests.models.tiny import save_tiny
from tests.scan_fixtures import good_rows, small_shards, table_of, write_jsonl


class Counting(SilentProgress):
    """Counts rows computed and rows found done, and stops the scan when told to."""

    computed = found = 0

    def __init__(self, stop_after: int = 10**9) -> None:
        self.steps: list[str] = []
        self._stop_after = stop_after

    def step(self, name: str) -> None:
        self.steps.append(name)

    def start(self, name: str, total: int, unit: str = "rows") -> None:
        self.steps.append(name)

    def rows(self, count: float) -> None:
        self.computed += 0 if "anchor" in self.steps[-1] else int(count)
        if self.computed >= self._stop_after:
            raise KeyboardInterrupt

    def skipped(self, count: int) -> None:
        self.found += count


@pytest.mark.parametrize("stop_after", [1, 9, 22])
def test_stopped_by_ctrl_c_it_resumes_to_the_same_bytes(tmp_path, small_options, stop_after):
    dataset, out = write_jsonl(tmp_path / "rows.jsonl", good_rows(22)), tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        scan(dataset, out, progress=Counting(stop_after), **small_options)
    assert not (out / "scores.parquet").exists()
    assert not (out / "manifest.json").exists()
    kept = {path: path.stat().st_mtime_ns for path in (out / "signals").glob("*.parquet")}
    # as if it had died while writing, too
    (out / "signals").mkdir(exist_ok=True)
    (out / "signals" / f"shard-{len(kept):05d}.parquet.part").write_bytes(b"PAR1 torn")
    told = Counting()
    resumed = scan(dataset, out, progress=told, **small_options)
    assert (told.found, told.computed) == (4 * len(kept), 22 - 4 * len(kept))
    assert resumed.manifest.timings["rows_scored_in_this_call"] == told.computed
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert not list(out.rglob("*.part"))
    whole = scan(dataset, tmp_path / "whole", **small_options)
    assert resumed.scores_path.read_bytes() == whole.scores_path.read_bytes()
    # finished and given again, nothing is computed and the record stays
    told, (table, *_) = Counting(), sorted((out / "signals").glob("*.parquet"))
    written = table.stat().st_mtime_ns
    assert scan(dataset, out, progress=told, **small_options).manifest == resumed.manifest
    assert (told.computed, told.found, table.stat().st_mtime_ns) == (0, 22, written)


def rewritten(dataset: Path) -> None:
    write_jsonl(dataset, [{**row, "response": "Other."} for row in good_rows(12)])


@pytest.mark.parametrize(
    ("touch", "stop_after", "ends", "kept"),
    [
        (rewritten, 99, RipcurrentError, 0),
        (rewritten, 9, KeyboardInterrupt, 0),
        # that it cannot be read for a while costs nothing
        (lambda dataset: dataset.unlink(missing_ok=True), 9, KeyboardInterrupt, 8),
    ],
    ids=["changed", "changed and stopped", "gone and stopped"],
)
def test_of_a_dataset_that_changes_while_it_is_scanned_no_shard_is_kept(
    touch, stop_after, ends, kept, tmp_path, small_options
):
    dataset, told = write_jsonl(tmp_path / "rows.jsonl", good_rows(12)), Counting()

    class Edits(Counting):
        def rows(self, count: int) -> None:
            touch(dataset)
            super().rows(count)

    with pytest.raises(ends) as caught:
        scan(dataset, tmp_path / "out", progress=Edits(stop_after), **small_options)
    if isinstance(caught.value, RipcurrentError):
        assert "no longer what it was when the scan began" in caught.value.message
        assert "another --out" in caught.value.hint
    assert not (tmp_path / "out" / "scores.parquet").exists()
    # put back, the same command scores again what may be of the other content
    write_jsonl(dataset, good_rows(12))
    found = scan(dataset, tmp_path / "out", progress=told, **small_options)
    assert (told.found, told.computed) == (kept, 12 - kept)
    assert found.status_counts() == {"ok": 12}


def test_token_shares_that_run_out_of_memory_name_their_row(rows_file, small_options, tmp_path, monkeypatch):
    monkeypatch.setattr(_tokens, "_shares", lambda *arguments: (_ for _ in ()).throw(MemoryError("out of memory")))
    with pytest.raises(RipcurrentError, match=r"The token shares of row \d+ do not fit into memory"):
        scan(rows_file, tmp_path / "out", tokens="top:2", **small_options)
    # the scores are there
    assert ScanRun.open(tmp_path / "out").ranked().size


def test_scans_that_need_the_same_directions_at_once_compute_them_once(tmp_path, small_options, rows_file, monkeypatch):
    monkeypatch.setenv("RIPCURRENT_CACHE", str(tmp_path / "cache"))
    told = [Counting(), Counting()]
    # transformers itself does not load models in two threads at once; users' scans are processes
    loading = threading.Lock()

    def load_alone(*names: Any, **options: Any) -> Any:
        with loading:
            return load_model(*names, **options)

    monkeypatch.setattr(import_module("ripcurrent.scan._scan_model"), "load_model", load_alone)

    def one(number: int) -> bytes:
        run = scan(rows_file, tmp_path / f"out{number}", progress=told[number], **small_options)
        return run.scores_path.read_bytes()

    with ThreadPoolExecutor(2) as both:
        first, second = both.map(one, range(2))
    assert sorted("comparing the anchors" in counting.steps for counting in told) == [False, True]
    assert first == second


@pytest.mark.parametrize("lost", ["measured.json", "harmful.safetensors"], ids=["killed scan", "cleaner"])
def test_a_cache_of_which_a_part_is_missing_is_completed(tmp_path, small_options, rows_file, monkeypatch, lost):
    monkeypatch.setenv("RIPCURRENT_CACHE", str(tmp_path / "cache"))
    whole = scan(rows_file, tmp_path / "a", **small_options)
    (folder,) = (tmp_path / "cache" / "directions").iterdir()
    (folder / lost).unlink()
    if lost == "measured.json":
        (folder / "harmful.safetensors").write_bytes(b"torn")
    again = scan(rows_file, tmp_path / "b", **small_options)
    assert again.scores_path.read_bytes() == whole.scores_path.read_bytes()


def test_a_cache_that_is_cleaned_while_rows_are_scored_loses_none(rows_file, anchors_file, tmp_path, monkeypatch):
    monkeypatch.setenv("RIPCURRENT_CACHE", str(tmp_path / "cache"))
    how = small_shards(save_tiny(tmp_path / "model", "llama_tied", seed=5), anchors_file)
    run_shards = _scan.run_shards

    def cleaned(*arguments: Any) -> Any:
        computed = run_shards(*arguments)
        shutil.rmtree(tmp_path / "cache" / "directions")
        return computed

    with monkeypatch.context() as patch:
        patch.setattr(_scan, "run_shards", cleaned)
        run = scan(rows_file, tmp_path / "run", **how)
        assert run.status_counts()["ok"]
        # what needs them once more says what to do
        with pytest.raises(RipcurrentError, match="the cache was cleaned while it was needed"):
            scan(rows_file, tmp_path / "run", **how, tokens="top:2")
    assert (tmp_path / "run" / "anchors" / "directions.json").is_file()
    assert scan(rows_file, tmp_path / "run", **how, tokens="top:2").manifest.tokens


@pytest.fixture(scope="module")
def scored(exact, tmp_path_factory) -> ScanRun:
    """A finished scan of twelve good rows, without shares."""
    folder = tmp_path_factory.mktemp("scored")
    return scan(write_jsonl(folder / "rows.jsonl", good_rows(12)), folder / "out", shard_rows=4, **exact)


@pytest.fixture
def out(scored, tmp_path) -> Path:
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
