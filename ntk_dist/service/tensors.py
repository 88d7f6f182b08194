"""Tensors of the Open Inference Protocol: named, typed, as JSON or as bytes behind it.

https://github.com/kserve/open-inference-protocol, with its extension for binary tensors: the body
is then a JSON object, as long as a header says, and the bytes of tensors one after another.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic_core import to_json

from ntk_dist.errors import RequestError
from ntk_dist.service.bodies import as_numbers, parse_json

__all__ = ["HEADER_LENGTH", "InferRequest", "answer_body", "datatype_of", "parse_request"]

HEADER_LENGTH = "Inference-Header-Content-Length"

_DTYPES = {
    "BOOL": "?",
    "UINT8": "<u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "INT8": "<i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
}
_NAMES = {np.dtype(code): name for name, code in _DTYPES.items()}


@dataclass(frozen=True)
class InferRequest:
    """What somebody wants to know."""

    x: np.ndarray
    """The only input."""
    outputs: tuple[str, ...] | None
    """Which are wanted; all that there are for None."""
    is_binary: Mapping[str, bool]
    """Whether an output is wanted as bytes."""
    binary_by_default: bool
    """Whether those are that are not asked for one by one."""
    id: str | None

    def wants_binary(self, output: str) -> bool:
        """Whether an output is wanted as bytes."""
        return self.is_binary.get(output, self.binary_by_default)


def datatype_of(dtype: np.dtype[Any]) -> str:
    """What the protocol calls the entries of an array; text is BYTES."""
    return "BYTES" if dtype.kind == "U" else _NAMES[dtype.newbyteorder("=")]


def parse_request(body: bytes, header_length: str | None) -> InferRequest:
    """The request in a body.

    Parameters
    ----------
    body
        All of it.
    header_length
        ``Inference-Header-Content-Length``: how much of it is JSON; None for all.

    Raises
    ------
    RequestError
        It is none; the message says what was expected.
    """
    size = _header_size(header_length, len(body))
    found = _object(parse_json(body[:size]), "the request")
    inputs = found.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1:
        count = f"{len(inputs)} of them" if isinstance(inputs, list) else "no list"
        raise RequestError(f"inputs: expected a list of one tensor 'x', got {count}")
    x, used = _tensor(_object(inputs[0], "inputs[0]"), body[size:])
    if used != len(body) - size:
        raise RequestError(
            f"expected {used} bytes of tensors behind the JSON, got {len(body) - size}"
        )
    given = found.get("id")
    if given is not None and not isinstance(given, str):
        raise RequestError("id: expected text, got something else")
    names, binary = _outputs(found.get("outputs"))
    default = _parameters(found, "the request").get("binary_data_output", False)
    if not isinstance(default, bool):
        raise RequestError("parameters.binary_data_output: expected true or false")
    return InferRequest(x, names, binary, default, given)


def answer_body(
    request: InferRequest, about: Mapping[str, Any], tensors: Mapping[str, np.ndarray]
) -> tuple[bytes, int | None]:
    """The answer as a body, and the length of its JSON where bytes follow.

    Parameters
    ----------
    request
        Which outputs it wants, and how.
    about
        What else the answer says: the model and its version.
    tensors
        All outputs that there are, by name.

    Raises
    ------
    RequestError
        It wants one that there is not.
    """
    wanted = tuple(tensors) if request.outputs is None else request.outputs
    if unknown := [name for name in wanted if name not in tensors]:
        raise RequestError(f"outputs: expected some of {', '.join(tensors)}, got {unknown[0]!r}")
    outputs: list[dict[str, Any]] = []
    tail: list[bytes] = []
    for name in wanted:
        array = tensors[name]
        told: dict[str, Any] = {
            "name": name,
            "datatype": datatype_of(array.dtype),
            "shape": list(array.shape),
        }
        if request.wants_binary(name):
            tail.append(_to_bytes(array))
            told["parameters"] = {"binary_data_size": len(tail[-1])}
        else:
            told["data"] = array.reshape(-1).tolist()
        outputs.append(told)
    named = {} if request.id is None else {"id": request.id}
    head = to_json({**about, **named, "outputs": outputs})
    return b"".join([head, *tail]), len(head) if tail else None


def _header_size(header_length: str | None, n_bytes: int) -> int:
    if header_length is None:
        return n_bytes
    if not (header_length.isascii() and header_length.isdigit()) or len(header_length) > 18:
        raise RequestError(f"{HEADER_LENGTH}: expected a number of bytes, got {header_length!r}")
    size = int(header_length)
    if size > n_bytes:
        raise RequestError(
            f"{HEADER_LENGTH}: expected at most the {n_bytes} bytes of the body, got {size}"
        )
    return size


def _tensor(found: Mapping[str, Any], tail: bytes) -> tuple[np.ndarray, int]:
    """An input, and how many bytes of ``tail`` it took."""
    if found.get("name") != "x":
        raise RequestError(f"inputs[0].name: expected 'x', got {found.get('name')!r}")
    datatype = found.get("datatype")
    if not isinstance(datatype, str) or datatype not in _DTYPES:
        raise RequestError(f"x.datatype: expected one of {', '.join(_DTYPES)}, got {datatype!r}")
    dtype, shape = np.dtype(_DTYPES[datatype]), _shape(found.get("shape"))
    size = _parameters(found, "x").get("binary_data_size")
    if size is None:
        if "data" not in found:
            raise RequestError("x: expected data, or parameters.binary_data_size, got neither")
        return _from_json(found["data"], datatype, shape), 0
    if "data" in found:
        raise RequestError("x: expected data or parameters.binary_data_size, got both")
    expected = math.prod(shape) * dtype.itemsize
    if type(size) is not int or size != expected:
        raise RequestError(
            f"x.parameters.binary_data_size: expected {expected} bytes for {datatype} of shape "
            f"{list(shape)}, got {size!r}"
        )
    if size > len(tail):
        raise RequestError(f"x: expected {size} bytes behind the JSON, got {len(tail)}")
    if datatype == "BOOL" and max(tail[:size], default=0) > 1:
        raise RequestError("x: expected bytes 0 and 1 for BOOL, got others")
    return _shaped(np.frombuffer(tail, dtype, count=math.prod(shape)), shape), size


def _from_json(data: Any, datatype: str, shape: tuple[int, ...]) -> np.ndarray:
    """Entries, nested or flat, in exactly the type that they are said to have."""
    values = as_numbers(data, "x.data")
    if values.size != math.prod(shape) or (values.ndim > 1 and values.shape != shape):
        raise RequestError(
            f"x.data: expected {math.prod(shape)} entries for shape {list(shape)}, got an array of "
            f"shape {list(values.shape)}"
        )
    dtype = np.dtype(_DTYPES[datatype])
    kinds = {"b": "b", "i": "iu", "u": "iu", "f": "iuf"}[dtype.kind]
    if values.size and values.dtype.kind not in kinds:
        raise RequestError(f"x.data: expected entries of {datatype}, got {values.dtype}")
    if dtype.kind in "iu" and values.size:
        limits = np.iinfo(dtype)
        least, most = int(values.min()), int(values.max())
        if least < limits.min or most > limits.max:
            raise RequestError(
                f"x.data: expected entries of {datatype}, {limits.min} to {limits.max}, got "
                f"{least if least < limits.min else most}"
            )
    with np.errstate(over="ignore"):  # an infinity is found later, and named by its row
        return _shaped(values.reshape(-1).astype(dtype), shape)


def _shaped(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    try:
        return values.reshape(shape)
    except (ValueError, OverflowError) as error:
        raise RequestError(f"x.shape: expected fewer axes or entries, got {shape}") from error


def _shape(found: Any) -> tuple[int, ...]:
    if not isinstance(found, list) or not all(type(n) is int and n >= 0 for n in found):
        raise RequestError(f"x.shape: expected a list of lengths, got {found!r}")
    return tuple(found)


def _outputs(found: Any) -> tuple[tuple[str, ...] | None, dict[str, bool]]:
    if found is None:
        return None, {}
    if not isinstance(found, list):
        raise RequestError("outputs: expected a list of tensors, got something else")
    names, binary = [], {}
    for position, each in enumerate(found):
        place = f"outputs[{position}]"
        name = _object(each, place).get("name")
        if not isinstance(name, str) or name in names:
            raise RequestError(f"{place}.name: expected a name of its own, got {name!r}")
        parameters = _parameters(each, place)
        if parameters.get("classification"):
            raise RequestError(f"{place}: expected no parameter 'classification': ask for 'label'")
        names.append(name)
        if "binary_data" in parameters:
            if not isinstance(parameters["binary_data"], bool):
                raise RequestError(f"{place}.parameters.binary_data: expected true or false")
            binary[name] = parameters["binary_data"]
    return (tuple(names) or None), binary


def _parameters(found: Mapping[str, Any], place: str) -> Mapping[str, Any]:
    given = found.get("parameters")
    return {} if given is None else _object(given, f"{place}: parameters")


def _object(found: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(found, dict):
        raise RequestError(f"{what}: expected a JSON object, got something else")
    return found


def _to_bytes(array: np.ndarray) -> bytes:
    if array.dtype.kind != "U":
        return array.astype(array.dtype.newbyteorder("<")).tobytes()
    return _text_to_bytes([text.encode() for text in array.reshape(-1).tolist()])


def _text_to_bytes(texts: Sequence[bytes]) -> bytes:
    """Each behind its length in four bytes."""
    return b"".join(part for text in texts for part in (len(text).to_bytes(4, "little"), text))
