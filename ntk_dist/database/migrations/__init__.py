"""How the tables came to be what they are, one of :mod:`.versions` for every change.

Alembic runs :mod:`.env`, which runs them in order on the connection it was handed. A new one,
for tables that were changed in :mod:`ntk_dist.database.tables`, has the revision that follows,
names the one before it, and is never changed once it was released.
"""

__all__: list[str] = []
