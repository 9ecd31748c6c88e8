"""A scan's numbers, scope by scope, against one example at a time with every gradient formed."""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ripcurrent.errors import RipcurrentError
from ripcurrent.gradients import Factoring, ModelLayers, choose_factoring
from ripcurrent.scan import ScanRun, scan
from ripcurrent.scan._options import ScanOptions
from tests.gradients.oracle import inner
from tests.models.test_adapter import save_adapter
from tests.models.tiny import save_tiny
from tests.scan.explicit_scan import Explicit, cosine_to_unit, explicit
from tests.scan_fixtures import table_of
from tests.tiny_scan import EXACT, good_rows, write_jsonl

ROWS = 5


@pytest.fixture
def few(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "few.jsonl", good_rows(ROWS))


def run(dataset: Path, model: Path, anchors: Path, out: str = "out", **options: Any) -> ScanRun:
    return scan(dataset, dataset.parent / out, model=str(model), anchors=str(anchors), **{**EXACT, **options})


@pytest.fixture(scope="module")
def same_few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same rows in a file of the module's."""
    return write_jsonl(tmp_path_factory.mktemp("few") / "few.jsonl", good_rows(ROWS))


@pytest.fixture(scope="module")
def usual(same_few: Path, tiny_folder: Path, anchors_file: Path) -> ScanRun:
    """Their scan without further options."""
    return run(same_few, tiny_folder, anchors_file)


@pytest.fixture(scope="module")
def oracle(same_few: Path, tiny_folder: Path, anchors_file: Path) -> Explicit:
    """Their oracle."""
    return explicit(same_few, tiny_folder, anchors_file)


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


@pytest.mark.parametrize("kind", ["llama_tied", "qwen2", "gpt2"])
def test_all_parameters(kind: str, few: Path, tmp_path: Path, shared_cache: Path, anchors_file: Path) -> None:
    model = save_tiny(tmp_path / "model", kind)
    result = run(few, model, anchors_file, avg_n=2, max_tokens=400)
    oracle = explicit(few, model, anchors_file)
    check_gradient_columns(table_of(result), oracle)
    check_representation_columns(table_of(result), oracle, avg_n=2)
    assert result.manifest.left_out == []


