"""Kernels against golden values that another implementation computed in float64."""

import json
from pathlib import Path

import numpy as np
import pytest

from ntk_dist.kernels.architecture import fingerprint, from_json, to_json
from ntk_dist.kernels.dispatch import Kernel
from ntk_dist.kernels.layers import Layer

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = json.loads((GOLDEN / "kernels.json").read_text())
OTHER_ACTIVATIONS = {"fc_erf", "fc_gelu", "fc_sin", "cnn_erf_flat"}
# Where inputs repeat or are opposite the golden numbers carry up to 2e-8 themselves.
EXACT_12 = (np.array([0, 1]), np.array([0, 1]))


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "kernels.npz") as file:
        return dict(file)


def architecture(name: str) -> Layer:
    return from_json(CASES[name]["architecture"])


def compare(ours: np.ndarray, golden: np.ndarray, tolerance: float, exact, exact_tol) -> None:
    error = np.abs(ours - golden) / np.abs(golden).max()
    assert error[exact].max() <= exact_tol
    error[exact] = 0
    assert error.max() <= tolerance


@pytest.mark.parametrize(
    ("name", "dtype"),
    [(name, "float64") for name in CASES]
    + [(name, "float32") for name in CASES if name not in OTHER_ACTIVATIONS],
)
def test_block_agrees_with_golden_values(name, dtype, golden):
    tolerance, exact_tolerance = (1e-10, 1e-6) if dtype == "float64" else (1e-5, 1e-5)
    kernel = Kernel(architecture(name), ("nngp", "ntk"), dtype)
    x1, x2 = golden[f"{name}/x1"], golden[f"{name}/x2"]
    statistics = kernel.statistics(np.concatenate([x1, x2]))
    symmetric = kernel.block(x1, None, statistics[:5])
    cross = kernel.block(x1, x2, statistics[:5], statistics[5:]) if dtype == "float64" else {}
    for which in kernel.kernels:
        assert symmetric[which].dtype == dtype
        diagonal = (np.arange(5), np.arange(5))
        expected = golden[f"{name}/{which}_11"]
        compare(symmetric[which], expected, tolerance, diagonal, exact_tolerance)
        assert np.array_equal(symmetric[which], symmetric[which].T)
        assert np.array_equal(
            symmetric[which][diagonal], statistics.kernels[which][:5].astype(dtype)
        )
    for which, values in cross.items():
        expected = golden[f"{name}/{which}_12"]
        compare(values, expected, tolerance, EXACT_12, exact_tolerance)


@pytest.mark.parametrize("name", CASES)
def test_json_round_trip_keeps_the_fingerprint(name):
    layer = architecture(name)
    again = from_json(to_json(layer))
    assert again == layer
    assert fingerprint(again) == fingerprint(layer)


def test_fingerprints_tell_architectures_apart():
    assert len({fingerprint(architecture(name)) for name in CASES}) == len(CASES)
