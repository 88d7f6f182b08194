"""The migrations."""

__all__: list[str] = []
