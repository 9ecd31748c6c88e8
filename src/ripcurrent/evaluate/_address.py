"""Where an endpoint is and with what key it is asked."""

from __future__ import annotations

import os
from urllib.parse import urlsplit, urlunsplit

from ripcurrent.errors import RipcurrentError

KEY_VARIABLE = "RIPCURRENT_API_KEY"
"""Environment variable with the key of an endpoint."""
OPENAI_KEY_VARIABLE = "OPENAI_API_KEY"
"""The key of OpenAI's own endpoint; sent to no other host."""

BASE_URL = "Name its base URL, such as http://localhost:8000/v1."
"""What to do about an address that is none."""
NO_KEY = "none"
"""What endpoints that ask for no key get."""


def host_of(url: str) -> str:
    """The host of a base URL.

    Raises:
        RipcurrentError: It is no URL, or one to which no path can be added.
    """
    # a password before the host, or what comes of a mistyped one
    shown = url.rpartition("@")[2]
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        # what it says may quote the password
        raise RipcurrentError(f"{shown!r} is no endpoint.", BASE_URL) from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise RipcurrentError(f"{shown!r} is no endpoint.", BASE_URL)
    if parts.query or parts.fragment:
        raise RipcurrentError(
            f"The endpoint {without_secrets(url)} has a part behind ? or #, to which no path can be added.",
            "Leave that out; a key goes into the environment.",
        )
    return parts.hostname


def is_openai(host: str) -> bool:
    return host == "openai.com" or host.endswith(".openai.com")


def key_for(given: str | None, variable: str | None, host: str) -> str:
    """The key to send: the one given, else the environment's, else a placeholder.

    Raises:
        RipcurrentError: It has characters that no header can carry.
    """
    names = [KEY_VARIABLE, *([OPENAI_KEY_VARIABLE] if is_openai(host) else [])]
    found = [(variable or "The key", given), *((name, os.environ.get(name)) for name in names)]
    for name, value in found:
        key = (value or "").strip()
        if not key:
            continue
        if not (key.isascii() and key.isprintable()):
            raise RipcurrentError(
                f"{name} holds a key with characters that no key has, such as a curly quote or a line break.",
                "Set it anew, to the key alone.",
            )
        return key
    return NO_KEY


def without_secrets(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path.rstrip("/"), "", ""))
