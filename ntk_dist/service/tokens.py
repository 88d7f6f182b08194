"""Bearer tokens: how one is made, told from another, and kept out of logs.

A token is ``ntkd_ID_SECRET``. The id finds its record; of the secret only the SHA-256 is kept,
which is enough because it has 256 random bits.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta

from ntk_dist.database.records import TokenRecord
from ntk_dist.errors import AuthenticationError, InvalidInputError
from ntk_dist.wire import Scope

__all__ = [
    "MaskingFormatter",
    "masked",
    "new_token",
    "record_of",
    "require_valid",
    "token_id_of",
]

_TOKEN = re.compile(r"ntkd_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")
_IN_TEXT = re.compile(r"(ntkd_[0-9a-f]{12}_)[A-Za-z0-9_-]+")
_UNKNOWN = "expected a token of this service, got one that is not known here, or was cut"


def new_token(
    name: str, scopes: Sequence[Scope], now: datetime, lifetime: timedelta | None = None
) -> tuple[str, TokenRecord]:
    """A token, which nobody can tell again, and what is kept of it; see :func:`record_of`."""
    text = f"ntkd_{secrets.token_hex(6)}_{secrets.token_urlsafe(32)}"
    return text, record_of(text, name, scopes, now, lifetime)


def record_of(
    token: str,
    name: str,
    scopes: Sequence[Scope],
    now: datetime,
    lifetime: timedelta | None = None,
) -> TokenRecord:
    """What is kept of a token.

    Raises
    ------
    AuthenticationError
        The text is no token.
    InvalidInputError
        The name is none.
    """
    # One beginning with "@" is of no caller: jobs that were submitted beside a service have such.
    if not name.strip() or not name.isprintable() or name.startswith("@"):
        raise InvalidInputError(
            "name of a token: expected some text on one line, without control characters and not "
            f"beginning with '@', got {name!r}"
        )
    return TokenRecord(
        id=token_id_of(token),
        name=name,
        secret_sha256=_digest(_secret_of(token)),
        scopes=tuple(scopes),
        created=now,
        expires=None if lifetime is None else now + lifetime,
    )


def token_id_of(token: str) -> str:
    """Where the record of a token is found.

    Raises
    ------
    AuthenticationError
        The text is no token.
    """
    found = _TOKEN.fullmatch(token)
    if found is None:
        raise AuthenticationError(_UNKNOWN)
    return found[1]


def require_valid(token: str, record: TokenRecord | None, now: datetime) -> TokenRecord:
    """The record of a token that may be used now.

    Whoever does not have the secret learns nothing of the record, not even by the time it takes.

    Raises
    ------
    AuthenticationError
        It is unknown, revoked or expired.
    """
    kept = record.secret_sha256 if record else _digest("")
    if not hmac.compare_digest(_digest(_secret_of(token)), kept) or record is None:
        raise AuthenticationError(_UNKNOWN)
    if record.revoked is not None and record.revoked <= now:
        raise AuthenticationError(f"token {record.id} was revoked on {record.revoked:%Y-%m-%d}")
    if record.expires is not None and record.expires <= now:
        raise AuthenticationError(
            f"token {record.id} expired on {record.expires:%Y-%m-%d %H:%M} UTC; ask for another one"
        )
    return record


def masked(text: str) -> str:
    """``text`` without the secrets of the tokens in it."""
    return _IN_TEXT.sub(r"\1***", text)


class MaskingFormatter(logging.Formatter):
    """Writes log records without secrets, tracebacks included."""

    def format(self, record: logging.LogRecord) -> str:
        """One record as text."""
        return masked(super().format(record))


def _secret_of(token: str) -> str:
    return token[len("ntkd_") + 13 :]


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
