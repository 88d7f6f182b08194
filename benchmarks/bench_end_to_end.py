"""All of CIFAR-10 at once, out of core: Gram matrix, ridgeless solve, predictions, and the cost.

    python benchmarks/bench_end_to_end.py cifar10_jpeg.npz --n 50000

The file holds train_jpeg and test_jpeg (the bytes of all images, one after another), their
..._offsets and ..._labels. A ReLU network with three hidden layers (W_std = sqrt 2, b_std = 0.1
everywhere) is fitted without a ridge on standardized features, with fewer resident blocks than the
matrix has, and predicts 10,000 images. The dense route, scikit-learn's KernelRidge on a precomputed
Gram matrix, runs beside it at the most rows that memory and LAPACK bear. First both answer the same
on 4,000 rows; then projected and measured bytes, the peak of resident memory and the seconds of
every phase are printed. ``synthetic`` in place of a file runs the same on a few random images.
"""

from __future__ import annotations

import argparse
import io
import math
import multiprocessing
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from bench_cifar import network
from machine import describe_machine

from ntk_dist import NTKClassifier
from ntk_dist.events import Event, PhaseEvent, StepEvent
from ntk_dist.settings import available_memory, get_settings
from ntk_dist.units import format_bytes, format_seconds

TOL = 1e-6
CHECKED_ROWS = 4000
AGREE = 1e-4
"""Largest difference of class values between both routes; targets are 0.9 and -0.1."""
DENSE_BYTES = 44
"""Of an entry in the dense route: float32 as computed, and float64 as given, kept, checked and
factored. With 37 of them it ran out of memory."""
DENSE_ROWS = 12_000
"""scikit-learn has SciPy factor the matrix in one call of LAPACK, which at 20,000 rows and with two
threads ends in a segmentation fault (OpenBLAS 0.3.30). Our own solver 'direct' factors in panels
and goes on to what memory holds, but it is no peer to compare with."""
SHARE_OF_MEMORY = 0.85
SAMPLE_EVERY_S = 0.05
SHARD_BYTES = 2**31
"""Memory for blocks, unless ``NTK_DIST_SHARD_MAX_BYTES`` says another: less than they take."""


@dataclass
class Data:
    """Images as rows of features, shuffled with a fixed seed, and their labels."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


def load(source: str, n: int, n_test: int) -> Data:
    """So many training and test rows; uint8 images of one channel count each."""
    if source == "synthetic":
        rng = np.random.default_rng(0)
        labels = rng.integers(10, size=n + n_test)
        images = rng.normal(size=(10, 48))[labels] + rng.normal(size=(n + n_test, 48))
        return Data(images[:n], labels[:n], images[n:], labels[n:])
    with np.load(source) as archive:
        train, test = (
            _decoded(archive, part, most) for part, most in (("train", n), ("test", n_test))
        )
    return Data(*train, *test)


def _decoded(archive: Any, part: str, most: int) -> tuple[np.ndarray, np.ndarray]:
    from PIL import Image

    labels, offsets = archive[f"{part}_labels"], archive[f"{part}_offsets"]
    data = archive[f"{part}_jpeg"].tobytes()
    order = np.random.default_rng(0).permutation(len(labels))[:most]
    images = [Image.open(io.BytesIO(data[offsets[i] : offsets[i + 1]])) for i in order]
    return np.stack([np.asarray(image).reshape(-1) for image in images]), labels[order]


@dataclass
class Meter:
    """Peak of resident memory in every phase, of this process and those it started."""

    peaks: dict[str, int] = field(default_factory=dict)
    phase: str = "start"
    steps: int = 0
    _ended: threading.Event = field(default_factory=threading.Event)

    def __call__(self, event: Event) -> None:
        """Follow the phases; an event sink."""
        match event:
            case PhaseEvent(state="started"):
                self.phase = event.phase
            case StepEvent():
                self.steps = event.step

    @contextmanager
    def running(self) -> Iterator[None]:
        """Sample memory meanwhile."""
        sampler = threading.Thread(target=self._sample)
        sampler.start()
        try:
            yield
        finally:
            self._ended.set()
            sampler.join()

    def _sample(self) -> None:
        me = psutil.Process()
        while not self._ended.wait(SAMPLE_EVERY_S):
            total = 0
            for process in (me, *me.children(recursive=True)):
                try:
                    total += process.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            self.peaks[self.phase] = max(total, self.peaks.get(self.phase, 0))


def out_of_core(data: Data, executor: str, workspace: Path) -> dict[str, Any]:
    """The main job: what it answers, what it took, and what was projected."""
    model = NTKClassifier(
        network(), preprocess=["standardize"], executor=executor, workspace=workspace, tol=TOL
    )
    plan = model.plan(data.x_train)
    meter = Meter()
    with meter.running():
        model.fit(data.x_train, data.y_train, on_event=meter)
        begin = time.perf_counter()
        meter.phase = "predict"
        values = model.decision_function(data.x_test)
        seconds = {**model.report_.seconds, "predict": time.perf_counter() - begin}
    stored = sum(f.stat().st_size for f in workspace.rglob("grams/*/ntk/c/*/*"))
    return {
        "values": values,
        "classes": model.classes_,
        "report": model.report_,
        "projected_bytes": plan.gram_bytes,
        "stored_bytes": stored,
        "peaks": meter.peaks,
        "seconds": seconds,
    }


def dense(data: Data) -> dict[str, Any]:
    """scikit-learn's KernelRidge on the whole matrix, which our engine computes in one piece."""
    from sklearn.kernel_ridge import KernelRidge
    from sklearn.preprocessing import StandardScaler

    seconds: dict[str, float] = {}
    peaks = Meter()

    @contextmanager
    def phase(name: str) -> Iterator[None]:
        peaks.phase = name
        begin = time.perf_counter()
        yield
        seconds[name] = time.perf_counter() - begin

    with peaks.running():
        scaler = StandardScaler().fit(data.x_train.astype(np.float64))
        x, new = (scaler.transform(each).astype(np.float32) for each in (data.x_train, data.x_test))
        targets = np.eye(10)[data.y_train] - 0.1
        with phase("gram"):
            gram = network().kernel_fn(x, None, "ntk")
        with phase("solve"):
            ridge = KernelRidge(alpha=0.0, kernel="precomputed")
            ridge.fit(gram.astype(np.float64), targets)
        del gram
        with phase("predict"):
            values = ridge.predict(network().kernel_fn(new, x, "ntk"))
    return {"values": values, "seconds": seconds, "peaks": peaks.peaks}


