"""A model whose layers lie on two devices gives what it gives on one: signals, directions, shares and answers.

There is one device here: the other is a pretend one, whose tensors the processor's may not be mixed with.
"""

import json
import os
import subprocess
import sys
from functools import cache
from typing import Any

import pytest
from torch.utils import backend_registration

CASES = ("llama_tied", "llama_untied", "gpt2", "gemma2", "qwen2", "llama_tied lora")
TOLERANCE = 2e-5

pytestmark = pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this torch takes no pretend device",
)


@cache
def found() -> dict[tuple[str, str], dict[str, Any]]:
    """By model and split, what was computed: the pretend device changes torch for a whole process."""
    command = [sys.executable, "-m", "tests.gradients.spread_models", *CASES]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1800, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {(line["case"], line["split"]): line for line in lines}


@pytest.mark.parametrize("split", ["cpu_first", "pretend_first"])
@pytest.mark.parametrize("case", CASES)
def test_scores_and_answers_do_not_depend_on_where_layers_lie(case, split):
    line = found()[case, split]
    assert line["where"] == ["cpu", "pretend:0"]
    assert len(line["apart"]) == 9
    assert {name: size for name, size in line["size"].items() if not size > 1e-3} == {}
    assert {name: apart for name, apart in line["apart"].items() if not apart < TOLERANCE} == {}
    one, spread = line["answers"]
    assert spread == one
    # some rows left the batch before others, and so every layer's cache
    assert len({len(answer) for answer in one}) > 1
