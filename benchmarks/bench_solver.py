"""Solver steps by rank of the preconditioner, on real data.

    python benchmarks/bench_solver.py kin40k.npz bike.npz cifar10_5k.npz

Each file holds x_train, y_train, x_test, y_test: tables with a real target (standardized, like the
features, with the training rows) or uint8 images with labels. The first 4,000 training rows are
fitted without a ridge with a ReLU network of three hidden layers. Every answer must have a true
residual of at most 1e-6, and predictions must agree between ranks, before steps are printed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
from bench_cifar import network
from sklearn.exceptions import ConvergenceWarning

from ntk_dist import NTKClassifier, NTKRegressor

TOL = 1e-6
RANKS = (0, 100, 400, 1000)
AGREE = 1e-3
"""Largest difference of predictions between ranks, in standard deviations of the target."""


def measure(path: str, rows: int, folder: Path) -> tuple[str, bool]:
    """One line of the table, and whether every check held."""
    with np.load(path) as archive:
        x, y, xt, yt = (archive[k] for k in ("x_train", "y_train", "x_test", "y_test"))
    x, y = x[:rows], y[:rows]
    labels = y.dtype.kind != "f"
    if not labels:
        y, yt = (y - y.mean()) / y.std(), (yt - y.mean()) / y.std()
    good, cells, reference = True, [], None
    for rank in RANKS:
        model = (NTKClassifier if labels else NTKRegressor)(
            network(),
            preprocess=["standardize"],
            preconditioner="rpcholesky" if rank else "none",
            rank=rank or "auto",
            workspace=folder,
            tol=TOL,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the check below says it
            model.fit(x, y)
        values = model.decision_function(xt) if labels else model.predict(xt)
        reference = values if reference is None else reference
        held = max(model.report_.residuals) <= TOL
        held &= float(np.abs(values - reference).max()) <= AGREE
        good &= held
        cells.append(f"{model.report_.iterations}{'' if held else '!'}")
    merged = model.report_.n_rows - model.report_.n_unique
    if labels:
        quality = f"accuracy {model.score(xt, yt):.3f}"
    else:
        quality = f"RMSE {np.sqrt(np.mean((values - yt) ** 2)):.3f}"
    line = f"{Path(path).stem:<14}" + "".join(f"{cell:>8}" for cell in cells)
    return f"{line}{merged:>8}  {quality}", good


def main() -> int:
    """Run, check, print; 0 if every check held."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="+", help=".npz files")
    parser.add_argument("--rows", type=int, default=4000)
    arguments = parser.parse_args()
    names = ["none", *(f"rank {rank}" for rank in RANKS[1:])]
    print(f"{'steps':<14}" + "".join(f"{name:>8}" for name in names) + f"{'merged':>8}")
    good = True
    for path in arguments.data:
        with tempfile.TemporaryDirectory() as folder:
            line, held = measure(path, arguments.rows, Path(folder))
        print(line, flush=True)
        good &= held
    print("all checks held" if good else "CHECK FAILED: runs marked ! missed a check")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