def apart(function: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """In a process of its own, so that nobody pays for another's memory."""
    # Not a Pool, which waits for ever for a process that ran out of memory.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def check(data: Data, executor: str) -> bool:
    """Whether both routes answer the same."""
    few = Data(
        data.x_train[:CHECKED_ROWS], data.y_train[:CHECKED_ROWS], data.x_test[:1000], data.y_test
    )
    with tempfile.TemporaryDirectory() as folder:
        ours = apart(out_of_core, few, executor, Path(folder))
    theirs = apart(dense, few)
    difference = float(np.abs(ours["values"] - theirs["values"]).max())
    print(
        f"{len(few.x_train)} rows: class values of both routes differ by {difference:.1e} "
        f"(at most {AGREE})"
    )
    return difference <= AGREE


def main() -> int:
    """Run, check, print; 0 if every check held."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="an .npz file of JPEG images, or 'synthetic'")
    parser.add_argument("--n", type=int, default=50_000, help="training rows")
    parser.add_argument("--n-test", type=int, default=10_000, help="rows to predict")
    parser.add_argument("--dense-n", type=int, help="rows of the dense route; 0 leaves it out")
    parser.add_argument("--executor", default="local")
    parser.add_argument("--workspace", help="folder for the blocks, kept; else a temporary one")
    arguments = parser.parse_args()
    os.environ.setdefault("NTK_DIST_SHARD_MAX_BYTES", str(SHARD_BYTES))
    print(describe_machine(get_settings().threads))
    most = math.isqrt(int(SHARE_OF_MEMORY * available_memory() / DENSE_BYTES))
    fits = min(DENSE_ROWS, most // 1000 * 1000)
    dense_n = fits if arguments.dense_n is None else arguments.dense_n
    data = load(arguments.data, arguments.n, arguments.n_test)
    good = check(data, arguments.executor)
    with tempfile.TemporaryDirectory() as folder:
        workspace = Path(arguments.workspace or folder)
        run = apart(out_of_core, data, arguments.executor, workspace)
    report = run["report"]
    residual = max(report.residuals)
    good &= report.solve.status.is_success and residual <= TOL
    accuracy = np.mean(run["classes"][run["values"].argmax(axis=1)] == data.y_test)
    print(
        f"\n{len(data.x_train)} rows, {arguments.executor}: {report.iterations} steps, "
        f"preconditioner of rank {report.solve.preconditioner_rank}, largest true residual "
        f"{residual:.1e}, accuracy {accuracy:.4f} on {len(data.x_test)} rows"
    )
    print(
        f"blocks: projected {format_bytes(run['projected_bytes'])}, stored "
        f"{format_bytes(run['stored_bytes'])}; at most "
        f"{format_bytes(get_settings().shard_max_bytes)} of them in memory"
    )
    _print_phases(run)
    if dense_n:
        some = Data(data.x_train[:dense_n], data.y_train[:dense_n], data.x_test, data.y_test)
        run = apart(dense, some)
        accuracy = np.mean(run["values"].argmax(axis=1) == data.y_test)
        print(f"\n{len(some.x_train)} rows, dense: accuracy {accuracy:.4f}")
        _print_phases(run)
    print("all checks held" if good else f"CHECK FAILED: agreement {AGREE}, residual {TOL}")
    return 0 if good else 1


def _print_phases(run: dict[str, Any]) -> None:
    for phase, seconds in run["seconds"].items():
        peak = run["peaks"].get(phase)
        memory = "" if peak is None else f"   peak {format_bytes(peak)} resident"
        print(f"  {phase:<14}{format_seconds(seconds):>10}{memory}")
    total = format_seconds(sum(run["seconds"].values()))
    print(f"  {'all':<14}{total:>10}   peak {format_bytes(max(run['peaks'].values()))} resident")


if __name__ == "__main__":
    sys.exit(main())
