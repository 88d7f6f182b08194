"""What pydantic found wrong, in one line."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

__all__ = ["UNION_ARMS", "describe_problems"]

UNION_ARMS = {
    "str",
    "list[any]",
    "constrained-int",
    "function-before[_whole(), constrained-int]",
    "int",
    "bool",
    "literal['auto']",
}
"""How pydantic names the alternatives of a union in the place of a problem."""


class HasErrors(Protocol):
    """What pydantic, or a framework that builds on it, raised."""

    def errors(self) -> Sequence[Any]:
        """One mapping for every problem."""
        ...


def describe_problems(error: HasErrors, hidden: Iterable[str] = ()) -> str:
    """Every problem with its place, what was expected and what came instead.

    Parameters
    ----------
    error
        What pydantic raised.
    hidden
        Parts of places that say nothing to a person, such as the arms of a union.
    """
    lines = []
    for problem in error.errors():
        place = ".".join(str(part) for part in problem["loc"] if str(part) not in hidden)
        if problem["type"] == "extra_forbidden":
            lines.append(f"{place}: unknown key")
        elif problem["type"] == "missing":
            lines.append(f"{place}: missing")
        else:
            message = problem["msg"].replace("Input should be", "expected", 1)
            message = message.removeprefix("Value error, ")
            lines.append(f"{place}: {message[0].lower()}{message[1:]}, got {problem['input']!r}")
    return "; ".join(lines)
