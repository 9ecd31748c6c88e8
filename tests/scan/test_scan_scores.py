"""A scan's numbers, scope by scope, against one example at a time with every gradient formed."""

import copy
import hashlib
import json
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from ripcurrent.anchors import load_anchors
from ripcurrent.data import encode, encode_anchor, read_rows
from ripcurrent.gradients import Factoring, ModelLayers, choose_factoring
from ripcurrent.models import load_model
from ripcurrent.scan import ScanOptions, ScanRun, scan
from tests.gradients.oracle import inner, row_gradient, row_loss
from tests.models.test_adapter import save_adapter
from tests.models.tiny import save_tiny
from tests.scan.explicit_scan import Explicit, cosine_to_unit, explicit
from tests.scan_fixtures import good_rows, table_of, write_jsonl

ROWS = 5


@pytest.fixture(scope="module")
def few(tmp_path_factory) -> Path:
    return write_jsonl(tmp_path_factory.mktemp("few") / "few.jsonl", good_rows(ROWS))


@pytest.fixture(scope="module")
def usual(few, exact) -> ScanRun:
    """Their scan without further options."""
    return scan(few, few.parent / "usual", **exact)


def check_gradient_columns(table: pa.Table, oracle: Explicit) -> None:
    directions = {name: oracle.mean_unit_gradient(name) for name in ("harmful", "safe_1", "safe_2")}
    norms = [inner(g, g) ** 0.5 for g, of in zip(oracle.anchor_gradients, oracle.sets, strict=True) if of == "harmful"]
    for place, gradient in enumerate(oracle.row_gradients):
        row = {name: table[name][place].as_py() for name in table.column_names}
        harmful, *safe = (cosine_to_unit(gradient, directions[name]) for name in ("harmful", "safe_1", "safe_2"))
        norm = inner(gradient, gradient) ** 0.5
        assert row["gradient_harmful"] == pytest.approx(harmful, abs=2e-5)
        assert row["gradient_safe"] == pytest.approx(np.mean(safe), abs=2e-5)
        assert row["gradient_bidirectional"] == pytest.approx(harmful - sum(safe), abs=4e-5)
        assert row["gradient_balanced"] == pytest.approx(harmful - np.mean(safe), abs=4e-5)
        assert row["gradient_norm"] == pytest.approx(norm, rel=1e-4)
        assert row["predicted_harmful_loss_change"] == pytest.approx(-norm * harmful * np.mean(norms), rel=1e-3)
        assert row["loss"] == pytest.approx(oracle.losses[place], rel=1e-4)
        assert row["loss_first_10"] == pytest.approx(oracle.first_losses[place], rel=1e-4)


def check_representation_columns(table: pa.Table, oracle: Explicit, avg_n: int) -> None:
    for place, feature in enumerate(oracle.row_features):
        found = {}
        for name in ("harmful", "safe_1", "safe_2"):
            pairs = zip(oracle.anchor_features, oracle.sets, strict=True)
            cosines = [float(feature @ anchor) for anchor, of in pairs if of == name]
            found[name] = np.mean(sorted(cosines, reverse=True)[:avg_n])
        safe = (found["safe_1"] + found["safe_2"]) / 2
        assert table["representation_harmful"][place].as_py() == pytest.approx(found["harmful"], abs=2e-5)
        assert table["representation_safe"][place].as_py() == pytest.approx(safe, abs=2e-5)
        assert table["representation_bidirectional"][place].as_py() == pytest.approx(found["harmful"] - safe, abs=4e-5)


def sha256(path: str | Path) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


@pytest.mark.parametrize(("kind", "avg_n"), [("llama_tied", 2), ("qwen2", 1), ("gpt2", 9)])
def test_all_parameters(kind, avg_n, few, tmp_path, exact):
    model = save_tiny(tmp_path / "model", kind)
    result = scan(few, tmp_path / "out", **{**exact, "model": str(model)}, avg_n=avg_n, max_tokens=400)
    oracle = explicit(few, model, exact["anchors"])
    check_gradient_columns(table_of(result), oracle)
    check_representation_columns(table_of(result), oracle, avg_n)
    assert result.manifest.left_out == []


@pytest.mark.parametrize("kind", ["llama_tied", "gpt2"])
def test_factored_directions(kind, few, tmp_path, exact, monkeypatch):
    monkeypatch.setenv("RIPCURRENT_CACHE", str(tmp_path / "cache"))
    seen: list[Factoring] = []

    def everything(layers: ModelLayers, terms: int, head_terms: int) -> Factoring:
        seen.append(choose_factoring(layers, 1, 1))
        return seen[-1]

    monkeypatch.setattr(import_module("ripcurrent.gradients._anchor_directions"), "choose_factoring", everything)
    model = save_tiny(tmp_path / "model", kind)
    options = {**exact, "model": str(model), "avg_n": 2, "max_tokens": 400}
    result = scan(few, tmp_path / "out", tokens="top:2", **options)
    assert len(seen[0].groups) >= 8
    assert seen[0].tables
    check_gradient_columns(table_of(result), explicit(few, model, exact["anchors"]))
    assert result.manifest.tokens["largest_difference"] < 1e-5
    again = scan(few, tmp_path / "again", **options)
    assert len(seen) == 2
    assert table_of(again).equals(table_of(result))


