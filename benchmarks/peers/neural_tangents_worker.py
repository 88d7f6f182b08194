"""neural-tangents 0.6.5 as a peer, in an interpreter of its own."""

from __future__ import annotations

import functools
import json
import sys
import types
import warnings
from collections.abc import Callable
from typing import Any

# That subpackage imports TensorFlow, and no kernel needs it.
sys.modules["neural_tangents.experimental"] = types.ModuleType("neural_tangents.experimental")
warnings.simplefilter("ignore")

import jax  # noqa: E402 - after the stub
import neural_tangents  # noqa: E402
import numpy as np  # noqa: E402
from neural_tangents import stax  # noqa: E402
from serving import serve  # noqa: E402

WIDTHS = {"Dense": "out_dim", "Conv": "out_chan"}
"""Arguments that JSON leaves out where they are 1; the kernel ignores them."""


def main() -> None:
    """Serve; JAX_ENABLE_X64 in the environment decides about float64."""
    serve(prepare, f"neural-tangents {neural_tangents.__version__}, jax {jax.__version__}")


def prepare(request: dict[str, Any]) -> Callable[[], np.ndarray]:
    """The NTK of the request's samples, compiled for their shapes."""
    x1, x2 = (None if path is None else jax.device_put(np.load(path)) for path in request["x"])
    kernel = compiled(
        request["architecture"], None if x2 is None else x2.shape, x1.shape, x1.dtype.name
    )
    return lambda: np.asarray(kernel(x1, x2).block_until_ready())


@functools.cache
def compiled(architecture: str, shape2: Any, shape1: Any, dtype: str) -> Any:
    """The kernel function of an architecture, compiled once for two shapes of samples."""
    kernel_fn = network(json.loads(architecture))[2]
    samples = [s if s is None else jax.ShapeDtypeStruct(s, dtype) for s in (shape1, shape2)]
    return jax.jit(lambda a, b: kernel_fn(a, b, "ntk")).lower(*samples).compile()


def network(layer: list[Any]) -> Any:
    """The layers of nested lists: ``["Dense", {"W_std": 1.5}]``, or ``["serial", ...]``."""
    name, *rest = layer
    if name in ("serial", "parallel"):
        return getattr(stax, name)(*map(network, rest))
    arguments = {k: tuple(v) if isinstance(v, list) else v for k, v in dict(*rest).items()}
    if name in WIDTHS:
        arguments.setdefault(WIDTHS[name], 1)
    return getattr(stax, name)(**arguments)


if __name__ == "__main__":
    main()
