"""Which of the exact evaluations a block goes through, and why: decided here and nowhere else."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

from ntk_dist.kernels.branching import Serial
from ntk_dist.kernels.layers import Flatten, Identity, Layer
from ntk_dist.kernels.program import Program, compile_program
from ntk_dist.kernels.recursion import needs_all_positions

__all__ = ["Path", "choose", "seen_shape"]

LANES = 16
"""Those of float32: what can be fused does not depend on them, nor do the flops of a pair."""


@dataclass(frozen=True)
class Path:
    """One of the evaluations, chosen for an architecture, a shape of samples and a device."""

    program: Program | None
    """What the fused engine runs; ``None`` is the reference recursion."""
    explanation: str
    """Which it is and why, in one sentence."""

    @property
    def fused(self) -> bool:
        """Whether the fused engine computes the pairs."""
        return self.program is not None


@functools.lru_cache(maxsize=256)
def choose(architecture: Layer, input_shape: tuple[int, ...], device: str) -> Path:
    """The evaluation for samples of this shape on this kind of device.

    Parameters
    ----------
    architecture
        One that ``architecture.check`` accepts for such samples.
    input_shape
        Shape of one sample.
    device
        ``cpu``, ``gpu`` or ``tpu``, see ``device.device_kind``.
    """
    sizes = seen_shape(architecture, input_shape)
    if len(sizes) == 1:
        return Path(None, "reference recursion on whole matrices: no layer sees spatial axes")
    pixels = " × ".join(map(str, sizes[:-1]))
    everywhere = needs_all_positions(architecture)
    mixed = f"all pairs of the {pixels} positions" if everywhere else f"the {pixels} positions"
    if device != "cpu":
        why = f"the fused engine runs on cpu, not on {device}"
        return Path(None, f"reference recursion over {mixed}: {why}")
    program = compile_program(architecture, sizes, LANES)
    if isinstance(program, str):
        return Path(None, f"reference recursion over {mixed}: {program}")
    if not len(program.steps):
        return Path(None, f"reference recursion over {mixed}: no layer precedes the pooling")
    why = "pooling mixes them" if everywhere else "no pooling mixes them"
    return Path(program, f"fused CPU engine over {mixed}, a displacement at a time: {why}")


def seen_shape(architecture: Layer, input_shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape in which samples enter the evaluation: flat at once if Flatten comes first.

    Otherwise Flatten would average the pixels' products over a thousandfold larger array.
    """
    first = architecture
    while isinstance(first, Serial):
        first = next((each for each in first.layers if not isinstance(each, Identity)), Identity())
    return (math.prod(input_shape),) if isinstance(first, Flatten) else input_shape