def test_scope_linear_leaves_the_rest_out_and_says_so(few, tmp_path, exact):
    result = scan(few, tmp_path / "out", scope="linear", **exact)
    check_gradient_columns(table_of(result), explicit(few, exact["model"], exact["anchors"], "linear"))
    assert {"model.embed_tokens.weight", "model.norm.weight"} <= set(result.manifest.left_out)
    assert not any("proj" in name for name in result.manifest.left_out)


def test_scope_lora_with_a_fresh_one(few, tmp_path, exact):
    result, other = (scan(few, tmp_path / str(seed), scope="lora", seed=seed, **exact) for seed in (0, 1))
    oracle = explicit(few, exact["model"], exact["anchors"], "lora")
    check_gradient_columns(table_of(result), oracle)
    assert not any(oracle.row_gradients[0][name].any() for name in oracle.row_gradients[0] if "lora_A" in name)
    assert (result.manifest.model.fresh_lora_rank, result.manifest.model.fresh_lora_seed) == (8, 0)
    assert other.manifest.seeds == {"seed": 1}
    assert not np.allclose(*(table_of(one)["gradient_norm"].to_numpy() for one in (result, other)))
    representation = [n for n in table_of(result).column_names if n.startswith("representation")]
    assert table_of(result).select(representation).equals(table_of(other).select(representation))


@pytest.mark.parametrize("scope", ["all", "lora"])
def test_an_adapter_is_merged_or_is_what_gradients_are_taken_over(scope, few, tmp_path, exact):
    adapter = save_adapter(tmp_path / "adapter")
    result = scan(few, tmp_path / "out", scope=scope, adapter=str(adapter), **exact)
    oracle = explicit(few, exact["model"], exact["anchors"], scope, adapter)
    check_gradient_columns(table_of(result), oracle)
    check_representation_columns(table_of(result), oracle, avg_n=1)
    of_a = [gradient.any() for name, gradient in oracle.row_gradients[0].items() if "lora_A" in name]
    assert any(of_a) == (scope == "lora")


def stepped(model: Any, gradient: dict[str, torch.Tensor], rate: float) -> Any:
    """A copy after one step of plain gradient descent."""
    moved = copy.deepcopy(model)
    with torch.no_grad():
        for name, parameter in moved.named_parameters():
            parameter -= rate * gradient[name].to(parameter.dtype)
    return moved


@pytest.mark.parametrize("kind", ["llama_tied", "llama_untied", "gpt2"])
def test_a_small_step_on_a_row_changes_the_openings_loss_as_forecast(kind, rows_file, tmp_path, exact):
    folder = save_tiny(tmp_path / "model", kind)
    if kind == "llama_tied":
        # PyTorch gives looked-up entries of the padding's row no gradient (docs/methods.md), though a step moves it
        # through a tied head: where it is not zero, that is less than 1 % of the change
        tensors = load_file(folder / "model.safetensors")
        tensors["model.embed_tokens.weight"][2] = tensors["model.embed_tokens.weight"][1].flip(0)
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    options = {**exact, "model": str(folder), "signals": "gradient", "max_tokens": 256, "limit": 6}
    forecast = scan(rows_file, tmp_path / "out", **options).floats("predicted_harmful_loss_change")
    chat: Any = load_model(folder, device="cpu", dtype="float32")
    # the float32 model's weights; losses in float64, since their change is small
    model = chat.model.double()
    harmful = [one for one in load_anchors(exact["anchors"]).anchors if one.set == "harmful"]
    openings = [encode_anchor(one.messages, chat.tokenizer, first_tokens=10) for one in harmful]
    gradients = [row_gradient(model, opening) for opening in openings]
    norms = np.array([inner(gradient, gradient) ** 0.5 for gradient in gradients])

    def losses(of: Any) -> np.ndarray:
        with torch.no_grad():
            return np.array([float(row_loss(of, opening)) for opening in openings])

    rows = [encode(row, chat.tokenizer) for row in read_rows(rows_file, limit=6)]
    changes, rate = [], 1e-4
    for place in np.argsort(forecast)[[0, 1, -2, -1]]:
        moved = losses(stepped(model, row_gradient(model, rows[place]), rate)) - losses(model)
        # each opening's loss weighted by mean norm / own norm: docs/methods.md, 2
        changes.append((norms.mean() / norms * moved).mean())
        assert changes[-1] / rate == pytest.approx(forecast[place], rel=0.05)
        # and the unweighted mean moves the same way
        assert moved.mean() * forecast[place] > 0
    assert min(changes) < 0