@pytest.mark.parametrize("kind", ["llama_tied", "gpt2"])
def test_factored_directions(
    kind: str, few: Path, tmp_path: Path, anchors_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RIPCURRENT_CACHE", str(tmp_path / "cache"))
    seen: list[Factoring] = []

    def everything(layers: ModelLayers, terms: int, head_terms: int) -> Factoring:
        seen.append(choose_factoring(layers, 1, 1))
        return seen[-1]

    monkeypatch.setattr(import_module("ripcurrent.gradients._anchor_directions"), "choose_factoring", everything)
    model = save_tiny(tmp_path / "model", kind)
    result = run(few, model, anchors_file, avg_n=2, max_tokens=400, tokens="top:2")
    assert len(seen[0].groups) >= 8
    assert seen[0].tables
    check_gradient_columns(table_of(result), explicit(few, model, anchors_file))
    assert result.manifest.tokens["largest_difference"] < 1e-5
    again = run(few, model, anchors_file, "again", avg_n=2, max_tokens=400)
    assert len(seen) == 2
    assert table_of(again).equals(table_of(result))


def test_scope_linear_leaves_the_rest_out_and_says_so(few: Path, tiny_folder: Path, anchors_file: Path) -> None:
    result = run(few, tiny_folder, anchors_file, scope="linear")
    check_gradient_columns(table_of(result), explicit(few, tiny_folder, anchors_file, "linear"))
    left_out = result.manifest.left_out
    assert "model.embed_tokens.weight" in left_out
    assert "model.norm.weight" in left_out
    assert not any("proj" in name for name in left_out)


def test_scope_lora_with_a_fresh_one(few: Path, tiny_folder: Path, anchors_file: Path) -> None:
    result = run(few, tiny_folder, anchors_file, scope="lora")
    oracle = explicit(few, tiny_folder, anchors_file, "lora")
    check_gradient_columns(table_of(result), oracle)
    assert not any(oracle.row_gradients[0][name].any() for name in oracle.row_gradients[0] if "lora_A" in name)
    assert (result.manifest.model.fresh_lora_rank, result.manifest.model.fresh_lora_seed) == (8, 0)
    other = run(few, tiny_folder, anchors_file, "other", scope="lora", seed=1)
    assert not np.allclose(table_of(result)["gradient_norm"].to_numpy(), table_of(other)["gradient_norm"].to_numpy())
    representation = [n for n in table_of(result).column_names if n.startswith("representation")]
    assert table_of(result).select(representation).equals(table_of(other).select(representation))


def test_scope_lora_with_the_users_adapter(few: Path, tiny_folder: Path, tmp_path: Path, anchors_file: Path) -> None:
    adapter = save_adapter(tmp_path / "adapter")
    result = run(few, tiny_folder, anchors_file, scope="lora", adapter=str(adapter))
    oracle = explicit(few, tiny_folder, anchors_file, "lora", adapter)
    check_gradient_columns(table_of(result), oracle)
    check_representation_columns(table_of(result), oracle, avg_n=1)
    assert any(oracle.row_gradients[0][name].any() for name in oracle.row_gradients[0] if "lora_A" in name)


def test_a_merged_adapter_is_part_of_the_model(
    few: Path, tiny_folder: Path, tmp_path: Path, anchors_file: Path
) -> None:
    adapter = save_adapter(tmp_path / "adapter")
    result = run(few, tiny_folder, anchors_file, adapter=str(adapter))
    check_gradient_columns(table_of(result), explicit(few, tiny_folder, anchors_file, "all", adapter))


@pytest.mark.parametrize(
    ("signals", "null", "default"),
    [
        ("representation", ("gradient_", "predicted_", "loss"), "representation_bidirectional"),
        ("gradient", ("representation_",), "gradient_bidirectional"),
    ],
)
def test_one_method_alone_leaves_the_others_columns_null(
    few: Path, usual: ScanRun, tiny_folder: Path, anchors_file: Path, signals: str, null: tuple[str, ...], default: str
) -> None:
    both = table_of(usual)
    table = table_of(run(few, tiny_folder, anchors_file, signals=signals))
    assert table.schema.equals(both.schema)
    for name in table.column_names:
        if name.startswith(null):
            assert table[name].null_count == ROWS
        elif pa.types.is_floating(table.schema.field(name).type):
            np.testing.assert_allclose(table[name].to_numpy(), both[name].to_numpy(), rtol=1e-4, atol=2e-5)
    assert json.loads(table.schema.metadata[b"ripcurrent"])["default_ranking"] == default


def test_row_tokens_and_anchor_tokens(few: Path, usual: ScanRun, tiny_folder: Path, anchors_file: Path) -> None:
    table = table_of(run(few, tiny_folder, anchors_file, row_tokens=10, anchor_tokens=3))
    np.testing.assert_allclose(table["loss"].to_numpy(), table["loss_first_10"].to_numpy(), rtol=1e-5)
    every = table_of(usual)
    assert not np.allclose(table["gradient_harmful"].to_numpy(), every["gradient_harmful"].to_numpy(), atol=1e-3)
    assert table["response_tokens"].equals(every["response_tokens"])


def test_loss_on_the_last_turn_alone(tmp_path: Path, tiny_folder: Path, anchors_file: Path) -> None:
    turns = [("user", "one?"), ("assistant", "yes, one"), ("user", "two?"), ("assistant", "two boats and a mill")]
    dataset = write_jsonl(
        tmp_path / "rows.jsonl", [{"messages": [{"role": role, "content": text} for role, text in turns]}] * 2
    )
    every, last = (table_of(run(dataset, tiny_folder, anchors_file, name, loss_on=name)) for name in ("all", "last"))
    assert every["response_tokens"][0].as_py() > last["response_tokens"][0].as_py()
    assert every["gradient_norm"][0].as_py() != pytest.approx(last["gradient_norm"][0].as_py(), rel=1e-3)
    assert every["representation_harmful"][0].as_py() == pytest.approx(last["representation_harmful"][0].as_py())


def test_plain_documents_are_scored(tmp_path: Path, tiny_folder: Path, anchors_file: Path) -> None:
    dataset = write_jsonl(tmp_path / "rows.jsonl", [{"text": row["response"]} for row in good_rows(4)])
    result = run(dataset, tiny_folder, anchors_file)
    assert result.status_counts() == {"ok": 4}
    assert table_of(result)["prompt_tokens"].to_pylist() == [1] * 4


def test_everything_that_made_the_numbers_is_on_record(
    few: Path, usual: ScanRun, tiny_folder: Path, anchors_file: Path
) -> None:
    import hashlib

    manifest = json.loads((usual.folder / "manifest.json").read_text(encoding="utf-8"))
    about = json.loads(pq.read_schema(usual.scores_path).metadata[b"ripcurrent"])
    for record in (manifest, about):
        assert record["dataset"]["sha256"] == hashlib.sha256(few.read_bytes()).hexdigest()
        assert record["anchors"]["sha256"] == hashlib.sha256(anchors_file.read_bytes()).hexdigest()
        assert record["model"]["name"] == str(tiny_folder)
        assert len(record["model"]["fingerprint"]) == len(record["model"]["template_sha256"]) == 64
        assert record["options"]["max_tokens"] == 1024
        assert record["version"]
    assert set(manifest["versions"]) >= {"torch", "transformers", "numpy"}
    assert manifest["timings"]["rows_scored_in_this_call"] == ROWS
    assert manifest["peak_memory_bytes"] > 2**20
    assert manifest["status_counts"] == {"ok": ROWS}
    assert set(manifest["anchors"]["separation"]) == {
        "gradient_balanced", "gradient_bidirectional", "representation_bidirectional",
    }  # fmt: skip


def test_the_directions_that_were_used_are_on_record(few: Path, tiny_folder: Path, anchors_file: Path) -> None:
    import hashlib

    result = run(few, tiny_folder, anchors_file, anchor_tokens=4)
    kept = result.folder / "anchors" / "directions.json"
    record = json.loads(kept.read_text(encoding="utf-8"))
    assert record["depends_on"]["anchors"] == hashlib.sha256(anchors_file.read_bytes()).hexdigest()
    assert record["depends_on"]["model"] == result.manifest.model.fingerprint
    assert record["depends_on"]["anchor_tokens"] == 4
    assert set(record["files"]) == {"harmful", "safe", "measured"}
    for entry in record["files"].values():
        path = Path(entry["path"])
        assert path.parent.name == record["key"]
        assert entry["bytes"] == path.stat().st_size
        assert entry["fingerprint"] == hashlib.sha256(path.read_bytes()).hexdigest()

    kept.write_text("{}")
    run(few, tiny_folder, anchors_file, anchor_tokens=4)
    assert kept.read_text() == "{}", "a call that scores nothing leaves the record of what scored"
    representation = run(few, tiny_folder, anchors_file, "representation", signals="representation")
    assert not (representation.folder / "anchors").exists()


def test_the_batch_plan_stays_with_the_signals(tmp_path: Path, tiny_folder: Path, anchors_file: Path) -> None:
    rows = [*good_rows(9), {"prompt": "Nothing?", "response": ""}]
    dataset = write_jsonl(tmp_path / "rows.jsonl", rows)
    result = run(dataset, tiny_folder, anchors_file, token_budget=256)
    (shard,) = (result.folder / "signals").glob("shard-*.parquet")
    signals = pq.read_table(shard)
    batches, tokens = signals["batch"].to_pylist(), signals["prompt_tokens"].to_numpy()
    tokens = tokens + signals["response_tokens"].to_numpy()
    assert batches[9] is None
    assert set(batches[:9]) == set(range(max(batches[:9]) + 1))
    assert max(batches[:9]) > 0
    for batch in set(batches[:9]):
        own = [tokens[place] for place in range(9) if batches[place] == batch]
        assert len(own) == 1 or len(own) * max(own) <= 256


def test_the_token_budget_is_the_devices_unless_named(usual: ScanRun) -> None:
    assert usual.manifest.options.token_budget == 512
    assert ScanOptions().decided("cuda").token_budget == 4096
    assert ScanOptions(token_budget=64).decided("cuda").token_budget == 64


def test_more_tokens_than_the_model_has_positions_is_refused(few: Path, tmp_path: Path, anchors_file: Path) -> None:
    model = save_tiny(tmp_path / "model", "gpt2")
    with pytest.raises(
        RipcurrentError, match=r"--max-tokens 1024 is more than the 512 positions.*\n.*--max-tokens 512"
    ):
        run(few, model, anchors_file)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"signals": "gradients"}, "--signals gradients is not possible"),
        ({"max_tokens": 3}, "--max-tokens 3 is not possible"),
        ({"avg_n": 0}, "--avg-n 0 is not possible"),
        ({"colour": "blue"}, "There is no option --colour"),
        ({"layer": 7}, "Layer 7 does not exist"),
    ],
    ids=str,
)
def test_options_that_are_not_possible(
    few: Path, tiny_folder: Path, anchors_file: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(RipcurrentError, match=said) as caught:
        run(few, tiny_folder, anchors_file, **changes)
    assert caught.value.hint
