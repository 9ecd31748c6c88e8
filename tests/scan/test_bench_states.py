"""The bench of all states: its scores are those that a scan with that layer and position gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bench import states

from ripcurrent.scan._scan import scan
from ripcurrent.statistics import spearman
from tests.tiny_scan import rows_with_a_gap, small_shards, write_jsonl

ROWS, TOP = 30, 6


@pytest.mark.usefixtures("no_page")
@pytest.mark.parametrize(("layer", "position"), [(None, "last"), (0, "mean_response"), (1, "last_content")])
def test_its_scores_are_a_scans(
    tmp_path: Path,
    tiny_folder: Path,
    anchors_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    layer: int | None,
    position: str,
) -> None:
    monkeypatch.setattr(states, "TOP", TOP)
    dataset = write_jsonl(tmp_path / "rows.jsonl", rows_with_a_gap(ROWS))
    options = small_shards(tiny_folder, anchors_file)
    result = scan(dataset, tmp_path / "run", layer=layer, position=position, **options)
    states.main([str(result.folder)])
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith(f"{ROWS - 1} rows of rows.")
    wanted = [position, "end" if layer is None else str(layer)]
    (line,) = (found for found in said if found.split()[:2] == wanted and found.split()[3] == "largest")
    scores = {name: values for name, values in result.scores().to_pydict().items()}
    kept = np.asarray(scores["status"]) == "ok"
    values = np.asarray(scores["gradient_bidirectional"])[kept]
    tops = [set(np.argsort(-values)[:TOP])]
    for place, name in ((4, "representation_bidirectional"), (7, "representation_harmful")):
        column = np.asarray(scores[name])[kept]
        top = np.argsort(-column)[:TOP]
        correlation, both, mean = line.split()[place : place + 3]
        assert float(correlation) == pytest.approx(spearman(values.tolist(), column.tolist()), abs=0.0051)
        assert int(both) == len(tops[0] & set(top))
        assert float(mean) == pytest.approx(values[top].mean(), abs=0.00006)
