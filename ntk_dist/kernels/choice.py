"""Which of the exact evaluations a block goes through, and why: decided here and nowhere else."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

from ntk_dist.kernels.alone import compile_matched
from ntk_dist.kernels.branching import Serial
from ntk_dist.kernels.dense_program import compile_dense
from ntk_dist.kernels.engines import FusedDense, FusedGpu, FusedPlanes
from ntk_dist.kernels.evaluations import Evaluation, Recursion
from ntk_dist.kernels.fused_gpu import available
from ntk_dist.kernels.gpu_program import lay_out
from ntk_dist.kernels.lanes import DOUBLE, SINGLE
from ntk_dist.kernels.layers import Flatten, Identity, Layer
from ntk_dist.kernels.program import compile_both
from ntk_dist.kernels.recursion import needs_all_positions

__all__ = ["Choice", "choose", "seen_shape"]


@dataclass(frozen=True)
class Choice:
    """One of the evaluations, chosen for an architecture, a shape of samples and a device."""

    evaluation: Evaluation
    explanation: str
    """Which it is and why, in one sentence."""

    @property
    def fused(self) -> bool:
        """Whether a fused engine computes the pairs."""
        return not isinstance(self.evaluation, Recursion)


@functools.lru_cache(maxsize=256)
def choose(architecture: Layer, input_shape: tuple[int, ...], device: str) -> Choice:
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
    shape = seen_shape(architecture, input_shape)
    reference = Recursion(architecture, shape)
    if len(shape) == 1:
        return _without_axes(reference, device)
    pixels = " × ".join(map(str, shape[:-1]))
    everywhere = needs_all_positions(architecture)
    mixed = f"all pairs of the {pixels} positions" if everywhere else f"the {pixels} positions"
    engine = _by_displacements(architecture, shape, device)
    if isinstance(engine, str):
        return Choice(reference, f"reference recursion over {mixed}: {engine}")
    why = "pooling mixes them" if everywhere else "no pooling mixes them"
    explanation = f"fused {device.upper()} engine over {mixed}, a displacement at a time: {why}"
    return Choice(engine, explanation)


def _by_displacements(
    architecture: Layer, shape: tuple[int, ...], device: str
) -> FusedPlanes | str:
    """The fused engine for convolutions, or why it cannot be had."""
    if device not in ("cpu", "gpu"):
        return f"no fused engine runs on {device}"
    if device == "gpu" and (missing := available()):
        return missing
    programs = compile_both(architecture, shape)
    if isinstance(programs, str):
        return programs
    if not len(programs[SINGLE].steps):
        return "no layer precedes the pooling"
    mixes = programs[DOUBLE].mixes_positions
    matched = compile_matched(architecture, shape) if mixes else None
    if isinstance(matched, str):
        return matched
    if device == "cpu":
        return FusedPlanes(architecture, shape, programs, matched)
    block_programs = lay_out(architecture, shape)
    if isinstance(block_programs, str):
        return block_programs
    return FusedGpu(architecture, shape, programs, matched, block_programs)


def _without_axes(reference: Recursion, device: str) -> Choice:
    """Where no layer sees spatial axes."""
    seen = "no layer sees spatial axes"
    if device != "cpu":
        return Choice(reference, f"reference recursion on whole matrices: {seen}")
    program = compile_dense(reference.architecture, reference.shape)
    if isinstance(program, str):
        return Choice(reference, f"reference recursion on whole matrices: {seen}; {program}")
    evaluation = FusedDense(reference.architecture, reference.shape, program)
    return Choice(evaluation, f"fused CPU engine, a tile of a matrix product at a time: {seen}")


def seen_shape(architecture: Layer, input_shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape in which samples enter the evaluation: flat at once if Flatten comes first.

    Otherwise Flatten would average the pixels' products over a thousandfold larger array.
    """
    first = architecture
    while isinstance(first, Serial):
        first = next((each for each in first.layers if not isinstance(each, Identity)), Identity())
    return (math.prod(input_shape),) if isinstance(first, Flatten) else input_shape
