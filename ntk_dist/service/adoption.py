"""A token that was made elsewhere, such as in a Secret of Kubernetes, made good here."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING

from ntk_dist.database.records import TokenRecord
from ntk_dist.errors import AuthenticationError, ConflictError, InvalidInputError
from ntk_dist.service.tokens import record_of
from ntk_dist.wire import Scope

if TYPE_CHECKING:
    from ntk_dist.database.tokens import Tokens

__all__ = ["Adoption", "adopt"]


@dataclass(frozen=True, kw_only=True)
class Adoption:
    """What became of a token, and of those before it."""

    record: TokenRecord
    """Of the token, as it is kept now."""
    is_new: bool
    """It was not known here before."""
    revoked: tuple[str, ...]
    """Ids of the tokens of the same name that were good until now."""


def adopt(
    tokens: Tokens, token: str, *, name: str, scopes: Sequence[Scope], now: datetime
) -> Adoption:
    """Keep the hash of ``token`` under ``name``, for ``scopes``, and revoke all others of the name.

    To do it again changes nothing, and whoever is cut off half way does it again: the new token is
    good before the first old one goes, so that at no moment none is.

    Parameters
    ----------
    tokens
        Those that are known.
    token
        ``ntkd_ID_SECRET``; it is in no error.
    name
        Of whoever holds it.
    scopes
        What it is good for, in place of what it was good for.
    now
        When it begins, and the others end.

    Raises
    ------
    InvalidInputError
        The text is no token, or the name is none.
    ConflictError
        One of its id is here with another secret, of another name, revoked or expired. What
        somebody revoked never becomes good again by a restart.
    """
    try:
        given = record_of(token, name, sorted(set(scopes)), now)
    except AuthenticationError:
        raise InvalidInputError(
            "expected a token, 'ntkd_', 12 hexadecimal digits in lower case, '_' and 43 letters, "
            f"digits, '-' or '_', got {_shape_of(token)}; have 'ntk-dist token create' make one"
        ) from None
    known = tokens.insert_or_get(given)
    _require_same(known, given, now)
    if known.scopes != given.scopes:
        tokens.rescope(known.id, given.scopes)
    others = [each for each in tokens.all() if each.name == name and each.id != given.id]
    live = [each.id for each in others if each.revoked is None]
    for token_id in live:
        tokens.revoke(token_id, now)
    return Adoption(
        record=replace(known, scopes=given.scopes), is_new=known == given, revoked=tuple(live)
    )


def _require_same(known: TokenRecord, given: TokenRecord, now: datetime) -> None:
    if not hmac.compare_digest(known.secret_sha256, given.secret_sha256):
        told = "with another secret"
    elif known.name != given.name:
        told = f"as that of {known.name!r}"
    elif known.revoked is not None:
        told = f"as revoked on {known.revoked:%Y-%m-%d %H:%M} UTC"
    elif known.expires is not None and known.expires <= now:
        told = f"as expired on {known.expires:%Y-%m-%d %H:%M} UTC"
    else:
        return
    raise ConflictError(
        f"token {given.id}: expected one that {given.name!r} may use, got one that is known here "
        f"{told}; make another one"
    )


def _shape_of(text: str) -> str:
    """What can be said of something that may be a secret."""
    if not text:
        return "nothing"
    begin = "begin" if text.startswith("ntkd_") else "do not begin"
    return f"{len(text)} characters (a token has 61) that {begin} with 'ntkd_'"
