"""Where an endpoint is and with what key it is asked."""

from __future__ import annotations

import os
from urllib.parse import urlsplit, urlunsplit

from ripcurrent.errors import RipcurrentError

KEY_VARIABLE, OPENAI_KEY_VARIABLE = "RIPCURRENT_API_KEY", "OPENAI_API_KEY"
KEY_VARIABLES = f"{KEY_VARIABLE} (for OpenAI's own host, {OPENAI_KEY_VARIABLE})"
NO_KEY = "none"
"""Sent to endpoints that ask for no key."""
_HINT = "Name its base URL, such as http://localhost:8000/v1."


def host_of(url: str) -> str:
    """The host of a base URL."""
    shown = url.rpartition("@")[2]
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        # its text may quote the password
        raise RipcurrentError(f"{shown!r} is no endpoint.", _HINT) from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise RipcurrentError(f"{shown!r} is no endpoint.", _HINT)
    if parts.query or parts.fragment:
        raise RipcurrentError(
            f"The endpoint {without_secrets(url)} has a part behind ? or #, to which no path can be added.",
            "Leave that out; a key goes into the environment.",
        )
    return parts.hostname


def is_openai(host: str) -> bool:
    """Whether OpenAI's own key may be sent there."""
    return host == "openai.com" or host.endswith(".openai.com")


def key_for(given: str | None, variable: str | None, host: str) -> str:
    """The key to send: the one given, else the environment's, else a placeholder."""
    names = [KEY_VARIABLE, *([OPENAI_KEY_VARIABLE] if is_openai(host) else [])]
    for name, value in [(variable or "The key", given), *((name, os.environ.get(name)) for name in names)]:
        key = (value or "").strip()
        if not (key.isascii() and key.isprintable()):
            raise RipcurrentError(
                f"{name} holds a key with characters that no key has, such as a curly quote or a line break.",
                "Set it to the key alone.",
            )
        if key:
            return key
    return NO_KEY


def without_secrets(url: str) -> str:
    """The URL without user, password and query."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path.rstrip("/"), "", ""))


def writable(text: str) -> str:
    """The text with halves of surrogate pairs, which no file and no request can carry, as question marks."""
    return text.encode("utf-8", errors="replace").decode("utf-8")
