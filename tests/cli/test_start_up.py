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


CORE = """
import json, sys
sys.modules.update(dict.fromkeys(("trl", "altair", "vl_convert", "openai", "ray")))  # as if not installed

from ripcurrent.cli import run

sys.exit(any([run(words) for words in json.loads(sys.argv[1])]))
"""


def test_without_any_extra_rows_are_looked_at_and_scanned_and_the_page_names_what_brings_its_plots(
    rows_file, exact, tmp_path
):
    given = [str(rows_file), "--model", exact["model"], "--anchors", exact["anchors"]]
    words = [["doctor", *given], ["scan", *given, "--no-anchor-check", "--out", str(tmp_path / "out")]]
    line = 'Plots are left out: pip install "ripcurrent[report]"'
    assert line in python(CORE, json.dumps(words))
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert page.count(line.replace('"', "&#34;")) == 3
    assert "vegaEmbed=" not in page


def test_the_surface_is_what_it_says():
    import ripcurrent as rc
    from ripcurrent.scan import scan

    surface = (
        "CheckOptions CheckRun EvaluationRun Experiment ExperimentResults FinetuneRun GateOptions GateRun "
        "RipcurrentError ScanOptions ScanRun __version__ build_report calibrate check doctor evaluate finetune "
        "forecast gate load_anchors load_model load_tokens read_rows scan select validate_judges view"
    )
    assert rc.__all__ == surface.split()
    assert set(rc.__all__) <= set(dir(rc))
    assert all(getattr(rc, name) is not None for name in rc.__all__)
    assert rc.scan is scan
    with pytest.raises(AttributeError, match="scam"):
        rc.scam  # noqa: B018
