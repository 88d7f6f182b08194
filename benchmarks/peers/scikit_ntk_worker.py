"""scikit-ntk as a peer, in an interpreter of its own: fully connected ReLU networks without biases.

Its biases start at zero and are trained, which is another kernel than that of random biases; its
kernel is that of the same network without any, times ``n_features / (depth + 1)``.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np
from serving import serve
from skntk import NeuralTangentKernel


def main() -> None:
    """Serve."""
    names = ("scikit-ntk", "numpy")
    serve(prepare, ", ".join(f"{name} {version(name)}" for name in names))


def prepare(request: dict[str, Any]) -> Callable[[], np.ndarray]:
    """The NTK of the request's samples."""
    x1, x2 = (None if path is None else np.load(path) for path in request["x"])
    depth = request["depth"]
    kernel = NeuralTangentKernel(depth, bias=0.0, bias_bounds="fixed")
    scale = x1.dtype.type((depth + 1) / x1.shape[1])  # and float32 stays what it is
    return lambda: scale * kernel(x1, x2)


if __name__ == "__main__":
    main()
