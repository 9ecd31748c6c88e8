"""Reading and writing datasets, rendering chats, loss masks, format traits, the refusal phrase list."""

from pathlib import Path

from ripcurrent.data._encode import encode, encode_anchor, encode_rows, encode_windows, why_mismatch, window_starts
from ripcurrent.data._files import plain_suffix
from ripcurrent.data._formats import FORMATS, has_unread, parse_mapping
from ripcurrent.data._near_duplicates import NEAR_DUPLICATE, count_near_duplicates, hash_of_texts, similarity, word_set
from ripcurrent.data._open import open_container
from ripcurrent.data._places import token_places
from ripcurrent.data._read import Dataset, canonical_json, open_unchanged, read_rows
from ripcurrent.data._render import default_template, render, rendered
from ripcurrent.data._tables import PARQUET_STREAMED
from ripcurrent.data._traits import REFUSAL_PHRASES, has_refusal, opened_thought, strip_thoughts, traits_of
from ripcurrent.data._types import DatasetInfo, EncodedRow, LossOn, Message, Row, RowStatus, Traits

DEMO_ROWS = Path(__file__).parent / "demo_rows.jsonl"
"""About 300 benign instructions with answers in mixed formats, written for this package."""

FORMAT_NAMES: tuple[str, ...] = tuple(FORMATS)
"""Names for ``--format``."""

__all__ = [
    "DEMO_ROWS",
    "FORMAT_NAMES", "NEAR_DUPLICATE", "PARQUET_STREAMED", "REFUSAL_PHRASES", "Dataset", "DatasetInfo",
    "EncodedRow", "LossOn", "Message", "Row", "RowStatus", "Traits",
    "canonical_json", "count_near_duplicates", "default_template", "encode", "encode_anchor", "encode_rows",
    "encode_windows", "has_refusal", "has_unread", "hash_of_texts", "open_container", "open_unchanged",
    "opened_thought", "parse_mapping", "plain_suffix", "read_rows", "render", "rendered",
    "similarity", "strip_thoughts", "token_places", "traits_of", "why_mismatch", "window_starts", "word_set",
]  # fmt: skip
