"""Which of the exact evaluations a block goes through, and why: decided here and nowhere else."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np

from ntk_dist.kernels.branching import Serial
from ntk_dist.kernels.dense_program import compile_dense
from ntk_dist.kernels.engines import FusedDense, FusedGpu, FusedPlanes
from ntk_dist.kernels.evaluations import Evaluation, Recursion
from ntk_dist.kernels.fused_gpu import available
from ntk_dist.kernels.gpu_program import lay_out
from ntk_dist.kernels.layers import Flatten, Identity, Layer
from ntk_dist.kernels.program import compile_program
from ntk_dist.kernels.recursion import needs_all_positions

__all__ = ["Path", "choose", "seen_shape"]

LANES = 16
"""Those of float32: what can be fused does not depend on them, nor do the flops of a pair."""

FLOAT32 = np.dtype(np.float32)
"""Likewise: the precision that decides nothing here."""
ENGINES = {"cpu": FusedPlanes, "gpu": FusedGpu}
"""For convolutions, by kind of device."""


@dataclass(frozen=True)
class Path:
    """One of the evaluations, chosen for an architecture, a shape of samples and a device."""

    evaluation: Evaluation
    explanation: str
    """Which it is and why, in one sentence."""

    @property
    def fused(self) -> bool:
        """Whether a fused engine computes the pairs."""
        return not isinstance(self.evaluation, Recursion)


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
    shape = seen_shape(architecture, input_shape)
    reference = Recursion(architecture, shape)
    if len(shape) == 1:
        return _without_axes(reference, device)
    pixels = " × ".join(map(str, shape[:-1]))
    everywhere = needs_all_positions(architecture)
    mixed = f"all pairs of the {pixels} positions" if everywhere else f"the {pixels} positions"
    if device not in ENGINES:
        why = f"no fused engine runs on {device}"
        return Path(reference, f"reference recursion over {mixed}: {why}")
    if device == "gpu" and (missing := available()):
        return Path(reference, f"reference recursion over {mixed}: {missing}")
    program = compile_program(architecture, shape, LANES)
    if isinstance(program, str):
        return Path(reference, f"reference recursion over {mixed}: {program}")
    if not len(program.steps):
        why = "no layer precedes the pooling"
        return Path(reference, f"reference recursion over {mixed}: {why}")
    if device == "gpu" and isinstance(refusal := lay_out(architecture, shape, FLOAT32), str):
        return Path(reference, f"reference recursion over {mixed}: {refusal}")
    why = "pooling mixes them" if everywhere else "no pooling mixes them"
    explanation = f"fused {device.upper()} engine over {mixed}, a displacement at a time: {why}"
    return Path(ENGINES[device](architecture, shape, program), explanation)


def _without_axes(reference: Recursion, device: str) -> Path:
    """Where no layer sees spatial axes."""
    seen = "no layer sees spatial axes"
    if device != "cpu":
        return Path(reference, f"reference recursion on whole matrices: {seen}")
    program = compile_dense(reference.architecture, reference.shape)
    if isinstance(program, str):
        return Path(reference, f"reference recursion on whole matrices: {seen}; {program}")
    evaluation = FusedDense(reference.architecture, reference.shape, program)
    return Path(evaluation, f"fused CPU engine, a tile of a matrix product at a time: {seen}")


def seen_shape(architecture: Layer, input_shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape in which samples enter the evaluation: flat at once if Flatten comes first.

    Otherwise Flatten would average the pixels' products over a thousandfold larger array.
    """
    first = architecture
    while isinstance(first, Serial):
        first = next((each for each in first.layers if not isinstance(each, Identity)), Identity())
    return (math.prod(input_shape),) if isinstance(first, Flatten) else input_shape
