"""A judging model's replies, kept on disk: what was asked once is not asked, and not paid for, again.

The key is a hash of all that a reply depends on: the endpoint, the model, every word of the conversation (so the
rubric, the request and the answer), and the settings. The file holds the reply, and neither request nor answer.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ripcurrent.errors import RipcurrentError


@dataclass(frozen=True, slots=True)
class KeptReply:
    """What the model said."""

    text: str
    """The reply."""
    truncated: bool
    """Whether it reached the token limit."""


@dataclass(frozen=True, slots=True)
class ReplyCache:
    """A folder of replies, one file each. Two processes may share it: files appear whole."""

    folder: Path
    """Where they lie."""

    def get(self, key: str) -> KeptReply | None:
        """The reply under a key; None where there is none, or one that cannot be read, which is then written anew."""
        try:
            stored = json.loads(self._path(key).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        if not isinstance(stored, dict) or not isinstance(stored.get("text"), str):
            return None
        return KeptReply(text=stored["text"], truncated=bool(stored.get("truncated")))

    def prepare(self) -> None:
        """Make the folder, so that a reply that was paid for finds its place.

        Raises:
            RipcurrentError: It cannot be made.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._unwritable(error) from error

    def put(self, key: str, reply: KeptReply) -> None:
        """Keep a reply.

        Raises:
            RipcurrentError: The folder cannot be written.
        """
        path = self._path(key)
        content = json.dumps({"text": reply.text, "truncated": reply.truncated})
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # a name of its own, as another process may be keeping the same reply
            handle, part = tempfile.mkstemp(dir=path.parent, suffix=".part")
            try:
                with os.fdopen(handle, "w", encoding="utf-8") as file:
                    file.write(content)
                Path(part).replace(path)
            except OSError:
                Path(part).unlink(missing_ok=True)
                raise
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> RipcurrentError:
        return RipcurrentError(
            f"The judge's replies cannot be kept in {self.folder}: {error.strerror or error}.",
            "Make room or permission there, or name another cache folder by RIPCURRENT_CACHE.",
        )

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"


def reply_key(messages: Sequence[Mapping[str, str]], settings: Mapping[str, Any]) -> str:
    """Hash of a conversation and of the settings that its reply depends on."""
    whole = json.dumps([list(map(dict, messages)), dict(settings)], sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(whole.encode()).hexdigest()
