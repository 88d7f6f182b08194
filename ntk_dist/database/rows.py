"""What the tables have in common: records go in, and come out as they were."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Generic, TypeVar

from sqlalchemy import BigInteger, Column, Integer, Select, String, Table, select

from ntk_dist.database.connection import Connector
from ntk_dist.errors import RequestError

__all__ = ["Rows"]

Record = TypeVar("Record")


class Rows(Generic[Record]):
    """One table, whose columns are called as the fields of its records are.

    Raises
    ------
    StoreUnreachableError
        From every method: the database does not answer.
    """

    _table: ClassVar[Table]
    _kind: type[Record]

    def __init__(self, connector: Connector) -> None:
        self._connector = connector

    def _row(self, record: Record) -> dict[str, Any]:
        """The columns of a record.

        Raises
        ------
        RequestError
            PostgreSQL would not keep a value. SQLite would keep any, and is not asked to.
        """
        for column in self._table.columns:
            _require_fits(column, getattr(record, column.name))
        return dict(vars(record))

    def _record(self, row: Mapping[str, Any]) -> Record:
        """The record in a row."""
        return self._kind(**row)

    def _all(self, query: Select[Any]) -> list[Record]:
        with self._connector.connect() as connection:
            return [self._record(dict(row)) for row in connection.execute(query).mappings()]

    def _one(self, id: str) -> Record | None:
        found = self._all(select(self._table).where(self._table.c.id == id))
        return found[0] if found else None


def _require_fits(column: Column[Any], value: object) -> None:
    """Refuse a value without quoting it: it may be a secret."""
    kind = column.type
    if isinstance(kind, String) and isinstance(value, str):
        if kind.length is not None and len(value) > kind.length:
            raise RequestError(
                f"{column.name}: expected at most {kind.length} characters, got {len(value)}"
            )
        if "\0" in value:
            raise RequestError(f"{column.name}: expected text without the character NUL, got some")
    elif isinstance(kind, Integer) and isinstance(value, int):
        bits = 63 if isinstance(kind, BigInteger) else 31
        if value.bit_length() > bits:
            raise RequestError(
                f"{column.name}: expected a number of {bits} bits that a database can keep, got "
                f"one of {value.bit_length()}"
            )
