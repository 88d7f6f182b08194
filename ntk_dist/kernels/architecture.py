"""Architectures as nested lists in JSON, their fingerprints, and whether data fit them.

A layer is ``["Dense", {"out_dim": 1, "W_std": 1.5}]``, or ``["Relu"]`` without arguments; layers
in a row are ``["serial", layer, ...]`` and side by side ``["parallel", layer, ...]``.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from typing import Any

from ntk_dist.errors import ArchitectureError, DataShapeError
from ntk_dist.job_file import no_key_twice
from ntk_dist.kernels import branching, layers
from ntk_dist.kernels.branching import Parallel, Serial
from ntk_dist.kernels.layers import Layer
from ntk_dist.kernels.shapes import Signal

__all__ = ["build", "check", "fingerprint", "from_json", "output_shape", "to_json"]

COMBINATIONS: Mapping[str, type[Serial] | type[Parallel]] = {
    "serial": Serial,
    "parallel": Parallel,
}
BASES = (Layer, layers.Activation, layers.Pool, layers.GlobalPool)
LAYERS: Mapping[str, type[Layer]] = {
    name: kind
    for module in (layers, branching)
    for name in module.__all__
    if (kind := getattr(module, name)) not in (*BASES, Serial, Parallel)
}


def build(name: str, arguments: Mapping[str, Any]) -> Layer:
    """One layer by its name in neural_tangents.

    Raises
    ------
    ArchitectureError
        Unknown layer; unknown, missing or unsupported argument.
    """
    if name not in LAYERS:
        raise ArchitectureError(_unknown("layer", name, [*COMBINATIONS, *LAYERS]))
    kind = LAYERS[name]
    known = {f.name: f for f in fields(kind)}
    kept: dict[str, Any] = {}
    for key, value in arguments.items():
        if key in known:
            kept[key] = value
        elif key not in kind.fixed:
            raise ArchitectureError(_unknown(f"{name} argument", key, [*known, *kind.fixed]))
        elif _tuples(value) not in kind.fixed[key]:
            raise ArchitectureError(
                f"{name}: {key} must be {' or '.join(map(repr, kind.fixed[key]))}, got {value!r}"
                "; samples come first and channels last: transpose the data if they do not"
            )
    missing = [k for k, f in known.items() if f.default is MISSING and k not in kept]
    if missing:
        raise ArchitectureError(f"{name}: missing argument {', '.join(missing)}")
    return kind(**kept)


def to_json(layer: Layer) -> str:
    """The architecture as one line of JSON; arguments at their defaults are left out."""
    return json.dumps(_encode(layer), sort_keys=True)


def from_json(text: str | bytes | list[Any]) -> Layer:
    """The architecture that JSON text, or the nested lists it holds, describes.

    ``out_dim`` and ``out_chan`` default to 1: they concern finite networks only.

    Raises
    ------
    ArchitectureError
        No JSON, not of this form, an unknown layer or argument, or layers that cannot follow
        each other.
    """
    try:
        return _decode(_parse(text) if isinstance(text, str | bytes) else text)
    except RecursionError as error:
        raise ArchitectureError(
            "architecture: expected lists nested a few levels deep, got hundreds; layers in a row "
            'are one list: ["serial", layer, layer, ...]'
        ) from error


def fingerprint(layer: Layer) -> str:
    """Sixteen hexadecimal digits that two architectures share only when they are the same.

    Independent of the process, of default arguments being spelled out, and of their order.
    """
    return hashlib.sha256(to_json(layer).encode()).hexdigest()[:16]


def output_shape(layer: Layer, input_shape: Iterable[int]) -> tuple[int, ...]:
    """The shape of the finite network's output for one sample: spatial axes, then channels.

    ``input_shape`` is that of one sample, ``(features,)`` or ``(height, width, channels)``.

    Raises
    ------
    ArchitectureError, DataShapeError
        See ``check``.
    """
    sizes = tuple(input_shape)
    if not sizes or min(sizes) < 1:
        raise DataShapeError(
            f"expected samples of shape (features,) or (height, width, channels), got {sizes}"
        )
    state = layer.flow(
        Signal(spatial=sizes[:-1], channels=sizes[-1], gaussian=False, measured=True), ()
    )
    if not isinstance(state, Signal):
        raise ArchitectureError(
            "architecture: expected one output, got branches; end with FanInSum"
        )
    shape = (*(state.spatial or ()), state.channels)
    return tuple(size for size in shape if size is not None)


def check(layer: Layer, input_shape: Iterable[int]) -> None:
    """Refuse an architecture that has no kernel for samples of this shape.

    Raises
    ------
    ArchitectureError
        It starts with an activation, or its output still has branches or spatial axes.
    DataShapeError
        It would do, but not for samples of this rank or size.
    """
    sizes = tuple(input_shape)
    if spatial := output_shape(layer, sizes)[:-1]:
        raise ArchitectureError(
            f"architecture: expected an output without spatial axes, got {spatial} from samples "
            f"of shape {sizes}; end with Flatten or GlobalAvgPool, or flatten the samples"
        )


def _encode(layer: Layer) -> list[Any]:
    if isinstance(layer, Serial | Parallel):
        return [type(layer).__name__.lower(), *map(_encode, layer.layers)]
    arguments = layer.arguments()
    return [type(layer).__name__, arguments] if arguments else [type(layer).__name__]


def _parse(text: str | bytes) -> Any:
    try:
        return json.loads(text, object_pairs_hook=no_key_twice)
    except ValueError as error:
        raise ArchitectureError(f"architecture: expected JSON, got: {error}") from error


def _decode(node: Any) -> Layer:
    if not (isinstance(node, list) and node and isinstance(node[0], str)):
        raise ArchitectureError(
            f'architecture: expected ["serial", layer, ...] or [NAME, arguments], got {node!r}'
        )
    name, *rest = node
    if name in COMBINATIONS:
        return COMBINATIONS[name](tuple(map(_decode, rest)))
    if len(rest) > 1 or (rest and not isinstance(rest[0], dict)):
        raise ArchitectureError(
            f"{name}: expected one object of named arguments, got {json.dumps(rest)}"
        )
    return build(name, rest[0] if rest else {})


def _unknown(what: str, name: str, known: list[str]) -> str:
    spelled = {each.lower(): each for each in known}
    close = difflib.get_close_matches(name.lower(), spelled, n=1, cutoff=0.5)
    hint = f"; did you mean {spelled[close[0]]!r}?" if close else "."
    return f"unknown {what} {name!r}{hint} Known: {', '.join(known) or 'none'}"


def _tuples(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
