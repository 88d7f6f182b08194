"""Tokens in the database, without their secrets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

from sqlalchemy import insert, select, update
from sqlalchemy.exc import IntegrityError

from ntk_dist.database.records import TokenRecord
from ntk_dist.database.rows import Rows
from ntk_dist.database.tables import TOKENS
from ntk_dist.errors import NotFoundError
from ntk_dist.wire import Scope

__all__ = ["Tokens"]


class Tokens(Rows[TokenRecord]):
    """The table of tokens."""

    _table, _kind = TOKENS, TokenRecord

    def insert(self, record: TokenRecord) -> None:
        """Keep a new token.

        Raises
        ------
        RequestError
            Its name is too long, or has a NUL in it.
        """
        with self._connector.connect() as connection:
            connection.execute(insert(TOKENS).values(self._row(record)))

    def insert_or_get(self, record: TokenRecord) -> TokenRecord:
        """The token of that id: this one from now on, or the one that was there already."""
        with suppress(IntegrityError):
            self.insert(record)
        found = self.get(record.id)
        assert found is not None, "tokens are revoked, and never deleted"
        return found

    def get(self, token_id: str) -> TokenRecord | None:
        """One token, revoked and expired ones included."""
        return self._one(token_id)

    def all(self) -> list[TokenRecord]:
        """Every token, revoked and expired ones included, the oldest first."""
        return self._all(select(TOKENS).order_by(TOKENS.c.created, TOKENS.c.id))

    def rescope(self, token_id: str, scopes: Sequence[Scope]) -> None:
        """Let a token go as far as ``scopes``, no further."""
        with self._connector.connect() as connection:
            is_it = TOKENS.c.id == token_id
            connection.execute(update(TOKENS).where(is_it).values(scopes=list(scopes)))

    def revoke(self, token_id: str, now: datetime) -> TokenRecord:
        """The token, which is good for nothing from ``now`` on; again changes nothing.

        Raises
        ------
        NotFoundError
            There is none of that id.
        """
        is_it = (TOKENS.c.id == token_id) & TOKENS.c.revoked.is_(None)
        with self._connector.connect() as connection:
            connection.execute(update(TOKENS).where(is_it).values(revoked=now))
        found = self.get(token_id)
        if found is None:
            raise NotFoundError(f"expected the id of a token, got {token_id!r}; list the tokens")
        return found

    def _record(self, row: Mapping[str, Any]) -> TokenRecord:
        return super()._record({**row, "scopes": tuple(row["scopes"])})
