"""The demo's own data: about 300 benign instruction rows in mixed formats, written for this project, and its proof."""

from pathlib import Path

DEMO_ROWS = Path(__file__).parent / "rows.jsonl"
"""The rows, written for this package."""
