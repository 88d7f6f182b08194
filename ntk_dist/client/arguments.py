"""What a client is given, checked before anything is sent."""

from __future__ import annotations

import math
import os
import re
from urllib.parse import urlsplit

from ntk_dist.errors import InvalidInputError
from ntk_dist.wire import KEY_PATTERN

__all__ = ["checked_key", "checked_timeout", "checked_token", "checked_url", "headers_of", "masked"]


def headers_of(token: str | None) -> dict[str, str]:
    """Of every request."""
    return {"Authorization": f"Bearer {token}"} if token else {}


def checked_url(url: str) -> str:
    """The address, without a slash at the end."""
    if "@" in url:  # said first: no other message may quote a password
        raise InvalidInputError(
            "url: expected no user or password in the address; a token is given as such"
        )
    try:
        parts = urlsplit(url)
        is_good = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_good = False
    if not is_good or not url.isprintable() or " " in url or parts.query or parts.fragment:
        raise InvalidInputError(f"url: expected http://HOST:PORT or https://HOST, got {url!r}")
    return url.rstrip("/")


def checked_token(token: str | None) -> str | None:
    """The token, or that of the environment."""
    token = (os.environ.get("NTK_DIST_TOKEN") if token is None else token) or None
    if token is not None and not _is_word(token := token.strip()):
        raise InvalidInputError(
            "token: expected what 'ntk-dist token create' printed, got something with blanks or "
            "characters that no token has"
        )
    return token


def checked_key(key: str) -> str:
    """An idempotency key."""
    if not re.fullmatch(KEY_PATTERN, key):
        raise InvalidInputError(f"key: expected 1 to 200 visible ASCII characters, got {key!r}")
    return key


def checked_timeout(timeout_s: float) -> float:
    """A time to wait, in seconds."""
    if not (timeout_s > 0 and math.isfinite(timeout_s)):
        raise InvalidInputError(f"timeout_s: expected more than 0 s, got {timeout_s!r} s")
    return float(timeout_s)


def _is_word(text: str) -> bool:
    return bool(text) and text.isascii() and text.isprintable() and " " not in text


def masked(token: str | None) -> str:
    """Which token it is, for people who look for it, without its secret."""
    if token is None:
        return "None"
    kind, _, rest = token.partition("_")
    id, _, secret = rest.partition("_")
    return f"'{kind}_{id}_***'" if kind == "ntkd" and secret else "'***'"
