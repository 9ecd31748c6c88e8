from tests.cli.conftest import command
from tests.scan_fixtures import anchors_file, shared_cache, tiny_folder

__all__ = ["anchors_file", "command", "shared_cache", "tiny_folder"]
