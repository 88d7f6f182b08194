"""What number belongs to a pair of inputs: the exact kernels of infinitely wide networks.

``architecture`` reads and checks nested lists of ``layers`` and ``branching``, by the rules in
``arguments`` and ``shapes``; ``activations`` holds the closed forms; ``recursion`` propagates a
kernel through any architecture, with the sliding of ``windows``, and is the reference that every
faster path must agree with; ``statistics`` is what is known of each sample alone, ``coincidence``
which samples are equal or opposite, ``cost`` what a pair of them takes; ``finite`` is the random
network whose width goes to infinity. Callers want ``Kernel`` from ``dispatch``: one block, or one
diagonal, by the cheapest exact evaluation there is on this ``device``.

Nothing is imported here, so that reading an architecture does not start JAX.
"""

__all__ = [
    "activations",
    "architecture",
    "arguments",
    "branching",
    "coincidence",
    "cost",
    "device",
    "dispatch",
    "finite",
    "layers",
    "recursion",
    "shapes",
    "statistics",
    "windows",
]
