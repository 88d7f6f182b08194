"""How the tables came to be what they are, one file for every change, run in order by Alembic.

A new one, for tables that were changed in :mod:`ntk_dist.database.tables`, has the revision that
follows, names the one before it, and is never changed once it was released.
"""

__all__: list[str] = []
