"""What tests of the scan share."""

from pathlib import Path
from typing import Any

import pytest

from tests.scan_fixtures import EXACT


@pytest.fixture(scope="session")
def exact(tiny_folder: Path, anchors_file: Path) -> dict[str, Any]:
    """Options of an exact scan with the tiny model and the small anchors."""
    return {"model": str(tiny_folder), "anchors": str(anchors_file), **EXACT}
