"""What a service remembers: jobs, tokens and uploads, in SQLite or PostgreSQL.

:mod:`.records` says what is kept, as plain records; :mod:`.tables` how; :mod:`.jobs`,
:mod:`.tokens` and :mod:`.uploads`, which share :mod:`.rows`, read and write it; :mod:`.opened` is
all of them together. :mod:`.connection` reaches the database, and :mod:`.upgrade` brings it to the
tables of this version, which :mod:`.migrations` lead to.

Every operation is one statement, or one transaction, so nothing is ever half done and no lock is
ever held by a service that was killed. Records are changed by comparing and swapping: a change
counts only if nobody else made one since the record was read, and whoever lost reads again.

The rest of the package imports :mod:`.records` and this page only; SQLAlchemy is loaded when a
database is opened.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import SecretStr

from ntk_dist.database.records import JobRecord, TokenRecord, UploadRecord
from ntk_dist.errors import MissingDependencyError, SettingsError
from ntk_dist.store.location import Location, open_place

if TYPE_CHECKING:
    from ntk_dist.database.opened import Database

__all__ = ["JobRecord", "TokenRecord", "UploadRecord", "database_url", "open_database"]


def database_url(workspace: Location, given: SecretStr | str | None = None) -> str:
    """The URL of the database of a workspace: the one given, or that of a file inside it.

    Raises
    ------
    SettingsError
        None is given, and object storage cannot keep a database.
    """
    if given is not None:
        return given.get_secret_value() if isinstance(given, SecretStr) else given
    folder = open_place(workspace).folder
    if folder is None:
        raise SettingsError(
            f"the workspace {workspace} is in object storage, which cannot keep a database: set "
            "NTK_DIST_SERVICE__DATABASE_URL, for example to "
            "postgresql+psycopg://USER:PASSWORD@HOST/NAME"
        )
    path = str(folder.absolute() / "service" / "state.db")
    # The two characters that mean something in the path of such a URL.
    return "sqlite:///" + path.replace("%", "%25").replace("?", "%3F")


def open_database(url: str) -> Database:
    """The database at ``url``, brought to the tables of this version; close it when done.

    Parameters
    ----------
    url
        ``sqlite:////absolute/path.db`` or ``postgresql+psycopg://USER:PASSWORD@HOST/NAME``.
        The password is in no error and no log.

    Raises
    ------
    SettingsError
        It is no such URL.
    MissingDependencyError
        SQLAlchemy, or the driver of PostgreSQL, is not installed.
    StoreUnreachableError
        The database does not answer, or this user may not use it.
    StoreError
        A later version of this package has changed its tables.
    """
    try:
        from ntk_dist.database.opened import Database
    except ImportError as error:
        raise MissingDependencyError(
            f"the database of jobs needs a library that is not installed ({error.name}): "
            "pip install 'ntk_dist[service]'"
        ) from error
    return Database(url)
