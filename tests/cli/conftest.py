from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.command import Command
from tests.scan_fixtures import anchors_file, no_page, rows_file, shared_cache, tiny_folder

__all__ = ["anchors_file", "no_page", "rows_file", "shared_cache", "tiny_folder"]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], tiny_folder: Path, anchors_file: Path) -> Command:
    """The command line."""
    return Command(capsys, tiny_folder, anchors_file)
