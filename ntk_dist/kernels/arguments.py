"""What the arguments of a layer may be: rules, in words, that bring values to one form."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from numbers import Real
from types import MappingProxyType
from typing import Any, TypeAlias

__all__ = [
    "AXES",
    "COUNT",
    "COUNTS",
    "FLAG",
    "NUMBER",
    "PADDING",
    "PAIR",
    "PARAMETERIZATION",
    "STD",
    "STD_OR_NONE",
    "STRIDES",
]

Rule: TypeAlias = Mapping[str, Any]


def _rule(expected: str, parse: Callable[[Any], Any]) -> Rule:
    """Field metadata: what an argument may be, in words, and how it is brought to one form.

    ``parse`` raises TypeError or ValueError for anything else.
    """
    return MappingProxyType({"expected": expected, "parse": parse})


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise ValueError
    return float(value) + 0.0  # + 0.0: -0.0 and 0.0 are one number and have one fingerprint


def _at_least_zero(value: Any) -> float:
    if (number := _number(value)) < 0:
        raise ValueError
    return number


def _count(value: Any) -> int:
    if isinstance(value, bool) or operator.index(value) < 1:
        raise ValueError
    return operator.index(value)


def _counts(value: Any) -> tuple[int, ...]:
    if isinstance(value, str) or not (counts := tuple(_count(v) for v in value)):
        raise ValueError
    return counts


def _strides(value: Any) -> tuple[int, ...] | None:
    # Explicit ones are the default spelled out: one form, one fingerprint.
    return None if value is None or set(_counts(value)) == {1} else _counts(value)


def _pair(value: Any) -> tuple[int, ...]:
    if len(counts := _counts(value)) != 2:
        raise ValueError
    return counts


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _one_of(*names: str) -> Callable[[Any], str]:
    def parse(value: Any) -> str:
        if value not in names:
            raise ValueError
        return str(value)

    return parse


def _axes(value: Any) -> tuple[int, ...]:
    values = value if isinstance(value, tuple | list) else (value,)
    axes = tuple(operator.index(v) for v in values)
    if 0 in axes or len(set(axes)) != len(axes) or not axes:
        raise ValueError
    return axes


NUMBER = _rule("a finite number", _number)
STD = _rule("a finite number, at least 0", _at_least_zero)
STD_OR_NONE = _rule(
    "a finite number, at least 0, or None for no bias",
    lambda value: None if value is None else _at_least_zero(value),
)
COUNT = _rule("an integer, at least 1", _count)
COUNTS = _rule("a sequence of integers, each at least 1", _counts)
STRIDES = _rule("None or a sequence of integers, each at least 1", _strides)
PAIR = _rule("two integers, each at least 1", _pair)
FLAG = _rule("True or False", _flag)
PADDING = _rule('"VALID", "SAME" or "CIRCULAR"', _one_of("VALID", "SAME", "CIRCULAR"))
PARAMETERIZATION = _rule(
    '"ntk" or "standard"', lambda value: _one_of("ntk", "standard")(str(value).lower())
)
AXES = _rule("an axis or axes, without the batch axis 0, each once", _axes)
