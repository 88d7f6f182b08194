"""A database that is open: its tables, one attribute each."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from ntk_dist.database.connection import Connector
from ntk_dist.database.jobs import Jobs
from ntk_dist.database.tokens import Tokens
from ntk_dist.database.upgrade import upgrade
from ntk_dist.database.uploads import Uploads

__all__ = ["Database"]


class Database:
    """Jobs, tokens and uploads; any number of threads may share one. See :func:`open_database`."""

    def __init__(self, url: str) -> None:
        self._connector = Connector(url)
        try:
            self.revisions = upgrade(self._connector)
            """Of the tables: those that were found, and those that there are now."""
        except BaseException:
            self.close()
            raise
        self.jobs = Jobs(self._connector)
        self.tokens = Tokens(self._connector)
        self.uploads = Uploads(self._connector)

    @property
    def place(self) -> str:
        """Its URL without password or options."""
        return self._connector.place

    def ping(self) -> None:
        """Ask for an answer.

        Raises
        ------
        StoreUnreachableError
            There is none.
        """
        self.jobs.counts()

    def close(self) -> None:
        """Give the connections back; twice is fine."""
        self._connector.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Database({self.place!r})"
