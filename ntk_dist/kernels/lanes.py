"""One machine word of pairs: explicit SIMD for compiled functions, on any processor LLVM knows.

A ``Lanes`` value holds as many numbers as fill 64 bytes, one per pair of samples. Loops over
arrays would leave it to LLVM to prove that they do not overlap, once per row; explicit vectors
need no proof, and narrower machines split them.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import float32, njit, types
from numba.core import cgutils
from numba.extending import intrinsic, lower_builtin, models, register_model, type_callable

__all__ = [
    "COMPILER_OPTIONS",
    "DOUBLE",
    "SINGLE",
    "WORD_BYTES",
    "Lanes",
    "aligned",
    "call_vector",
    "choose_less",
    "compiled",
    "lane_count",
    "load",
    "magnitude",
    "nearest",
    "polynomial",
    "power_of_two",
    "root",
    "spread",
    "store",
    "vector_of",
    "with_sign",
]

F = TypeVar("F", bound=Callable[..., Any])

SINGLE, DOUBLE = np.dtype(np.float32), np.dtype(np.float64)
"""What a word may hold."""
WORD_BYTES = 64
COMPILER_OPTIONS: dict[str, Any] = {
    "nogil": True,
    "fastmath": {"contract"},
    "error_model": "numpy",
}


def lane_count(itemsize: int) -> int:
    """Numbers of this many bytes in one value: 16 in float32, 8 in float64."""
    return WORD_BYTES // itemsize


def aligned(size: int, dtype: npt.DTypeLike) -> np.ndarray:
    """An uninitialized flat array that starts with a whole word, as ``load`` and ``store`` need."""
    dtype = np.dtype(dtype)
    raw = np.empty(size * dtype.itemsize + WORD_BYTES, np.uint8)
    start = -raw.ctypes.data % WORD_BYTES
    return raw[start : start + size * dtype.itemsize].view(dtype)


def compiled(function: F) -> F:
    """The function compiled into those that call it, for the types it is called with.

    Products and sums may contract to one rounding; nothing else is relaxed, so that NaN and
    infinities stay what they are.
    """
    return cast("F", njit(**COMPILER_OPTIONS)(function))


class Lanes(types.Type):
    """The numba type of a vector."""

    def __init__(self, element: types.Float) -> None:
        self.element = element
        self.count = lane_count(element.bitwidth // 8)
        super().__init__(name=f"Lanes({element}, {self.count})")


@register_model(Lanes)
class LanesModel(models.PrimitiveModel):
    """How LLVM sees it."""

    def __init__(self, manager: Any, lanes: Lanes) -> None:
        super().__init__(manager, lanes, vector_of(lanes))


def vector_of(lanes: Lanes) -> ir.VectorType:
    """The LLVM type of a value."""
    element = ir.FloatType() if lanes.element == float32 else ir.DoubleType()
    return ir.VectorType(element, lanes.count)


def _pointer(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    """Where element ``arguments[1]`` of the array ``arguments[0]`` starts, as one vector."""
    array_type = signature.args[0]
    array = context.make_array(array_type)(context, builder, arguments[0])
    element = builder.gep(array.data, [arguments[1]])
    return builder.bitcast(element, vector_of(Lanes(array_type.dtype)).as_pointer())


@intrinsic
def load(typing: Any, array: Any, offset: Any) -> Any:
    """The vector that starts at element ``offset`` of a flat array aligned to 64 bytes."""
    lanes = Lanes(array.dtype)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(_pointer(context, builder, signature, arguments), align=WORD_BYTES)

    return lanes(array, types.intp), generate


@intrinsic
def store(typing: Any, array: Any, offset: Any, value: Any) -> Any:
    """Write a vector at element ``offset`` of a flat array aligned to 64 bytes."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = _pointer(context, builder, signature, arguments)
        builder.store(arguments[2], pointer, align=WORD_BYTES)
        return context.get_dummy_value()

    return types.void(array, types.intp, value), generate


