"""Tokens in the database, without their secrets."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Select, insert, select, update

from ntk_dist.database.connection import Connector
from ntk_dist.database.records import TokenRecord
from ntk_dist.database.tables import TOKENS, as_record, as_row
from ntk_dist.errors import NotFoundError

__all__ = ["Tokens"]


class Tokens:
    """The table of tokens.

    Raises
    ------
    StoreUnreachableError
        From every method: the database does not answer.
    """

    def __init__(self, connector: Connector) -> None:
        self._connector = connector

    def insert(self, record: TokenRecord) -> None:
        """Keep a new token."""
        with self._connector.connect() as connection:
            connection.execute(insert(TOKENS).values(as_row(record)))

    def get(self, token_id: str) -> TokenRecord | None:
        """One token, revoked and expired ones included."""
        found = self._all(select(TOKENS).where(TOKENS.c.id == token_id))
        return found[0] if found else None

    def all(self) -> list[TokenRecord]:
        """Every token, revoked and expired ones included, the oldest first."""
        return self._all(select(TOKENS).order_by(TOKENS.c.created, TOKENS.c.id))

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

    def _all(self, query: Select[Any]) -> list[TokenRecord]:
        with self._connector.connect() as connection:
            rows = connection.execute(query).mappings()
            return [as_record(TokenRecord, row, scopes=tuple(row["scopes"])) for row in rows]
