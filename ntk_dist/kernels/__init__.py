"""What number belongs to a pair of inputs: the exact kernels of infinitely wide networks.

``architecture`` reads and checks nested lists of ``layers`` and ``branching``, by the rules in
``arguments`` and ``shapes``; ``activations`` holds the closed forms; ``recursion`` propagates a
kernel through any architecture, with the sliding of ``windows``, and is the reference that every
faster path must agree with; ``statistics`` is what is known of each sample alone, ``coincidence``
which samples are equal or opposite, ``cost`` what a pair of them takes; ``finite`` is the random
network whose width goes to infinity. Callers want ``Kernel`` from ``dispatch``: one block, or one
diagonal, by the one of the ``evaluations`` that ``paths`` chooses on this ``device``, and its
``projection``: what that takes here. Jobs keep what JAX compiles in a ``cache``.

On CPU that is mostly the fused engine: ``fusing`` turns an architecture into steps, ``program``
these into arrays, and ``segments`` runs them over ``planes``, which are made of ``lanes`` and the
polynomials of ``arc_cosine``; ``fused_cpu`` is the only one of them that others call.

Nothing is imported here, so that reading an architecture does not start JAX.
"""

__all__ = [
    "activations",
    "arc_cosine",
    "architecture",
    "arguments",
    "branching",
    "cache",
    "coincidence",
    "cost",
    "device",
    "dispatch",
    "evaluations",
    "finite",
    "fused_cpu",
    "fusing",
    "lanes",
    "layers",
    "paths",
    "planes",
    "program",
    "projection",
    "recursion",
    "segments",
    "shapes",
    "statistics",
    "windows",
]
