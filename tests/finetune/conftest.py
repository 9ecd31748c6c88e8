from __future__ import annotations

from tests.models.conftest import no_network
from tests.scan_fixtures import rows_file, shared_cache, tiny_folder

__all__ = ["no_network", "rows_file", "shared_cache", "tiny_folder"]
