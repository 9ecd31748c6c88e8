"""The bench of coherence: the norm of a set's mean unit gradient against plain autograd, one row at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from bench import coherence

from ripcurrent.data import encode_rows, read_rows
from ripcurrent.scan._options import ScanOptions
from ripcurrent.scan._scan import scan
from ripcurrent.scan._scan_model import load_scan_model
from tests.tiny_scan import good_rows, small_shards, write_jsonl

SIZE = 5


@pytest.mark.usefixtures("no_page")
def test_it_is_that_of_the_rows_own_gradients(
    tmp_path: Path, tiny_folder: Path, anchors_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = write_jsonl(tmp_path / "rows.jsonl", good_rows(14))
    result = scan(dataset, tmp_path / "run", **small_shards(tiny_folder, anchors_file))
    coherence.main([str(result.folder), "--size", str(SIZE)])
    lines = {
        line.split()[0]: [float(cell) for cell in line.split()[1:]] for line in capsys.readouterr().out.splitlines()[1:]
    }
    assert list(lines) == ["riskiest", "random", "protective"]

    chat_model = load_scan_model(ScanOptions(**result.manifest["options"]))
    model = chat_model.model.requires_grad_(True)
    scores = result.scores().to_pydict()
    order = np.argsort(-np.array(scores["gradient_bidirectional"]), kind="stable")
    rows = list(encode_rows(read_rows(dataset), chat_model.tokenizer, max_tokens=1024, loss_on="all"))
    for name, places in (("riskiest", order[:SIZE]), ("protective", order[-SIZE:])):
        units = []
        for place in places:
            tokens = torch.tensor(rows[place].tokens, dtype=torch.long)
            bearing = np.flatnonzero(rows[place].loss_mask)
            model.zero_grad()
            logits = model(input_ids=tokens[None]).logits[0, bearing - 1]
            torch.nn.functional.cross_entropy(logits.float(), tokens[bearing]).backward()
            gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).double()
            units.append(gradient / gradient.norm())
        stacked = torch.stack(units)
        norm = float(stacked.mean(dim=0).norm())
        cosines = (stacked @ stacked.T)[~torch.eye(SIZE, dtype=torch.bool)]
        balanced = float(np.mean([scores["gradient_balanced"][place] for place in places]))
        wanted = [SIZE, norm, float(cosines.mean()), balanced, balanced / norm]
        assert lines[name] == pytest.approx(wanted, abs=6e-4)
