"""Solver steps by preconditioner and rank, on real data.

    python benchmarks/bench_solver.py kin40k.npz bike.npz cifar10_5k.npz
    python benchmarks/bench_solver.py --full kin40k.npz

Each file holds x_train, y_train, x_test, y_test: tables with a real target (standardized, like the
features, with the training rows) or uint8 images with labels. The first 4,000 training rows are
fitted without a ridge with a ReLU network of three hidden layers. Steps are the smallest, the
median and the largest over five seeds where a preconditioner draws random numbers. Every answer
must have a true residual of at most 1e-6, and predictions must agree between preconditioners,
before steps are printed.

With ``--full``, all training rows: without a ridge, and with the one of a path that is best on a
fifth of the training rows held out; error on the test rows, steps, seconds and bytes. The second
fit finds the Gram matrix of the first.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import warnings
from pathlib import Path
from statistics import median

import numpy as np
from bench_cifar import network
from sklearn.exceptions import ConvergenceWarning

from ntk_dist import NTKClassifier, NTKRegressor

TOL = 1e-6
SEEDS = 5
PRECONDITIONERS = {
    "none": ("none", "auto"),
    "jacobi": ("jacobi", "auto"),
    **{f"rpc {rank}": ("rpcholesky", rank) for rank in (100, 400, 1000)},
    **{f"nys {rank}": ("nystrom", rank) for rank in (100, 400)},
}
AGREE = 1e-3
"""Largest difference of predictions between preconditioners, in standard deviations of the
target."""
RIDGES = (0.0, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Added to a diagonal between 1 and 10."""

Data = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def load(path: str, rows: int | None) -> tuple[Data, bool]:
    """The arrays of a file, targets standardized, and whether they are labels."""
    with np.load(path) as archive:
        x, y, xt, yt = (archive[k] for k in ("x_train", "y_train", "x_test", "y_test"))
    x, y = x[:rows], y[:rows]
    labels = y.dtype.kind != "f"
    if not labels:
        y, yt = (y - y.mean()) / y.std(), (yt - y.mean()) / y.std()
    return (x, y, xt, yt), labels


def fit(labels: bool, folder: Path, x: np.ndarray, y: np.ndarray, **options: object) -> object:
    """A fitted model whose blocks are kept in ``folder``."""
    kind = NTKClassifier if labels else NTKRegressor
    model = kind(network(), preprocess=["standardize"], workspace=folder, tol=TOL, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the checks say it
        return model.fit(x, y)


def decide(model: object, xt: np.ndarray) -> np.ndarray:
    """Predictions, or class values."""
    return model.decision_function(xt) if hasattr(model, "classes_") else model.predict(xt)


def quality(model: object, values: np.ndarray, xt: np.ndarray, yt: np.ndarray) -> str:
    """Accuracy, or error in standard deviations."""
    if hasattr(model, "classes_"):
        return f"accuracy {model.score(xt, yt):.3f}"
    return f"RMSE {np.sqrt(np.mean((values - yt) ** 2)):.3f}"


def measure(path: str, rows: int, folder: Path) -> tuple[str, bool]:
    """One line of the table, and whether every check held."""
    (x, y, xt, yt), labels = load(path, rows)
    good, cells, reference = True, [], None
    for name, rank in PRECONDITIONERS.values():
        steps, held = [], True
        for seed in range(SEEDS if rank != "auto" else 1):
            model = fit(labels, folder, x, y, preconditioner=name, rank=rank, random_state=seed)
            steps.append(model.report_.iterations)
            held &= max(model.report_.residuals) <= TOL
            if seed == 0:
                values = decide(model, xt)
                reference = values if reference is None else reference
                held &= float(np.abs(values - reference).max()) <= AGREE
        good &= held
        spread = f"{min(steps)} {median(steps):g} {max(steps)}" if len(steps) > 1 else f"{steps[0]}"
        cells.append(f"{spread}{'' if held else '!'}")
    merged = model.report_.n_rows - model.report_.n_unique
    line = f"{Path(path).stem:<12}" + "".join(f"{cell:>13}" for cell in cells)
    return f"{line}{merged:>8}  {quality(model, values, xt, yt)}", good


def measure_full(path: str, rows: int | None, folder: Path, rank: int | str = "auto") -> bool:
    """Print a line without a ridge and two with one chosen; whether every check held."""
    (x, y, xt, yt), labels = load(path, rows)
    good = True
    for ridge in (0.0, RIDGES):
        start = time.perf_counter()
        model = fit(labels, folder, x, y, ridge=ridge, rank=rank)
        seconds = time.perf_counter() - start
        report = model.report_
        held = max(report.residuals) <= TOL
        good &= held
        told = quality(model, decide(model, xt), xt, yt)
        phases = " ".join(
            f"{name} {report.seconds[name]:.1f}"
            for name in ("gram", "ridge", "precondition", "solve")
            if name in report.seconds
        )
        print(
            f"{Path(path).stem:<10}{len(x):>7} rows, {len(x) - report.n_unique} merged, ridge "
            f"{report.solve.ridge:<6g}{' (chosen)' if report.ridge_scores else '         '}  {told}"
            f"  {report.iterations:>4} steps{'' if held else '!'} rank "
            f"{report.solve.preconditioner_rank}  {max(report.residuals):.1e}  {seconds:6.1f} s "
            f"({phases})  Gram {report.gram.n_bytes / 1e9:.2f} GB, factor "
            f"{report.solve.preconditioner_bytes / 1e6:.0f} MB",
            flush=True,
        )
        if report.ridge_scores:
            scores = ", ".join(
                f"{s.ridge:g}: {s.error:.4f}{'' if s.has_converged else f' ({s.residual:.0e})'}"
                for s in report.ridge_scores
            )
            print(f"{'':<10}held-out error (residual where not converged) {scores}", flush=True)
    return good


def main() -> int:
    """Run, check, print; 0 if every check held."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="+", help=".npz files")
    parser.add_argument("--rows", type=int, help="training rows: 4000, or all with --full")
    parser.add_argument("--full", action="store_true", help="a ridge chosen on held-out rows")
    parser.add_argument("--rank", type=int, help="of the preconditioner, with --full")
    arguments = parser.parse_args()
    rows = arguments.rows if arguments.full or arguments.rows else 4000
    if not arguments.full:
        title = "".join(f"{name:>13}" for name in PRECONDITIONERS)
        print(f"{'steps':<12}{title}{'merged':>8}")
    good = True
    for path in arguments.data:
        with tempfile.TemporaryDirectory() as folder:
            if arguments.full:
                good &= measure_full(path, rows, Path(folder), arguments.rank or "auto")
            else:
                line, held = measure(path, rows, Path(folder))
                print(line, flush=True)
                good &= held
    print("all checks held" if good else "CHECK FAILED: runs marked ! missed a check")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
