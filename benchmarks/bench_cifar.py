"""The main job on real images, on every executor: the same answer, and what each one costs.

    python benchmarks/bench_cifar.py cifar10_5k.npz

The file holds x_train, y_train, x_test, y_test (uint8 images, labels 0 to 9). A ReLU network with
three hidden layers (W_std = sqrt 2, b_std = 0.1 everywhere) is fitted without a ridge on features
standardized with the training rows. Answers are checked before times are printed: predictions of
all executors agree with the dense solver's, and the true residual is met. ``synthetic`` in place
of a file runs the same on random images.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from ntk_dist import NTKClassifier, stax
from ntk_dist.executors import make_executor
from ntk_dist.units import format_bytes

TOL = 1e-6
AGREE = 1e-5
"""Largest difference of class values between executors; targets are 0.9 and -0.1."""


def network() -> stax.Network:
    """Three hidden ReLU layers."""
    hidden = {"W_std": 2**0.5, "b_std": 0.1}
    layers = [layer for _ in range(3) for layer in (stax.Dense(1, **hidden), stax.Relu())]
    return stax.serial(stax.Flatten(), *layers, stax.Dense(1, **hidden))


def load(source: str) -> dict[str, np.ndarray]:
    """Train and test images with labels."""
    if source == "synthetic":
        rng = np.random.default_rng(0)
        labels = rng.integers(10, size=300)
        centres = rng.normal(size=(10, 8, 8, 3))
        images = centres[labels] + rng.normal(size=(300, 8, 8, 3))
        return {
            "x_train": images[:200],
            "y_train": labels[:200],
            "x_test": images[200:],
            "y_test": labels[200:],
        }
    with np.load(source) as archive:
        return {name: archive[name] for name in ("x_train", "y_train", "x_test", "y_test")}


def measure(data: dict[str, np.ndarray], executor: str, solver: str) -> dict[str, object]:
    """Fit and predict from an empty workspace."""
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, make_executor(executor) as workers:
        started = time.perf_counter()
        model = NTKClassifier(
            network(),
            preprocess=["standardize"],
            executor=workers,
            solver=solver,
            workspace=Path(folder),
            tol=TOL,
        )
        model.fit(data["x_train"], data["y_train"])
        fitted = time.perf_counter()
        values = model.decision_function(data["x_test"])
        done = time.perf_counter()
        return {
            "values": values,
            "report": model.report_,
            "accuracy": float(np.mean(model.classes_[values.argmax(axis=1)] == data["y_test"])),
            "start_s": started - begin,
            "fit_s": fitted - started,
            "predict_s": done - fitted,
        }


def main() -> int:
    """Run, check, print; 0 if every check held."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="an .npz file, or 'synthetic'")
    parser.add_argument("--executors", default="local,dask,ray")
    arguments = parser.parse_args()
    data = load(arguments.data)
    print(f"{len(data['x_train'])} training rows, {len(data['x_test'])} test rows")
    runs = {"local, direct": measure(data, "local", "direct")}
    for executor in arguments.executors.split(","):
        runs[executor] = measure(data, executor, "cg")
    reference = runs["local, direct"]["values"]
    header = f"{'run':<16}{'accuracy':>9}{'steps':>7}{'residual':>11}{'vs direct':>11}"
    print(f"{header}{'start s':>9}{'fit s':>8}{'predict s':>11}  seconds per phase")
    good = True
    for name, run in runs.items():
        report = run["report"]
        difference = float(np.abs(run["values"] - reference).max())
        residual = max(report.residuals)
        good &= difference <= AGREE and residual <= TOL and report.solve.status.is_success
        phases = ", ".join(f"{phase} {s:.2f}" for phase, s in report.seconds.items())
        print(
            f"{name:<16}{run['accuracy']:>9.3f}{report.iterations:>7}{residual:>11.1e}"
            f"{difference:>11.1e}{run['start_s']:>9.2f}{run['fit_s']:>8.2f}"
            f"{run['predict_s']:>11.2f}  {phases}"
        )
    gram = runs["local, direct"]["report"].gram
    print(f"Gram: {gram.n_blocks} blocks of {gram.block_rows} rows, {format_bytes(gram.n_bytes)}")
    print("all checks held" if good else f"CHECK FAILED: agreement {AGREE}, residual {TOL}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
