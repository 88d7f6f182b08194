"""What number belongs to a pair of inputs: the exact kernels of infinitely wide networks.

``architecture`` reads and checks nested lists of ``layers`` and ``branching``, by the rules in
``arguments`` and ``shapes``; ``activations`` holds the closed forms; ``recursion`` propagates a
kernel through any architecture, with the sliding of ``windows``, and is the reference that every
faster path must agree with; ``statistics`` is what is known of each sample alone, ``coincidence``
which samples are equal or opposite, ``cost`` what a pair of them takes; ``finite`` is the random
network whose width goes to infinity. Callers want ``Kernel`` from ``dispatch``: one block, or one
diagonal, by the ``choice`` among ``evaluations`` for this ``device``, and its ``projection``: what
that takes here. Jobs keep what JAX compiles in a ``cache``.

That is mostly one of the ``engines``, fused and compiled. For convolutions ``fusing`` turns an
architecture into steps and ``program`` these into arrays of ``records``, with constants that
``rounding`` has balanced and ``flops`` counted; on CPU ``segments`` runs them over ``planes``
(``fused_cpu``), on a GPU ``gpu_segments`` over ``gpu_planes``, as ``gpu_program`` lays them out
(``fused_gpu``). Either leaves to float64 the pairs that ``closeness`` finds, a sample ``alone``
with itself or its opposite, and the layers of the ``tail``. Without spatial axes ``dense_program``
makes the arrays, and ``tiles`` are products by ``gemm`` that go through all layers as ``gaps``, or
at once along ``curves`` (``fused_dense``); what has the same ``columns`` every time, as predictions
have, is packed once. The engines on CPU are made of the SIMD ``lanes`` and
the polynomials of ``arc_cosine`` and ``smooth``, work in ``threads``, and are kept on disk by
``compiling``; so is the product of a block that is done with vectors on ``both_sides``.

Nothing is imported here, so that reading an architecture does not start JAX.
"""

__all__ = [
    "activations",
    "alone",
    "arc_cosine",
    "architecture",
    "arguments",
    "both_sides",
    "branching",
    "cache",
    "choice",
    "closeness",
    "coincidence",
    "columns",
    "compiling",
    "cost",
    "curves",
    "dense_program",
    "device",
    "dispatch",
    "engines",
    "evaluations",
    "finite",
    "flops",
    "fused_cpu",
    "fused_dense",
    "fused_gpu",
    "fusing",
    "gaps",
    "gemm",
    "gpu_planes",
    "gpu_program",
    "gpu_segments",
    "lanes",
    "layers",
    "planes",
    "program",
    "projection",
    "records",
    "recursion",
    "rounding",
    "segments",
    "shapes",
    "smooth",
    "statistics",
    "tail",
    "threads",
    "tiles",
    "windows",
]
