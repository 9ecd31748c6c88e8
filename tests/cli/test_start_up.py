"""Help answers at once: no command imports a heavy library before it runs."""

import json
import subprocess
import sys

import pytest

from tests.cli.command import commands

HEAVY = ("torch", "transformers", "pyarrow", "altair", "datasets", "scipy", "numpy")


def python(code: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    return done.stdout


HELPS = """
import json, sys
from contextlib import redirect_stdout
from io import StringIO

from ripcurrent.cli import run

commands, heavy = json.loads(sys.argv[1])
found = []
for words in commands:
    with redirect_stdout(StringIO()) as shown:
        code = run([*words, "--help"])
    found.append([" ".join(words), code, "Usage:" in shown.getvalue(), [name for name in heavy if name in sys.modules]])
print(json.dumps(found))
"""


def test_help_works_and_imports_nothing_heavy():
    """One process asks all: the first command that differs is the one at fault."""
    assert {"scan", "doctor", "anchors check", "judges validate"} <= set(commands())
    for words, *found in json.loads(python(HELPS, json.dumps([[words.split() for words in commands()], HEAVY]))):
        assert found == [0, True, []], words


def test_importing_the_package_is_light():
    touched = "ripcurrent.__version__, dir(ripcurrent), ripcurrent.RipcurrentError, ripcurrent.report"
    names = f"[name for name in {HEAVY!r} if name in sys.modules]"
    assert json.loads(python(f"import json, sys, ripcurrent.report; {touched}; print(json.dumps({names}))")) == []


def test_the_surface_is_what_it_says():
    import ripcurrent as rc
    from ripcurrent.scan import scan

    surface = (
        "EvaluationRun Experiment ExperimentResults FinetuneRun RipcurrentError ScanOptions ScanRun __version__ "
        "build_report calibrate doctor evaluate finetune forecast load_anchors load_model load_tokens read_rows scan "
        "select validate_judges"
    )
    assert rc.__all__ == surface.split()
    assert set(rc.__all__) <= set(dir(rc))
    assert all(getattr(rc, name) is not None for name in rc.__all__)
    assert rc.scan is scan
    with pytest.raises(AttributeError, match="scam"):
        rc.scam  # noqa: B018