@pytest.mark.parametrize(
    ("signals", "null"), [("representation", ("gradient_", "predicted_", "loss")), ("gradient", ("representation_",))]
)
def test_one_method_alone_leaves_the_others_columns_null(few, usual, tmp_path, exact, signals, null):
    run, both = scan(few, tmp_path / "out", signals=signals, **exact), table_of(usual)
    table = table_of(run)
    assert table.schema.equals(both.schema)
    for name in table.column_names:
        if name.startswith(null):
            assert table[name].null_count == ROWS
        elif pa.types.is_floating(table.schema.field(name).type):
            np.testing.assert_allclose(table[name].to_numpy(), both[name].to_numpy(), rtol=1e-4, atol=2e-5)
    assert run.default_ranking == f"{signals}_bidirectional"
    assert (run.folder / "anchors" / "directions.json").exists() == (signals == "gradient")


def test_row_tokens_and_anchor_tokens(few, usual, tmp_path, exact):
    every, table = table_of(usual), table_of(scan(few, tmp_path / "out", row_tokens=10, anchor_tokens=3, **exact))
    np.testing.assert_allclose(table["loss"].to_numpy(), table["loss_first_10"].to_numpy(), rtol=1e-5)
    assert not np.allclose(table["gradient_harmful"].to_numpy(), every["gradient_harmful"].to_numpy(), atol=1e-3)
    assert table["response_tokens"].equals(every["response_tokens"])


def test_loss_on_the_last_turn_alone(tmp_path, exact):
    turns = [("user", "one?"), ("assistant", "yes, one"), ("user", "two?"), ("assistant", "two boats and a mill")]
    row = {"messages": [{"role": role, "content": text} for role, text in turns]}
    dataset = write_jsonl(tmp_path / "rows.jsonl", [row] * 2)
    names = ("completion", "completion,turns=last")
    every, last = (table_of(scan(dataset, tmp_path / str(n), trainer=name, **exact)) for n, name in enumerate(names))
    assert every["response_tokens"][0].as_py() > last["response_tokens"][0].as_py()
    assert every["gradient_norm"][0].as_py() != pytest.approx(last["gradient_norm"][0].as_py(), rel=1e-3)
    assert every["representation_harmful"][0].as_py() == pytest.approx(last["representation_harmful"][0].as_py())


def test_everything_that_made_the_numbers_is_on_record(few, usual, exact):
    manifest = json.loads((usual.folder / "manifest.json").read_text(encoding="utf-8"))
    about = json.loads(pq.read_schema(usual.scores_path).metadata[b"ripcurrent"])
    loaded = load_model(exact["model"], device="cpu", dtype="float32")
    for record in (manifest, about):
        assert record["dataset"]["sha256"] == sha256(few)
        assert record["anchors"]["sha256"] == sha256(exact["anchors"])
        # a folder has no commit, and says so
        assert (record["model"]["name"], record["model"]["revision"]) == (exact["model"], None)
        for name in ("tokenizer_sha256", "template_sha256", "fingerprint"):
            assert record["model"][name] == getattr(loaded, name)
            assert len(record["model"][name]) == 64
        # a CPU's, unless named
        assert (record["options"]["max_tokens"], record["options"]["token_budget"]) == (1024, 512)
        assert record["version"]
    assert ScanOptions().decided("cuda").token_budget == 4096
    assert ScanOptions(token_budget=64).decided("cuda").token_budget == 64
    assert set(manifest["versions"]) >= {"torch", "transformers", "numpy"}
    assert manifest["timings"]["rows_scored_in_this_call"] == ROWS
    assert manifest["peak_memory_bytes"] > 2**20
    assert manifest["status_counts"] == {"ok": ROWS}
    signals = {"gradient_balanced", "gradient_bidirectional", "representation_bidirectional"}
    assert set(manifest["anchors"]["separation"]) == signals


def test_the_directions_that_were_used_are_on_record(few, tmp_path, exact):
    result = scan(few, tmp_path / "out", anchor_tokens=4, **exact)
    kept = result.folder / "anchors" / "directions.json"
    record = json.loads(kept.read_text(encoding="utf-8"))
    assert record["depends_on"]["anchors"] == sha256(exact["anchors"])
    assert record["depends_on"]["model"] == result.manifest.model.fingerprint
    assert record["depends_on"]["anchor_tokens"] == 4
    assert set(record["files"]) == {"harmful", "safe", "measured"}
    for entry in record["files"].values():
        path = Path(entry["path"])
        assert path.parent.name == record["key"]
        assert (entry["bytes"], entry["fingerprint"]) == (path.stat().st_size, sha256(path))
    kept.write_text("{}")
    scan(few, tmp_path / "out", anchor_tokens=4, **exact)
    assert kept.read_text() == "{}", "a call that scores nothing leaves the record of what scored"