@intrinsic
def spread(typing: Any, array: Any, number: Any) -> Any:
    """A vector of one number, in the precision of ``array``."""
    lanes = Lanes(array.dtype)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vector = vector_of(lanes)
        scalar = context.cast(builder, arguments[1], number, lanes.element)
        nothing = ir.Constant(vector, ir.Undefined)
        first = builder.insert_element(nothing, scalar, ir.Constant(ir.IntType(32), 0))
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), lanes.count), [0] * lanes.count)
        return builder.shuffle_vector(first, nothing, zeros)

    return lanes(array, number), generate


def _arithmetic(operation: Callable[[Any, Any], Any], instruction: str) -> None:
    """Give the operator a meaning between vectors."""

    @type_callable(operation)
    def type_of(context: Any) -> Any:
        def typer(left: Any, right: Any) -> Any:
            return left if isinstance(left, Lanes) and left == right else None

        return typer

    # Not by overload: that would compile one more function per operator and precision.
    @lower_builtin(operation, Lanes, Lanes)
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return getattr(builder, instruction)(*arguments, flags=("contract",))


_arithmetic(operator.add, "fadd")
_arithmetic(operator.sub, "fsub")
_arithmetic(operator.mul, "fmul")
_arithmetic(operator.truediv, "fdiv")


def call_vector(builder: Any, name: str, lanes: Lanes, arguments: Any) -> Any:
    """Call an LLVM intrinsic that maps vectors to a vector."""
    vector = vector_of(lanes)
    signature = ir.FunctionType(vector, [vector] * len(arguments))
    full_name = f"{name}.v{lanes.count}f{lanes.element.bitwidth}"
    function = cgutils.get_or_insert_function(builder.module, signature, full_name)
    return builder.call(function, arguments)


def _unary(name: str) -> Any:
    @intrinsic
    def apply(typing: Any, value: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return call_vector(builder, name, value, arguments)

        return value(value), generate

    return apply


root = _unary("llvm.sqrt")
"""The square root of each lane."""
magnitude = _unary("llvm.fabs")
"""The absolute value of each lane."""
nearest = _unary("llvm.rint")
"""The whole number nearest to each lane."""


@intrinsic
def with_sign(typing: Any, size: Any, sign: Any) -> Any:
    """The lanes of ``size`` with the signs of ``sign``."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return call_vector(builder, "llvm.copysign", size, arguments)

    return size(size, sign), generate


@intrinsic
def choose_less(typing: Any, left: Any, right: Any, then: Any, otherwise: Any) -> Any:
    """The lanes of ``then`` where ``left < right``, and of ``otherwise`` elsewhere."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        less = builder.fcmp_ordered("<", arguments[0], arguments[1])
        return builder.select(less, arguments[2], arguments[3])

    return left(left, right, then, otherwise), generate


@intrinsic
def power_of_two(typing: Any, exponent: Any) -> Any:
    """2 to the power of each lane: a whole number within the range of normal numbers."""
    element = exponent.element
    bits, mantissa = element.bitwidth, {32: 23, 64: 52}[element.bitwidth]
    bias = 2 ** (bits - mantissa - 2) - 1

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        integers = ir.VectorType(ir.IntType(bits), exponent.count)
        value = builder.fptosi(arguments[0], integers)
        value = builder.add(value, ir.Constant(integers, [bias] * exponent.count))
        value = builder.shl(value, ir.Constant(integers, [mantissa] * exponent.count))
        return builder.bitcast(value, vector_of(exponent))

    return exponent(exponent), generate


def polynomial(coefficients: dict[int, tuple[float, ...]]) -> Any:
    """A compiled function: the polynomial of each lane, by Horner's rule.

    Parameters
    ----------
    coefficients
        By the bits of the precision, 32 and 64; lowest power first.
    """

    @intrinsic
    def apply(typing: Any, x: Lanes) -> Any:
        highest, *lower = reversed(coefficients[x.element.bitwidth])

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            vector = vector_of(x)
            value = ir.Constant(vector, [highest] * x.count)
            for c in lower:
                constant = ir.Constant(vector, [c] * x.count)
                operands = (value, arguments[0], constant)
                value = call_vector(builder, "llvm.fmuladd", x, operands)
            return value

        return x(x), generate

    return apply
