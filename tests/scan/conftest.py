from __future__ import annotations

from tests.scan_fixtures import anchors_file, no_page, rows_file, shared_cache, tiny_folder

__all__ = ["anchors_file", "no_page", "rows_file", "shared_cache", "tiny_folder"]
